"""Which URIs are this very host, and which socket they mean."""

from pathlib import Path

import pytest

from hostagent.adapters.libvirt.uri import refuse_remote, socket_of, wanted
from hostagent.core.errors import RefusedError

LOCAL = ("", "qemu:///system", "qemu:///session?socket=/x/s", "qemu+unix:///system", "myalias")
REMOTE = (
    "qemu+ssh://root@host/system",
    "qemu+ssh:///system",
    "qemu+tls://host/system",
    "qemu+tcp://127.0.0.1/system",
    "qemu+libssh2://host/session",
    "qemu+ext:///system?command=/usr/bin/nc",
    "qemu://host/system",
)


@pytest.mark.parametrize("uri", LOCAL)
def test_a_local_uri_passes(uri: str) -> None:
    refuse_remote(uri)


@pytest.mark.parametrize("uri", REMOTE)
def test_a_remote_uri_is_refused_with_a_hint(uri: str) -> None:
    with pytest.raises(RefusedError) as caught:
        refuse_remote(uri)
    assert "that host itself" in caught.value.hint


@pytest.mark.parametrize("uri", ["xen:///system", "lxc:///", "test:///default"])
def test_another_hypervisor_is_refused(uri: str) -> None:
    with pytest.raises(RefusedError):
        refuse_remote(uri)


def test_a_given_socket_is_believed() -> None:
    assert socket_of("qemu:///session?socket=/x/libvirt-sock") == Path("/x/libvirt-sock")
    assert socket_of("qemu+unix:///session?mode=direct&socket=/x/s") == Path("/x/s")


def test_the_system_has_its_sockets_in_run() -> None:
    assert socket_of("qemu:///system?mode=legacy") == Path("/run/libvirt/libvirt-sock")
    assert socket_of("qemu:///system?mode=direct") == Path("/run/libvirt/virtqemud-sock")


def test_a_user_has_them_below_the_runtime_directory(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert socket_of("qemu:///session", environ) == tmp_path / "libvirt" / "libvirt-sock"
    direct = tmp_path / "libvirt" / "virtqemud-sock"
    direct.parent.mkdir()
    direct.touch()
    assert socket_of("qemu:///session", environ) == direct


def test_without_a_runtime_directory_they_are_in_the_cache() -> None:
    environ = {"XDG_CACHE_HOME": "/c"}
    assert socket_of("qemu:///session?mode=legacy", environ) == Path("/c/libvirt/libvirt-sock")


def test_an_empty_uri_is_what_libvirt_takes_from_the_environment() -> None:
    assert wanted("", {"LIBVIRT_DEFAULT_URI": "qemu+ssh://host/system"}).startswith("qemu+ssh")
    assert wanted("qemu:///system", {"LIBVIRT_DEFAULT_URI": "x"}) == "qemu:///system"
