"""The lowest room: values, the journal's fold and the ports. Standard library only, no I/O."""
