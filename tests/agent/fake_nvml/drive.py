"""Reads GPUs when told to, in a process of its own: LD_LIBRARY_PATH counts only from a process's start.

Each line of standard input is a JSON object and gets one line of JSON back: {"now": seconds} the reading,
{"more": true} what the library says beyond what the agent asks of it, {"pardon": [uuid, number]} an admin's word,
{"remembered": true} what the next agent would be told. The end of input closes the source.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pynvml

from agent.gpus import RealGpus, Remembered
from agent.selection import parse_selection
from gpuq.codec import decode, encode


def main() -> None:
    settings = json.loads(sys.argv[1])
    remembered = decode(Remembered, settings["remembered"])
    source = RealGpus(parse_selection(settings["gpus"]), remembered, settings["deadline"])
    for line in sys.stdin:
        order = json.loads(line)
        if "now" in order:
            answer = dataclasses.asdict(source.read(order["now"], {}))
            answer["children"] = children()
        elif "pardon" in order:
            source.pardon(*order["pardon"])
            answer = {}
        elif "remembered" in order:
            answer = encode(source.remembered())
        else:
            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            answer = {
                "buses": [pynvml.nvmlDeviceGetPciInfo(h).busId for h in handles],
                "pids": [[p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(h)] for h in handles],
            }
        print(json.dumps(answer), flush=True)
    source.close()
    print(json.dumps({"children": children()}), flush=True)


def children() -> list[int]:
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


if __name__ == "__main__":
    main()
