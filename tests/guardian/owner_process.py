"""An owner of a guardian that can be killed: commands as JSON lines on stdin, an answer each."""

import json
import sys

import libvirt

from hostagent.guardian.launch import Mode
from hostagent.guardian.wire import Watch, arm_from_json


def main() -> None:
    watch = Watch(unit="halab-guardian", list_path=sys.argv[1], mode=Mode.SETSID)
    conn = None
    for line in sys.stdin:
        command = json.loads(line)
        if "arm" in command:
            arm = arm_from_json(command["arm"])
            conn = libvirt.open(arm.ways.uri)
            guardian = watch.arm(arm, 10_000_000_000)
            answer = json.dumps({"pid": guardian.pid, "start_ticks": guardian.start_ticks})
        elif "suspend" in command:
            for uuid in command["suspend"]:
                conn.lookupByUUIDString(uuid).suspend()
            answer = "suspended"
        elif "paused" in command:
            watch.paused(command["paused"])
            answer = "said"
        elif "disarm" in command:
            answer = str(watch.disarm(command["disarm"], 5_000_000_000))
        print(answer, flush=True)


main()
