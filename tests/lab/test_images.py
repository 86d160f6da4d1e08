"""Images are built beside the machine's own files, never over them."""

from pathlib import Path

from lab.images import libraries_used

LISTING = """\
\tlinux-vdso.so.1 (0x00007ffd2b1f2000)
\tlibglib-2.0.so.0 => /scratch/tree/usr/lib/x86_64-linux-gnu/libglib-2.0.so.0 (0x00007f)
\tlibc.so.6 => /scratch/tree/lib/x86_64-linux-gnu/libc.so.6 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 => /scratch/tree/lib/ld-linux-x86-64.so.2 (0x00007f)
"""


def test_the_loader_is_not_laid_out_by_its_absolute_name() -> None:
    assert libraries_used(LISTING) == [
        Path("/scratch/tree/usr/lib/x86_64-linux-gnu/libglib-2.0.so.0"),
        Path("/scratch/tree/lib/x86_64-linux-gnu/libc.so.6"),
    ]
