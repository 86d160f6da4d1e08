"""The only rooms that touch the outside: libvirt, processes, files. They satisfy core.ports."""
