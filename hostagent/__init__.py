"""hostagent: planned maintenance of KVM/libvirt hosts that guests hardly notice.

Nothing is imported here, so that `hostagent --help` and the guardian start fast.
"""

__version__ = "0.1.0"
