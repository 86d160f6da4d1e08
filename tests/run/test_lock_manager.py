"""Where guests hold leases on their disks, QEMU is never driven behind libvirt's back.

Layer: tests. With lock_manager = "lockd" a guest resumed on its own monitor would run without its
lease. A light host's libvirtd starts its own virtlockd, which goes with the host. Judged by
witnesses.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from lab import Guest, Witness
from lab.light import LightHost
from tests.run.faults import Update, kill_libvirtd, wait_no_guardian
from tests.run.tool import Agent

REFUSAL = "lock_manager"


def configure(host: LightHost, line: str) -> Path:
    """Append a line to the host's qemu.conf, and have libvirtd read it."""
    file = host.config_directory / "qemu.conf"
    file.write_text(file.read_text() + line + "\n")
    host.restart_libvirtd()
    return file


def dry_run(agent: Agent) -> list[str]:
    """The warnings of a dry run."""
    ended = agent.run("run", "--dry-run", "--", "true")
    assert ended.code == 0, ended.stdout
    return ended.document["warnings"]


def test_no_qmp_where_guests_hold_leases(
    fresh_light_host: LightHost,
    witness: Callable[[Guest], Witness],
    tmp_path: Path,
    marked_env: dict[str, str],
) -> None:
    """libvirtd is killed for good in mid-pause: guests wait until it is started again."""
    agent = Agent(fresh_light_host, tmp_path / "state", marked_env)
    assert dry_run(agent) == []
    configure(fresh_light_host, "# lock_manager = 'sanlock'")
    assert dry_run(agent) == [], "a comment is no setting"
    for guest in fresh_light_host.guests:
        guest.destroy()
    configure(fresh_light_host, 'lock_manager = "lockd"')
    for guest in fresh_light_host.guests:
        guest.start()
    assert (fresh_light_host.socket.parent / "virtlockd-sock").exists()
    assert any(REFUSAL in warning for warning in dry_run(agent))

    plain = agent.run("run", "--", "true")
    assert plain.code == 0, plain.stdout
    assert any(REFUSAL in warning for warning in plain.document["warnings"])

    witnesses = [witness(guest) for guest in fresh_light_host.guests]
    update = Update(tmp_path, f"{kill_libvirtd(fresh_light_host, signal.SIGKILL)}; time.sleep(1)")
    ended = agent.run("run", "--", *update.words)
    assert ended.code == 1, ended.stdout
    assert ended.document["result"] == "resume-failed"
    assert REFUSAL in ended.document["reason"]
    time.sleep(1)  # in which a guardian that did not know could do it
    names = [event.name for each in witnesses for event in each.events]
    assert [name for name in names if name != "RTC_CHANGE"] == ["STOP"] * 2
    fresh_light_host.start_libvirtd()
    for each in witnesses:
        each.wait_for("RESUME", timeout_s=3)
        assert each.status() == "running"
    wait_no_guardian(agent)
    after = agent.run("run", "--", "true")
    assert after.code == 0, after.stdout


def test_a_configuration_that_nobody_can_read_may_have_a_lock_manager(
    agent: Agent, light_host: LightHost
) -> None:
    file = light_host.config_directory / "qemu.conf"
    aside = file.with_suffix(".aside")
    file.rename(aside)
    file.mkdir()
    try:
        assert any("could not be read" in warning for warning in dry_run(agent))
        ended = agent.run("run", "--", "true")
    finally:
        file.rmdir()
        aside.rename(file)
    assert ended.code == 0, ended.stdout
    assert any("could not be read" in warning for warning in ended.document["warnings"])
    assert dry_run(agent) == []
