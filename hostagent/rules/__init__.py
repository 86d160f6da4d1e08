"""Pure decisions, a file a subject: values in, values out. No clock, no file, no libvirt."""
