"""The adapters against a real libvirtd and real guests."""
