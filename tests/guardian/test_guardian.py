"""The guardian with real guests: they are brought back, whatever happens, and only ours are.

"Within" is judged by the witness: QEMU's own RESUME event on a monitor of the lab's.
"""

from collections.abc import Callable

from guardian_rig import Rig

from lab import Guest, Witness
from lab.processes import wait_until

MakeRig = Callable[..., Rig]
WitnessOf = Callable[[Guest], Witness]

ALL = ("g1", "g2", "g3", "g4")


def back_s(witness: Witness, since_ns: int, timeout_s: float = 5) -> float:
    """How long after `since_ns` the guest's first RESUME came."""
    resumes: list[int] = []

    def seen() -> bool:
        resumes[:] = [
            event.seen_ns
            for event in witness.events
            if event.name == "RESUME" and event.seen_ns >= since_ns
        ]
        return bool(resumes)

    wait_until(seen, timeout_s, "RESUME")
    return (resumes[0] - since_ns) / 1e9


def test_all_run_soon_after_the_owner_is_killed(make_rig: MakeRig, witness: WitnessOf) -> None:
    rig = make_rig(*ALL)
    seen = [witness(guest) for guest in rig.guests]
    owner = rig.owner()
    killed_ns = owner.kill()
    times = [back_s(each, killed_ns) for each in seen]
    print("back after", [f"{each * 1000:.0f} ms" for each in times])
    assert max(times) < 1
    wait_until(lambda: not owner.guardian.alive(), 5, "end of the guardian")
    assert not rig.list_file.exists()
    assert [entry["what"] for entry in rig.journal()][-1] == "guardian-ended"
