"""Commands to a guest's agent that libvirt has no call of its own for: guest-info, guest-exec.

Layer: adapters. These taint the guest (virDomainQemuAgentCommand), so they are only for what cannot
be had otherwise. Whatever a guest sends is hostile until it is looked at: at most 1 MiB, at most 64
levels deep, numbers that are numbers; anything else is `Nonsense`. Protocol: QEMU Guest Agent
Protocol Reference (https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html).
"""

import base64
import binascii
import json
import re
import time
from typing import Any

import libvirt
import libvirt_qemu

from hostagent.core.clock import Abilities

LIMIT_S = 2
LARGEST = 1024 * 1024
DEEPEST = 64
POLL_S = 0.005
"""guest-exec-status has to be asked; a `date` is done in a few milliseconds."""

_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
"""Strings (an unfinished one to the end, so that none is looked at twice) and brackets."""


class Nonsense(Exception):
    """What came is no answer."""


class ExecFailed(Exception):
    """The program in the guest did not succeed; what it had to say."""


def abilities(domain: libvirt.virDomain) -> Abilities:
    """Which commands the agent offers. Raises libvirtError, Nonsense."""
    commands = _ask(domain, "guest-info").get("supported_commands")
    if not isinstance(commands, list):
        raise Nonsense("guest-info without supported_commands")
    named = [each for each in commands if isinstance(each, dict)]
    return Abilities(
        enabled=frozenset(
            each["name"]
            for each in named
            if each.get("enabled") is True and isinstance(each.get("name"), str)
        )
    )


def run(domain: libvirt.virDomain, program: str, words: list[str]) -> None:
    """Run a program in the guest and wait for its end. Raises libvirtError, Nonsense, ExecFailed,
    TimeoutError."""
    until = time.monotonic() + LIMIT_S
    arguments = {"path": program, "arg": words, "capture-output": True}
    pid = _ask(domain, "guest-exec", arguments).get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise Nonsense("guest-exec without a pid")
    status = _await_end(domain, pid, until)
    if status.get("exitcode") != 0:
        raise ExecFailed(f"{program} in the guest failed: {_output(status)}")


def _await_end(domain: libvirt.virDomain, pid: int, until: float) -> dict[str, Any]:
    """What guest-exec-status says of a program that has ended. Raises TimeoutError."""
    while time.monotonic() < until:
        status = _ask(domain, "guest-exec-status", {"pid": pid})
        if status.get("exited") is True:
            return status
        time.sleep(POLL_S)
    raise TimeoutError(f"process {pid} in the guest")


def _output(status: dict[str, Any]) -> str:
    """What the program wrote to its standard error, as far as it can be shown."""
    written = status.get("err-data", "")
    try:
        text = base64.b64decode(written, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError, TypeError):
        text = ""
    return " ".join(text.split()) or "it said nothing"


def _ask(
    domain: libvirt.virDomain, command: str, arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The object that a command returns. Raises libvirtError, Nonsense."""
    request = {"execute": command, **({"arguments": arguments} if arguments else {})}
    reply = libvirt_qemu.qemuAgentCommand(domain, json.dumps(request), LIMIT_S, 0)
    answer = parse(reply).get("return")
    if not isinstance(answer, dict):
        raise Nonsense(f"{command} returned no object")
    return answer


def parse(reply: str) -> dict[str, Any]:
    """One reply of an agent. Raises Nonsense."""
    if len(reply) > LARGEST:
        raise Nonsense(f"a reply of {len(reply)} bytes")
    if _is_too_deep(reply):
        raise Nonsense("a reply that is nested too deep")
    try:
        answer = json.loads(reply, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Nonsense(f"no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise Nonsense("a reply that is no object")
    return answer


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _is_too_deep(text: str) -> bool:
    """Whether brackets are nested too deep, those inside of strings left aside."""
    depth = 0
    for token in _TOKENS.finditer(text):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        if depth > DEEPEST:
            return True
    return False
