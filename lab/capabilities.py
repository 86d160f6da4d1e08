"""What libvirt found out about QEMU, kept from one light host to the next: it takes seconds.

Layer: lab, above the cache. libvirtd starts QEMU several times to learn what it can do and keeps
the answers in its cache directory, which is a new one on every light host. Invariant: libvirt
itself judges whether an answer is still good (QEMU's and its own version and change time, kvm);
only the change time of the host's own copy of libvirtd is put in, since that copy is new each
time though its content is not. Effects: files in the cache and in a host's directory.
"""

import re
from contextlib import suppress
from pathlib import Path

from lab.cache import cache_directory

PLACE = "qemu-capabilities"


def give(binary: Path, place: Path) -> None:
    """Put kept answers where a libvirtd that is started from `binary` looks for them."""
    changed = f"<selfctime>{int(binary.stat().st_ctime)}</selfctime>"
    for kept in (cache_directory() / PLACE).glob("*.xml"):
        text = re.sub(r"<selfctime>\d+</selfctime>", changed, kept.read_text())
        (place / kept.name).write_text(text)


def keep(place: Path) -> None:
    """Keep the answers of a host that is up; two that do it at once leave one whole file."""
    kept = cache_directory() / PLACE
    kept.mkdir(parents=True, exist_ok=True)
    for answers in place.glob("*.xml"):
        fresh = kept / f"{answers.name}.{place.parts[2]}"
        with suppress(OSError):
            fresh.write_bytes(answers.read_bytes())
            fresh.rename(kept / answers.name)
