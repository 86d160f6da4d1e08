"""Every error code of libvirt has a meaning here, or is named as none of our business."""

import libvirt
import pytest

from hostagent.adapters.libvirt.errors import TABLE, UNCONCERNED, translate
from hostagent.core.errors import (
    HostagentError,
    LibvirtCallError,
    LibvirtUnreachableError,
    RefusedError,
)

NOT_CODES = {"VIR_ERR_NONE", "VIR_ERR_WARNING", "VIR_ERR_ERROR", "VIR_ERR_OK"}
"""Levels of errors (virErrorLevel), and success."""

CODES = {
    name: getattr(libvirt, name)
    for name in dir(libvirt)
    if name.startswith("VIR_ERR_") and name not in NOT_CODES
}


def raised(uri: str) -> libvirt.libvirtError:
    """The error that opening this URI really raises."""
    with pytest.raises(libvirt.libvirtError) as caught:
        libvirt.open(uri)
    return caught.value


def with_code(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("a call failed")
    error.err = (code, libvirt.VIR_FROM_QEMU, "told so", 2, None, None, None, 0, 0)
    return error


def test_no_code_is_forgotten() -> None:
    unconcerned = {CODES[f"VIR_ERR_{name}"] for name in UNCONCERNED}
    assert set(CODES.values()) == set(TABLE) | unconcerned
    assert not set(TABLE) & unconcerned


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_error_says_what_happened_and_what_to_do(name: str) -> None:
    error = translate(with_code(CODES[name]), "suspend guest g1")
    assert isinstance(error, HostagentError)
    assert error.message.startswith("suspend guest g1: ")
    assert "told so" in error.message
    assert error.hint


def test_a_code_of_a_newer_libvirt_is_an_error_all_the_same() -> None:
    assert isinstance(translate(with_code(9999)), LibvirtCallError)


def test_a_missing_socket_is_an_unreachable_libvirt() -> None:
    error = translate(raised("qemu:///session?socket=/nonexistent/libvirt-sock"))
    assert isinstance(error, LibvirtUnreachableError)
    assert error.exit_code == 4
    assert "/nonexistent/libvirt-sock" in error.message


def test_a_system_error_of_a_guest_is_not_an_unreachable_libvirt() -> None:
    error = translate(with_code(libvirt.VIR_ERR_SYSTEM_ERROR))
    assert not isinstance(error, LibvirtUnreachableError)


def test_an_unknown_guest_is_refused() -> None:
    assert isinstance(translate(with_code(libvirt.VIR_ERR_NO_DOMAIN)), RefusedError)
