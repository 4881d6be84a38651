"""Reads GPUs when told to, in a process of its own: LD_LIBRARY_PATH counts only from a process's start.

Each line of standard input is a JSON object and gets one line of JSON back: {"now": seconds} the reading,
{"more": true} what the library says beyond what the agent asks of it. The end of input closes the source.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading

import pynvml

from agent.gpus import RealGpus
from agent.selection import parse_selection
from gpuq.codec import decode
from gpuq.model import Gpu


def main() -> None:
    settings = json.loads(sys.argv[1])
    known = [decode(Gpu, gpu) for gpu in settings["known"]]
    source = RealGpus(parse_selection(settings["gpus"]), known, settings["deadline"])
    for line in sys.stdin:
        order = json.loads(line)
        if "now" in order:
            answer = dataclasses.asdict(source.read(order["now"], {}))
            answer["threads"] = threading.active_count()
        else:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            answer = {
                "buses": [pynvml.nvmlDeviceGetPciInfo(h).busId for h in handles],
                "pids": [[p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(h)] for h in handles],
            }
        print(json.dumps(answer), flush=True)
    source.close()
    print(json.dumps({"threads": threading.active_count()}), flush=True)


if __name__ == "__main__":
    main()
