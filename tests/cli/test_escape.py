"""What is typed for gpuq and what for the job, however the keys come."""

from __future__ import annotations

import pytest

from gpuq.cli.escape import Escape


def typed(keys: bytes, size: int) -> tuple[bytes, str]:
    escape, out, last = Escape(), b"", ""
    for at in range(0, len(keys), size):
        passed, wish = escape.typed(keys[at : at + size])
        out += passed
        last = wish or last
        if wish == "leave":
            break
    return out, last


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("keys", "passed", "wish"),
    [
        (b"ls\r", b"ls\r", ""),
        (b"~.", b"", "leave"),
        (b"ls\r~.more", b"ls\r", "leave"),
        (b"ls\n~.", b"ls\n", "leave"),
        (b"cd ~.x\r", b"cd ~.x\r", ""),
        (b"~~.\r", b"~.\r", ""),
        (b"~~\r~.", b"~\r", "leave"),
        (b"~?ls", b"ls", "help"),
        (b"~?~.", b"", "leave"),
        (b"~x.\r", b"~x.\r", ""),
        (b"~\r~.", b"~\r", "leave"),
        (b"\xc3\xa4~.", b"\xc3\xa4~.", ""),
        (b"\x03~.", b"\x03~.", ""),
    ],
)
def test_a_tilde_counts_only_at_the_beginning_of_a_line(keys: bytes, passed: bytes, wish: str, size: int) -> None:
    assert typed(keys, size) == (passed, wish)
