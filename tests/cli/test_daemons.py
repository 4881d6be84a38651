from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuq.cli import daemons
from gpuq.cli.daemons import Daemon, registered
from gpuq.errors import Conflict
from tests.cli.gpuq_process import ROOT

# A stand-in for gpuq that registers itself as the daemon it is told to be; the last word says how it behaves.
STAND_IN = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from gpuq.cli.daemons import registered
kind, home, behaviour = sys.argv[2:5]
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print("secret", len(sys.stdin.readline()), "token" if "GPUQ_TOKEN" in os.environ else "clean", flush=True)
if behaviour == "dies":
    sys.exit("cannot: no such device\\n")
with registered(home, kind, {"name": "n"}):
    while True:
        time.sleep(60)
"""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(daemons, "program", lambda: [sys.executable, "-c", STAND_IN, str(ROOT)])
    monkeypatch.setenv("GPUQ_TOKEN", "not for daemons")
    made = Daemon(str(tmp_path), "agent")
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()


def start(daemon: Daemon, behaviour: str, secret: str = "") -> subprocess.Popen[bytes]:
    process = daemon.start([str(daemon.directory.parent), behaviour], secret)
    wait_until(lambda: daemon.running() is not None or process.poll() is not None)
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_daemon_is_found_by_its_own_words_and_ends_when_asked(daemon: Daemon) -> None:
    process = start(daemon, "polite", "hush")
    running = daemon.running()
    assert running is not None
    assert (running.pid, running.facts, running.is_this_gpuq) == (process.pid, {"name": "n"}, True)
    assert os.getsid(process.pid) == process.pid
    assert daemon.log.read_text() == "secret 5 clean\n"
    assert daemon.log.stat().st_mode & 0o777 == 0o600
    assert daemon.stop(running)
    assert daemon.running() is None
    assert process.wait() == 0


def test_one_that_does_not_listen_is_killed(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(daemon, "stubborn")
    running = daemon.running()
    assert running is not None
    monkeypatch.setattr(daemons, "STOP_SECONDS", 0.2)
    assert not daemon.stop(running)
    assert process.wait() == -9
    assert daemon.running() is None  # though it could not take its description back


def test_the_last_words_are_of_this_start_only(daemon: Daemon) -> None:
    daemon.directory.mkdir()
    daemon.log.write_text("an older complaint\n")
    assert start(daemon, "dies").wait() == 1
    assert daemon.last_words() == "cannot: no such device"
    assert daemon.log.read_text().startswith("an older complaint\n")


def test_a_large_log_is_put_aside_at_the_next_start(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "LOG_BYTES", 10)
    daemon.directory.mkdir()
    daemon.log.write_text("more than ten bytes\n")
    start(daemon, "dies").wait()
    assert daemon.log.with_suffix(".log.1").read_text() == "more than ten bytes\n"
    assert "more than ten" not in daemon.log.read_text()


def test_a_second_of_a_kind_is_refused_by_pid(daemon: Daemon) -> None:
    process = start(daemon, "polite")
    refused = pytest.raises(Conflict, match=rf"an agent already runs in .* \(pid {process.pid}\)")
    with refused, registered(str(daemon.directory.parent), "agent", {}):
        pass


@pytest.mark.parametrize("change", [{"identity": "boot:1"}, {"pid": 0}, {"pid": "x"}, {"facts": None}])
def test_a_description_that_fits_no_process_is_not_believed(daemon: Daemon, change: dict[str, object]) -> None:
    start(daemon, "polite")
    path = daemon.directory / "daemon.json"
    true = path.read_text()
    path.write_text(json.dumps({**json.loads(true), **change}))
    assert daemon.running() is None
    path.write_text("{")
    assert daemon.running() is None
    path.write_text(true)
    assert daemon.running() is not None


def test_another_program_with_the_pid_is_left_alone(tmp_path: Path) -> None:
    # This very process: alive, started when the description says, but no daemon of gpuq's.
    with registered(str(tmp_path), "controller", {}):
        assert Daemon(str(tmp_path), "controller").running() is None


def test_the_program_starts_again_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [*daemons.program(), "version"], capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": ""}
    )
    assert done.stdout.startswith("gpuq ")
