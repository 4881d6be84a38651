"""`gpuq tui` on a real pseudo-terminal: it is given back as it was, however the dashboard ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from gpuq.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0
START = "from gpuq.cli.main import main; main()"
CRASHES = """
import {module} as module
from gpuq.cli.main import main
def broken(*_): raise ZeroDivisionError("planted")
module.{name} = broken
main()
"""
AT_ONCE = CRASHES.format(module="tui.chrome", name="heading")


ON_ANYWAY = {b"25", b"7"}  # a cursor that is seen, and lines that go on in the next


class Screen(NamedTuple):
    process: subprocess.Popen[bytes]
    master: int
    slave: int
    heard: bytearray

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + DEADLINE
        while text not in self.heard:
            assert time.monotonic() < deadline, bytes(self.heard[-2000:])
            self.read(0.1)

    def read(self, seconds: float) -> None:
        if select.select([self.master], [], [], seconds)[0]:
            self.heard.extend(os.read(self.master, 65536))

    def ended(self) -> int:
        """Its exit status, with all it wrote read."""
        deadline = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, bytes(self.heard[-2000:])
            self.read(0.05)
        while select.select([self.master], [], [], 0)[0]:
            self.read(0)
        return self.process.returncode


@contextmanager
def dashboard(home: Path, program: str = START, *arguments: str) -> Iterator[Screen]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = ("PATH", "HOME", "LANG")
    environment = {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "TERM": "xterm-256color",
        "COLORFGBG": "15;0",  # so that nothing is asked of a terminal that does not answer
        "GPUQ_HOME": str(home),
        "GPUQ_URL": "https://127.0.0.1:1",
        "GPUQ_TOKEN": f"gpuq_viewer_x_{'0' * 64}",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", program, "tui", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    try:
        yield Screen(process, master, slave, bytearray())
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def restored(screen: Screen, before: list[object]) -> bool:
    """Echo and all else of the terminal's line; its screen, cursor and mouse, and the forms in which keys come."""
    told = bytes(screen.heard)
    modes = {number: set_ == b"h" for number, set_ in re.findall(rb"\x1b\[\?(\d+)([hl])", told)}
    assert {b"1049", b"25", b"1000"} <= modes.keys()
    assert modes[b"25"]
    keyboard = told.count(b"\x1b[>1u") - told.count(b"\x1b[<u")
    left_set = {number for number, is_set in modes.items() if is_set}
    return termios.tcgetattr(screen.slave) == before and left_set <= ON_ANYWAY and keyboard <= 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_the_terminal_is_as_before(number: signal.Signals, tmp_path: Path) -> None:
    with dashboard(tmp_path) as screen:
        before = termios.tcgetattr(screen.slave)
        screen.until(b"Overview")
        assert termios.tcgetattr(screen.slave) != before
        screen.process.send_signal(number)
        assert screen.ended() == 128 + number
        assert restored(screen, before)


def test_a_key_ends_it_and_the_terminal_is_as_before(tmp_path: Path) -> None:
    with dashboard(tmp_path) as screen:
        before = termios.tcgetattr(screen.slave)
        screen.until(b"Overview")
        os.write(screen.master, b"\x11")  # ctrl+q
        assert screen.ended() == 0
        assert restored(screen, before)


def test_a_defect_is_one_line_and_a_file_and_the_terminal_is_as_before(tmp_path: Path) -> None:
    with dashboard(tmp_path, AT_ONCE) as screen:
        before = termios.tcgetattr(screen.slave)
        assert screen.ended() == 1
        assert restored(screen, before)
    told = bytes(screen.heard).rpartition(b"\x1b[?1004l")[2].decode()
    assert "unexpected ZeroDivisionError: planted; please report it with" in told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) == 1
    (file,) = (tmp_path / "log").glob("crash-*.log")
    assert "ZeroDivisionError: planted" in file.read_text()


@pytest.mark.parametrize(
    ("module", "name", "key"),
    [("tui.jobs", "Jobs.hint", b"2"), ("tui.table", "title_strip", b"2"), ("tui.help", "HelpDialog.compose", b"?")],
    ids=["while a key is worked on", "while a line is drawn", "in a dialog"],
)
def test_wherever_a_defect_is_the_terminal_is_as_before(module: str, name: str, key: bytes, tmp_path: Path) -> None:
    with dashboard(tmp_path, CRASHES.format(module=module, name=name)) as screen:
        before = termios.tcgetattr(screen.slave)
        screen.until(b"OFFLINE")
        os.write(screen.master, key)
        assert screen.ended() == 1
        assert restored(screen, before)
    assert b"unexpected ZeroDivisionError: planted" in screen.heard
    assert b"Traceback" not in screen.heard


def test_a_defect_in_the_background_leaves_the_terminal_as_before(tmp_path: Path) -> None:
    with dashboard(tmp_path, CRASHES.format(module="tui.feed", name="Feed._wait")) as screen:
        before = termios.tcgetattr(screen.slave)
        assert screen.ended() == 1
        assert restored(screen, before)
    assert b"unexpected ZeroDivisionError: planted" in screen.heard


def test_without_a_controller_it_starts_and_says_when_it_tries_again(tmp_path: Path) -> None:
    with dashboard(tmp_path) as screen:
        screen.until(b"OFFLINE")
        screen.until(b"retry in")


def test_when_the_terminal_goes_away_it_goes_too(tmp_path: Path) -> None:
    with dashboard(tmp_path) as screen:
        screen.until(b"Overview")
        os.dup2(os.open(os.devnull, os.O_RDWR), screen.master)  # from now on every write of its fails
        screen.process.send_signal(signal.SIGHUP)
        assert screen.process.wait(DEADLINE) == 128 + signal.SIGHUP


def test_without_a_terminal_it_says_what_to_use_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUQ_HOME", str(tmp_path))
    assert main(["tui"]) == 2
    said = "gpuq: the dashboard needs a terminal: gpuq queue, nodes and events print the same\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("arguments", [("--theme", "pink"), ("--view", "moon")])
def test_an_unknown_theme_or_view_is_wrong_usage(arguments: tuple[str, str], tmp_path: Path) -> None:
    assert main(["tui", *arguments]) == 2
