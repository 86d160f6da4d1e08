"""The way to another host, tried on sockets that listen, refuse, or hang, all of this machine.

`socket.getaddrinfo` is replaced in one test: no resolver that hangs can be made here.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.adapters.libvirt import addresses, way
from hostagent.adapters.libvirt.addresses import Spot
from hostagent.core.errors import LibvirtUnreachableError

S = 1_000_000_000
LOCAL = "qemu:///system"


def until(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * S)


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that answers nothing, as behind a firewall: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        number = int(listener.getsockname()[1])
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect(("127.0.0.1", number))
            yield number


@pytest.mark.parametrize(
    ("uri", "local", "transport"),
    [
        ("qemu:///system", True, ""),
        ("qemu+unix:///session?socket=/run/x", True, "unix"),
        ("qemu://h2/system", False, ""),
        ("qemu+ssh://root@h2/system", False, "ssh"),
        ("qemu+tcp://127.0.0.1/system", False, "tcp"),
        ("qemu+tls://[2001:db8::1]:1234/system", False, "tls"),
    ],
)
def test_local_and_remote_uris(uri: str, local: bool, transport: str) -> None:
    assert addresses.is_local(uri) is local
    assert addresses.transport(uri) == transport


@pytest.mark.parametrize(
    ("uri", "quiet"),
    [
        ("qemu+ssh://h2/system", "qemu+ssh://h2/system?no_tty=1"),
        ("qemu+ssh://h2/system?keyfile=/k", "qemu+ssh://h2/system?keyfile=/k&no_tty=1"),
        ("qemu+ssh://h2/system?no_tty=0", "qemu+ssh://h2/system?no_tty=0"),
        ("qemu+tcp://h2/system", "qemu+tcp://h2/system"),
        ("qemu:///system", "qemu:///system"),
        ("", ""),
    ],
)
def test_ssh_asks_nobody_for_a_password(uri: str, quiet: str) -> None:
    assert addresses.quiet(uri) == quiet


@pytest.mark.parametrize(
    ("uri", "spot"),
    [
        ("qemu+tcp://h2.invalid/system", Spot(host="h2.invalid", port=16509)),
        ("qemu+tls://h2.invalid/system", Spot(host="h2.invalid", port=16514)),
        ("qemu://h2.invalid/system", Spot(host="h2.invalid", port=16514)),
        ("qemu+ssh://root@h2.invalid/system", Spot(host="h2.invalid", port=22)),
        ("qemu+ssh://root@h2.invalid:2222/system", Spot(host="h2.invalid", port=2222)),
        ("qemu+tcp://[::1]:5/system", Spot(host="::1", port=5)),
        ("qemu+ext://h2.invalid/system?command=/bin/x", None),
    ],
)
def test_where_a_host_listens(uri: str, spot: Spot | None) -> None:
    assert addresses.spot(uri) == spot


def test_a_name_without_address_says_so_with_a_cure() -> None:
    with pytest.raises(LibvirtUnreachableError, match=r"nosuch\.invalid has no address") as caught:
        addresses.resolved("nosuch.invalid", until(10))
    assert "/etc/hosts" in caught.value.hint


def test_a_resolver_that_hangs_has_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(30))
    began = time.monotonic()
    with pytest.raises(LibvirtUnreachableError, match="resolver did not answer"):
        addresses.resolved("h2.invalid", until(0.3))
    assert time.monotonic() - began < 2
    released.set()


def test_connecting_says_why_not(port: int, closed_port: int, silent_port: int) -> None:
    assert addresses.connect("127.0.0.1", port, 2) == ""
    assert addresses.connect("127.0.0.1", closed_port, 2) == "connection refused"
    began = time.monotonic()
    assert addresses.connect("127.0.0.1", silent_port, 0.3) == "no answer in 0.3 s"
    assert time.monotonic() - began < 2
    assert addresses.connect("127.0.0.1", port, 0) == "no time was left to try"


def test_a_name_is_replaced_by_the_address_that_answers(port: int) -> None:
    uri = f"qemu+tcp://localhost:{port}/system"
    found = way.find(LOCAL, uri, 5 * S)
    assert found == way.Way(via=uri, stream="tcp://127.0.0.1")


def test_an_address_of_ipv6_is_bracketed() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with listener:
        uri = f"qemu+tls://[::1]:{listener.getsockname()[1]}/system"
        assert way.find(LOCAL, uri, 5 * S).stream == "tcp://[::1]"
        assert way.home_uri(uri) == uri


def test_no_way_is_found_in_time_and_says_what_to_look_at(
    closed_port: int, silent_port: int
) -> None:
    refused = way.find(LOCAL, f"qemu+tcp://127.0.0.1:{closed_port}/system", 5 * S)
    assert f"127.0.0.1:{closed_port} (connection refused)" in refused.unreachable
    assert "libvirtd-tcp.socket" in refused.unreachable
    assert refused.stream == ""
    began = time.monotonic()
    silent = way.find(LOCAL, f"qemu+ssh://root@127.0.0.1:{silent_port}/system", S // 2)
    assert "no answer" in silent.unreachable
    assert "ssh -o BatchMode=yes root@127.0.0.1 true" in silent.unreachable
    assert time.monotonic() - began < 3


def test_an_unknown_name_is_no_way() -> None:
    found = way.find(LOCAL, "qemu+tcp://nosuch.invalid/system", 10 * S)
    assert "has no address" in found.unreachable
    assert "/etc/hosts" in found.unreachable


def test_a_firewall_before_the_first_port_of_migrations_is_a_doubt(
    port: int, silent_port: int
) -> None:
    found = way.find(LOCAL, f"qemu+tcp://127.0.0.1:{port}/system", 5 * S, silent_port)
    assert found.unreachable == ""
    assert len(found.doubts) == 1
    assert "migration_port_min" in found.doubts[0]


def test_a_transport_of_somebody_elses_leaves_the_choice_to_libvirt() -> None:
    found = way.find(LOCAL, "qemu+ext://h2.invalid/system?command=/bin/x", 5 * S)
    assert (found.stream, found.unreachable) == ("", "")
    assert found.doubts


def test_two_of_a_users_own_libvirts_meet_in_the_run_directory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    source, there = (f"qemu:///session?socket={tmp_path / name}" for name in ("a", "b"))
    found = way.find(source, there, S)
    assert found.via == f"qemu+unix:///session?socket={tmp_path}/b"
    if len(str(tmp_path)) < 70:
        assert found.stream == f"unix://{tmp_path}/hostagent.sock"


def test_a_socket_with_too_long_a_name_is_not_used(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    (deep / "s").touch()
    uri = f"qemu:///session?socket={deep / 's'}"
    assert way.find(uri, uri, S).stream == "tcp://127.0.0.1"


def test_system_libvirts_on_one_machine_use_the_loopback() -> None:
    other = "qemu+unix:///system?socket=/run/other/libvirt-sock"
    found = way.find(LOCAL, other, S)
    assert (found.via, found.stream) == (other, "tcp://127.0.0.1")


def test_each_guest_has_a_socket_of_its_own() -> None:
    uuid = "526e6ab2-49f5-4070-8650-ceb8927c349f"
    one = way.stream_of("unix:///run/x/hostagent.sock", uuid)
    assert one == "unix:///run/x/hostagent-526e6ab249f5.sock"
    assert one != way.stream_of("unix:///run/x/hostagent.sock", uuid[::-1])
    assert way.stream_of("tcp://10.0.0.1", uuid) == "tcp://10.0.0.1"
    assert way.stream_of("", uuid) == ""


def test_the_way_back_is_this_hosts_address_on_the_route_there() -> None:
    assert way.home_uri("qemu+tcp://localhost:1234/session?no_verify=1&keyfile=/k") == (
        "qemu+tcp://127.0.0.1:1234/session?no_verify=1"
    )
    assert way.home_uri("qemu+ssh://root@127.0.0.1/system?socket=/x") == (
        "qemu+ssh://root@127.0.0.1/system"
    )
    own = "qemu:///session?socket=/run/own"
    assert way.home_uri("qemu+unix:///session?socket=/run/other", own) == (
        "qemu+unix:///session?socket=/run/own"
    )


def test_a_way_back_that_is_not_known_asks_for_it() -> None:
    with pytest.raises(LibvirtUnreachableError) as caught:
        way.home_uri("qemu+ext://h2.invalid/system?command=/bin/x")
    assert "--home URI" in caught.value.hint


def test_from_elsewhere_to_this_host(port: int, closed_port: int) -> None:
    found = way.find(f"qemu+tcp://127.0.0.1:{port}/session", LOCAL, 5 * S)
    assert found.via == f"qemu+tcp://127.0.0.1:{port}/system"
    assert found.stream == "tcp://127.0.0.1"
    assert found.unreachable == ""
    assert "not from 127.0.0.1" in found.doubts[0]
    nothing = way.find(f"qemu+tcp://127.0.0.1:{closed_port}/session", LOCAL, 5 * S)
    assert "nothing listens here" in nothing.unreachable
    unknown = way.find("qemu+tcp://nosuch.invalid/system", LOCAL, 5 * S)
    assert "has no address" in unknown.unreachable


def test_between_two_hosts_elsewhere_the_way_is_in_doubt(port: int) -> None:
    found = way.find("qemu+tcp://10.0.0.1/system", f"qemu+tcp://127.0.0.1:{port}/system", 5 * S)
    assert found.stream == "tcp://127.0.0.1"
    assert "not from 10.0.0.1" in found.doubts[-1]
