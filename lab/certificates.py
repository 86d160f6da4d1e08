"""Certificates for libvirtd and QEMU of full tier hosts, from an authority of the lab's own.

Layer: lab. Invariants: keys are made anew for each authority and go away with the lab; a host has
one certificate, as a server and as a client, for its name and its address. Effects: files below the
authority's directory and below /etc/pki of a host's root. Errors: CannotRun (openssl is missing).
The places are libvirt's: https://libvirt.org/kbase/tlscerts.html, and /etc/pki/qemu for a stream of
QEMU's own TLS.
"""

import shutil
from pathlib import Path

from lab.tools import run

DAYS = 30
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Signs certificates of hosts."""

    def __init__(self, place: Path) -> None:
        """Make one, in a directory of its own."""
        place.mkdir(parents=True)
        self._place = place
        self._key, self.certificate = place / "ca.key", place / "ca.pem"
        run(
            *("openssl", "req", "-x509", *NEW_KEY, "-days", str(DAYS), "-subj", "/CN=halab"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def certify(self, root: Path, name: str, address: str) -> None:
        """Give a host a certificate that those who trust this authority believe; `address` may be
        empty, as it often is: then it is made out to the name alone."""
        key, signed = self._place / f"{name}.key", self._place / f"{name}.pem"
        run(
            *("openssl", "req", "-x509", *NEW_KEY, "-days", str(DAYS), "-subj", f"/CN={name}"),
            *("-CA", self.certificate, "-CAkey", self._key, "-keyout", key, "-out", signed),
            *("-addext", f"subjectAltName=DNS:{name}{f',IP:{address}' if address else ''}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
        )
        pki = root / "etc/pki"
        for place, source in (
            ("CA/cacert.pem", self.certificate),
            ("libvirt/servercert.pem", signed),
            ("libvirt/clientcert.pem", signed),
            ("libvirt/private/serverkey.pem", key),
            ("libvirt/private/clientkey.pem", key),
            ("qemu/ca-cert.pem", self.certificate),
            ("qemu/server-cert.pem", signed),
            ("qemu/client-cert.pem", signed),
            ("qemu/server-key.pem", key),
            ("qemu/client-key.pem", key),
        ):
            (pki / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, pki / place)
