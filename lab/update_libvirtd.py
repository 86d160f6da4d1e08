"""A real update for demo and tests: a host's libvirtd is replaced by a fresh copy and restarted.

Layer: lab, above hosts; also a program of its own: `python -m lab.update_libvirtd LAB HOST`. It is
what a package update of libvirt does on a real host; it ends when the new daemon answers, has found
all its guests again and knows what its QEMU can do (it starts QEMU several times to find out, as
after every change of its own file; until then no guest could be started). Nothing in it sleeps.
"""

import sys

from lab.host import Host
from lab.lab import Lab
from lab.tools import run


def replace(host: Host) -> None:
    """Replace, restart, wait until it answers."""
    before = host.libvirtd()
    print(f"replacing {host.libvirtd_binary}", flush=True)
    host.replace_libvirtd_binary()
    print(f"restarting libvirtd (pid {before.pid if before else 'none'})", flush=True)
    host.restart_libvirtd()
    after = host.libvirtd()
    print(f"libvirtd answers again (pid {after.pid if after else 'none'})", flush=True)
    run("virsh", "-c", host.uri, "domcapabilities")
    print("libvirtd knows what its QEMU can do", flush=True)


def main() -> None:
    """For the command line."""
    name, host_name = sys.argv[1:]
    replace(Lab.attach(name).host(host_name))


if __name__ == "__main__":
    main()
