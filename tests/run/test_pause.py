"""A plain run: guests stand still for the command, and run again; figures agree with a witness."""

from lab import Witness
from tests.run.tool import Agent

AGREE_S = 0.002


def test_guests_stand_still_while_the_command_runs(
    agent: Agent, witnesses: dict[str, Witness]
) -> None:
    ended = agent.run("run", "--", "sleep", "1")
    assert ended.code == 0, ended.stderr
    assert ended.document["result"] == "done"
    assert ended.document["update"]["exit_code"] == 0
    for name, witness in witnesses.items():
        (pause,) = witness.pauses()
        assert pause.duration_ns is not None
        report = ended.guest(name)
        assert report["result"] == "paused"
        assert report["pause_source"] == "events"
        assert abs(report["pause_s"] - pause.duration_ns / 1e9) < AGREE_S
        assert 1.0 <= report["pause_s"] < 1.5
        assert witness.status() == "running"
