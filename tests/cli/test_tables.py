"""What is printed for people: aligned, and harmless whatever a guest is called or says."""

from types import SimpleNamespace

import libvirt
import pytest

from hostagent.adapters.libvirt.errors import LONGEST, translate
from hostagent.cli.messages import show_error
from hostagent.cli.tables import offset, plain, table
from hostagent.core.errors import RefusedError


def test_columns_are_aligned_and_uncut() -> None:
    assert table(["A", "B"], [["long name", "x"], ["y", "z" * 200]]).splitlines() == [
        "A          B",
        "long name  x",
        f"y          {'z' * 200}",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("g1 (röck)", "g1 (röck)"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_nothing_that_moves_a_cursor_is_printed(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert table(["A"], [[text]]).splitlines()[1] == shown


@pytest.mark.parametrize(
    ("offset_s", "shown"),
    [
        (None, "-"),
        (0.0, "+0us"),
        (-0.000_2, "-200us"),
        (0.009_4, "+9400us"),
        (-0.012_3, "-12ms"),
        (3.2, "+3200ms"),
        (-90_000.0, "-90000s"),
    ],
)
def test_an_offset_is_signed_and_short(offset_s: float | None, shown: str) -> None:
    assert offset(offset_s) == shown


def test_an_error_that_names_it_is_harmless_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(RefusedError("no guest \x1b[2J", hint="\x1b[0m"), as_json=False)
    assert capsys.readouterr().err == "hostagent: no guest \\x1b[2J\n  \\x1b[0m\n"


def test_what_an_agent_writes_is_cut() -> None:
    """libvirt passes on what a guest's agent says of its error, up to megabytes."""
    told = SimpleNamespace(
        get_error_message=lambda: "x" * 4_000_000,
        get_error_code=lambda: libvirt.VIR_ERR_INTERNAL_ERROR,
        get_error_domain=lambda: libvirt.VIR_FROM_QEMU,
    )
    assert len(translate(told).message) < LONGEST + 100
