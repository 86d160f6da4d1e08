"""The demo's update: a host's own libvirtd is replaced by a fresh copy and restarted.

Layer: lab, a program of its own: `python -m lab.update_libvirtd LAB HOST`. It is what a package
update of libvirt does on a real host, on the light tier's private copy; it ends when the new daemon
answers and has found all its guests again. Nothing in it sleeps.
"""

import sys

from lab.lab import Lab


def main() -> None:
    """Replace, restart, wait until it answers."""
    name, host_name = sys.argv[1:]
    host = Lab.attach(name).host(host_name)
    before = host.libvirtd()
    print(f"replacing {host.libvirtd_binary}", flush=True)
    host.replace_libvirtd_binary()
    print(f"restarting libvirtd (pid {before.pid if before else 'none'})", flush=True)
    host.restart_libvirtd()
    after = host.libvirtd()
    print(f"libvirtd answers again (pid {after.pid if after else 'none'})", flush=True)


if __name__ == "__main__":
    main()
