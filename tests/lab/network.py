"""The lab's cables: switches that are bridges in the lab's own network namespace, ports that can be cut.

No switch has an address, so nothing of the lab can be reached from outside its hosts, nor they anything outside.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence


class Switch:
    """A bridge. Its ports are named for the host and interface at their other end: 'h1-eth0'."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("link", "add", name, "type", "bridge")
        ip("link", "set", name, "up")

    def plug(self, port: str, pid: int, interface: str) -> None:
        """Connects `interface`, new in the network namespace of process `pid`; the cable goes when that one does.

        It has the hardware address it had before: others remember it for a while.
        """
        hardware = "02:" + ":".join(f"{byte:02x}" for byte in hashlib.sha256(port.encode()).digest()[:5])
        peer = ["peer", "name", interface, "netns", str(pid), "address", hardware]
        # That of a host which lost its power just now may still be there: the kernel takes its time.
        subprocess.run(["ip", "link", "del", port], capture_output=True, check=False)
        ip("link", "add", port, "type", "veth", *peer)
        ip("link", "set", port, "master", self.name)
        ip("link", "set", port, "up")

    def remove(self) -> None:
        ip("link", "del", self.name)


def cut(port: str) -> None:
    """From now on silence in both directions, as from a pulled cable."""
    ip("link", "set", port, "down")


def mend(port: str) -> None:
    ip("link", "set", port, "up")


def drop(*ways: tuple[str, str]) -> None:
    """What the first address of each pair sends to the second is lost from now on; the other direction goes on."""
    rules = [f"ip saddr {source} ip daddr {target} counter drop" for source, target in ways]
    _nft("table bridge lab {", "chain lost {", "type filter hook forward priority 0;", *rules, "}", "}")


def drop_nothing() -> None:
    _nft("delete table bridge lab")


def masquerade(outside: str) -> str:
    """What a router's nft has to be told so that all it forwards leaves `outside` under its own address."""
    return "\n".join(
        (
            "table ip nat {",
            "chain behind {",
            "type nat hook postrouting priority 100;",
            f'oifname "{outside}" masquerade',
            "}",
            "}",
            "",
        )
    )


def ip(*words: str) -> None:
    _run(["ip", *words])


def _nft(*lines: str) -> None:
    _run(["nft", "-f", "-"], "\n".join(lines) + "\n")


def _run(words: Sequence[str], stdin: str = "") -> None:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
