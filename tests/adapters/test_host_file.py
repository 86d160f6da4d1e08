"""A host's notes on disk: they outlive runs, torn lines and other hosts' lines."""

from pathlib import Path

import pytest

from hostagent.adapters.host_file import HostFile
from hostagent.core.errors import RefusedError
from hostagent.core.host_notes import (
    DRAIN,
    OPERATOR,
    CameHome,
    Cordoned,
    HostNotes,
    Uncordoned,
    WentAway,
)

UTC = "2026-01-01T00:00:00+00:00"
BY_HAND = Cordoned(owner=OPERATOR, reason="a fan is broken", utc=UTC)
BY_DRAIN = Cordoned(owner=DRAIN, reason="it is being drained", utc=UTC)


def away(name: str, uri: str = "qemu+ssh://h2/system", left: tuple[str, ...] = ()) -> WentAway:
    return WentAway(uuid=f"uuid-{name}", name=name, uri=uri, run="run-1", left=left)


@pytest.fixture
def book(tmp_path: Path) -> HostFile:
    return HostFile(tmp_path / "state", "host-1")


def test_without_a_file_there_is_nothing(book: HostFile) -> None:
    assert book.read() == HostNotes()


def test_two_owners_of_a_cordon_are_kept_apart(book: HostFile) -> None:
    book.write(BY_HAND)
    book.write(BY_DRAIN)
    book.write(Uncordoned(owner=DRAIN))
    assert book.read().cordons == (BY_HAND,)
    assert book.read().cordoned


def test_a_guest_is_away_until_it_is_home(book: HostFile) -> None:
    book.write(away("a", left=("/images/a.qcow2",)))
    book.write(away("b"))
    book.write(CameHome(uuid="uuid-a"))
    assert book.read().away == (away("b"),)


def test_the_newest_place_counts(book: HostFile) -> None:
    book.write(away("a"))
    book.write(away("a", "qemu+ssh://h3/system"))
    assert [each.uri for each in book.read().away] == ["qemu+ssh://h3/system"]


def test_a_torn_line_costs_only_itself(book: HostFile, tmp_path: Path) -> None:
    book.write(away("a"))
    with (tmp_path / "state/host.jsonl").open("ab") as file:
        file.write(b'{"host":"host-1","note":"went-aw')
    book.write(away("b"))
    assert [each.name for each in book.read().away] == ["a", "b"]


def test_hosts_of_one_state_directory_are_kept_apart(book: HostFile, tmp_path: Path) -> None:
    book.write(BY_HAND)
    assert HostFile(tmp_path / "state", "host-2").read() == HostNotes()


def test_a_place_that_can_not_be_used_is_refused_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    book = HostFile(tmp_path / "file", "host-1")
    with pytest.raises(RefusedError, match="can't be written") as refused:
        book.write(BY_HAND)
    assert "--state-dir" in refused.value.hint
