"""Puts everything together: the only place where rules, work and adapters meet.

site       one host's libvirt and one state directory: lock, recovery, runs
clocks     reading guests' clocks without a run
running    how any run begins, is driven and is finished
"""

from hostagent.wiring.site import Site, Unfinished

__all__ = ["Site", "Unfinished"]
