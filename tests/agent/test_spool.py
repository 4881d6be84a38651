"""What a job writes reaches its log whatever it does to its output, and the log says what it lacks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.spool import Spool
from tests.agent.executions import boottime, machine, order
from tests.agent.test_journal import disk_full_after

LEASES = pytest.mark.parametrize("lease", [None, 1e9])
THREADED = pytest.mark.parametrize("threaded", [False, True])


def shell(text: str, **options):
    return order("bash", "-c", text, **options)


@contextmanager
def spool(directory: Path, threaded: bool, cap: int = 0) -> Iterator[Spool]:
    made = Spool(threaded, cap)
    fd = os.open(directory, os.O_RDONLY)
    made.open(fd)
    os.close(fd)
    try:
        yield made
    finally:
        made.close()


@LEASES
def test_opening_stdout_and_stderr_again_loses_nothing(tmp_path, lease):
    text = """
        echo line1; echo line2 > /dev/stdout; echo line3 > /dev/stderr; echo line4 >&2
        echo line5 > /dev/fd/1; echo line6 > /proc/self/fd/2; echo line7 >> /dev/stderr
        python3 -c 'open("/dev/stdout", "w").write("line8\\n")'; : > /dev/stdout; echo line9
    """

    async def scenario():
        async with machine(tmp_path) as m:
            job = shell(text)
            end = await m.result(job, lease)
            assert m.log(job).decode().split() == [f"line{n}" for n in range(1, 10)]
            assert (end.exit_code, end.log_size) == (0, len(m.log(job)))

    asyncio.run(scenario())


@LEASES
def test_much_output_in_small_pieces_is_complete_and_in_order(tmp_path, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("seq 300000; printf end >&2")
            end = await m.result(job, lease)
            expected = b"".join(b"%d\n" % n for n in range(1, 300001)) + b"end"
            assert m.log(job) == expected
            assert end.log_size == len(expected)

    asyncio.run(scenario())


@LEASES
def test_what_somebody_outside_the_tree_holds_open_does_not_keep_the_run(tmp_path, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo $$; while [ ! -e go ]; do sleep 0.02; done; echo last", cwd=str(tmp_path))
            m.executor.launch(job, lease)
            await m.logged(job, b"\n")
            fd = os.open(f"/proc/{int(m.log(job))}/fd/1", os.O_WRONLY)
            try:
                (tmp_path / "go").touch()
                await m.end(job)
                assert m.log(job).endswith(b"last\n")
            finally:
                os.close(fd)

    asyncio.run(scenario())


@THREADED
def test_what_somebody_outside_the_tree_writes_without_end_has_an_end_with_the_run(tmp_path, threaded, monkeypatch):
    fast = os.write

    def slow(fd, data):
        time.sleep(0.002 if fd == made.file else 0)
        return fast(fd, data)

    with spool(tmp_path, threaded) as made:
        monkeypatch.setattr(os, "write", slow)
        outside = os.dup(made.write_end)
        enough = threading.Event()

        def write_on():
            while not enough.is_set():
                os.write(outside, bytes(1 << 20))

        writers = [threading.Thread(target=write_on) for _ in range(4)]
        os.write(outside, b"last")
        for writer in writers:
            writer.start()
        timer = threading.Timer(2.0, enough.set)
        timer.start()
        try:
            size = made.finish()
            assert (size < 4 << 20, (tmp_path / "log").read_bytes()[:4]) == (True, b"last")
            assert not enough.is_set()
        finally:
            timer.cancel()
            enough.set()
            os.set_blocking(made.read_end, False)
            while any(writer.is_alive() for writer in writers):
                with contextlib.suppress(BlockingIOError):
                    os.read(made.read_end, 1 << 20)
            os.close(outside)


def test_log_that_somebody_cut_short_says_so_and_keeps_its_offsets(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo 123456789; while [ ! -e go ]; do sleep 0.02; done; echo more", cwd=str(tmp_path))
            m.executor.launch(job)
            await m.logged(job, b"123456789\n")
            os.truncate(m.run_dir(job) / "log", 3)
            (tmp_path / "go").touch()
            end = await m.end(job)
            note = b"[gpuq] somebody cut this log at byte 3: from there to here it is lost\n"
            assert m.log(job) == b"123" + bytes(7) + note + b"more\n"
            assert end.log_size == len(m.log(job))

    asyncio.run(scenario())


def test_quiet_moments_cost_the_supervisor_nothing(tmp_path):
    """What it looks at again after a pause is let go of once there is nothing new."""

    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo up; sleep 300")
            m.executor.launch(job)
            await m.logged(job, b"up")
            await asyncio.sleep(0.1)
            status = Path(f"/proc/{m.supervisor(job)}/status")

            def switches():
                return [line for line in status.read_text().splitlines() if line.startswith("voluntary")]

            before = switches()
            await asyncio.sleep(0.3)
            assert switches() == before

    asyncio.run(scenario())


@THREADED
def test_full_disk_holds_the_writer_up_and_loses_nothing(tmp_path, threaded):
    with spool(tmp_path, threaded) as log:
        written = 0
        with disk_full_after(100_000):
            os.set_blocking(log.write_end, False)
            deadline = boottime() + 0.5
            while boottime() < deadline:
                log.take()
                try:
                    written += os.write(log.write_end, b"x" * 4096)
                except BlockingIOError:
                    break
            assert written < 4 << 20  # what waits is bounded
        assert log.finish() == written
        assert log.lost == 0
    assert (tmp_path / "log").read_bytes() == b"x" * written


@THREADED
def test_what_a_full_disk_costs_at_the_end_is_counted(tmp_path, threaded):
    with spool(tmp_path, threaded) as log, disk_full_after(1000):
        os.write(log.write_end, b"x" * 3000)
        assert log.finish() == 1000
        assert log.lost == 2000
    assert (tmp_path / "log").stat().st_size == 1000


def test_supervisor_with_a_lease_does_not_wait_for_its_disk(tmp_path):
    """A FIFO that nobody reads stands for the disk of a server that is down."""
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with spool(tmp_path, threaded=True) as log:
        poll = select.poll()
        poll.register(log.write_end, select.POLLOUT)
        written = 0
        while poll.poll(0) and written < 64 << 20:
            written += os.write(log.write_end, b"x" * 4096)
            before = boottime()
            log.take()
            assert boottime() - before < 5
        assert written < 4 << 20
        os.set_blocking(reader, True)
        server = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 16), b"")])
        server.start()  # it is back
        assert log.finish() >= written
        assert log.lost == 0
    server.join()
    os.close(reader)


def test_job_may_limit_the_size_of_its_own_files(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("ulimit -f 1; head -c 100000 /dev/zero; echo $?")
            await m.result(job)
            assert m.log(job) == bytes(100_000) + b"0\n"

    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    asyncio.run(scenario())


CAP = 4 << 20


@THREADED
def test_of_a_log_beyond_its_cap_beginning_and_end_are_kept_where_they_were(tmp_path, threaded):
    size = 5 * CAP
    with spool(tmp_path, threaded, CAP) as log:
        lines = b"".join(b"%015d\n" % n for n in range(size // 16))
        os.set_blocking(log.write_end, False)
        at = 0
        while at < size:
            with contextlib.suppress(BlockingIOError):
                at += os.write(log.write_end, lines[at : at + 32768])
            log.take()
        assert log.finish() == size
    path = tmp_path / "log"
    found = path.read_bytes()
    assert len(found) == size
    assert path.stat().st_blocks * 512 <= CAP + CAP // 8
    said, _, rest = found[: CAP // 2].partition(b"\n[gpuq] ")
    assert lines.startswith(said)
    assert len(said) > CAP // 2 - 100
    assert rest.startswith(b"the log is longer than its cap: from here to byte ")
    end = int(rest.split()[-4])
    assert found[CAP // 2 : end] == bytes(end - CAP // 2)
    assert found[end:] == lines[end:]
    assert size - end >= CAP // 2


@THREADED
def test_a_disk_that_stays_full_does_not_hold_the_job_up_and_the_log_says_what_is_lost(tmp_path, threaded, monkeypatch):
    monkeypatch.setattr("agent.spool.FULL_DISK_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("agent.spool.FULL_DISK_SECONDS", 0.01)
    with spool(tmp_path, threaded) as log:
        os.set_blocking(log.write_end, False)
        with disk_full_after(100_000):
            written, deadline = 0, boottime() + 20
            while written < 8 << 20:
                assert boottime() < deadline, "the job is held up"
                log.take()
                with contextlib.suppress(BlockingIOError):
                    written += os.write(log.write_end, b"x" * 4096)
            while log.take() is None:
                pass
        os.write(log.write_end, b"room again\n")
        size = log.finish()
        assert log.lost == 0
    text = (tmp_path / "log").read_bytes()
    lost = sum(int(part.split()[0]) for part in text.split(b"[gpuq] the disk was full: ")[1:])
    assert (text.count(b"x"), size) == (written - lost, len(text))
    assert lost > 4 << 20
    assert text.endswith(b"room again\n")
