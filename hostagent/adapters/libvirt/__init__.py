"""Everything that speaks to libvirt, except the guardian's own emergency path.

Layer: adapters. Invariant: every call into libvirt has a time limit, whoever hangs. "Domain" is
libvirt's word for a guest and is used in this room only.
"""
