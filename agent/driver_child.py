"""The process that asks the NVIDIA driver, so that a call which never returns, or a crash in the library, is its alone.

It reads a line of JSON from the socket on descriptor 0, {"now": seconds, "fresh": true or false}, asks, and answers in
a line: {"reading": ...}, {"absent": TEXT} or {"failing": TEXT}. fresh: in a new session, which sees a GPU that was
reset or came back. It ends when the agent does, or closes the socket.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from agent import nvidia_smi
from agent.nvml import DriverAbsent, DriverFailing, DriverReading, Nvml
from gpuq.codec import encode

# nvidia-smi costs about 60 ms of a core each time: 0.2 % at this pace, and an idle agent has 0.3 %.
SMI_SECONDS = 30.0


class Asker:
    """Asks through the library, or through nvidia-smi where that cannot be loaded."""

    def __init__(self) -> None:
        self._nvml = Nvml()
        self._smi: tuple[float, DriverReading | DriverFailing] | None = None

    def answer(self, now: float, fresh: bool) -> dict[str, Any]:
        try:
            if fresh:
                self._nvml.close()
            return {"reading": encode(self._ask(now))}
        except DriverAbsent as error:
            return {"absent": str(error)}
        except DriverFailing as error:
            return {"failing": str(error)}

    def close(self) -> None:
        self._nvml.close()

    def _ask(self, now: float) -> DriverReading:
        try:
            return self._nvml.read(now)
        except (DriverAbsent, DriverFailing) as error:
            if self._nvml.loaded:
                raise  # nvidia-smi asks the same driver through the same library
            return self._ask_smi(now, error)

    def _ask_smi(self, now: float, without_library: DriverAbsent | DriverFailing) -> DriverReading:
        if self._smi is None or now - self._smi[0] >= SMI_SECONDS:
            try:
                self._smi = (now, nvidia_smi.read())
            except DriverAbsent:
                raise without_library from None
            except DriverFailing as error:
                self._smi = (now, error)
        said = self._smi[1]
        if isinstance(said, DriverFailing):
            raise said
        return said


def main() -> None:
    with socket.socket(fileno=0) as link, link.makefile("rb") as lines:
        asker = Asker()
        for line in lines:
            asked = json.loads(line)
            link.sendall(json.dumps(asker.answer(asked["now"], asked["fresh"])).encode() + b"\n")
        asker.close()
