"""Logs on the controller's disk: what was acknowledged is there, whatever came twice, late or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from gpuq.errors import InvalidRequest, Unavailable
from gpuq.holes import Hole
from gpuq.model import AttemptUid
from gpuq.store import logfiles
from gpuq.store.logfiles import LogFiles
from gpuq.store.logsearch import Wanted

LOG = (AttemptUid("0123456789abcdef0123"), 0)


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path / "logs")


def test_pieces_come_back_as_one_log(files: LogFiles) -> None:
    assert files.append(LOG, [(0, b"one\n"), (4, b"two\n")]) == 8
    assert files.append(LOG, [(8, b"three\n")]) == 14
    assert files.read(LOG, 0, 100)[1] == b"one\ntwo\nthree\n"
    assert files.size(LOG) == 14


def test_a_piece_beyond_the_end_is_not_written_and_the_real_size_is_acknowledged(files: LogFiles) -> None:
    files.append(LOG, [(0, b"abc")])
    assert files.append(LOG, [(10, b"late")]) == 3
    assert files.read(LOG, 0, 100)[1] == b"abc"


def test_a_piece_that_comes_again_changes_nothing(files: LogFiles) -> None:
    files.append(LOG, [(0, b"abcdef")])
    assert files.append(LOG, [(0, b"abc")]) == 6
    assert files.append(LOG, [(2, b"cdef")]) == 6
    assert files.read(LOG, 0, 100)[1] == b"abcdef"


def test_an_overlapping_piece_is_trimmed(files: LogFiles) -> None:
    files.append(LOG, [(0, b"abcd")])
    assert files.append(LOG, [(2, b"XXefg")]) == 7
    assert files.read(LOG, 0, 100)[1] == b"abcdefg"


def test_logs_of_other_ranks_and_attempts_stay_apart(files: LogFiles) -> None:
    other_rank, other_attempt = (LOG[0], 1), (AttemptUid("ffff456789abcdef0123"), 0)
    for log, text in ((LOG, b"a"), (other_rank, b"b"), (other_attempt, b"c")):
        files.append(log, [(0, text)])
    assert [files.read(log, 0, 9)[1] for log in (LOG, other_rank, other_attempt)] == [b"a", b"b", b"c"]


def test_a_log_nobody_wrote_is_empty(files: LogFiles) -> None:
    assert files.size(LOG) == 0
    assert files.read(LOG, 0, 10)[1] == b""
    assert files.tail_offset(LOG, 5) == 0


def test_reads_beyond_the_end_are_empty(files: LogFiles) -> None:
    files.append(LOG, [(0, b"abc")])
    assert files.read(LOG, 3, 10)[1] == b""
    assert files.read(LOG, 99, 10)[1] == b""
    assert files.read(LOG, 1, 1)[1] == b"b"


def test_a_later_life_goes_on_where_the_file_ends(files: LogFiles, tmp_path: Path) -> None:
    files.append(LOG, [(0, b"before ")])
    later = LogFiles(tmp_path / "logs")
    assert later.size(LOG) == 7
    assert later.append(LOG, [(7, b"after")]) == 12
    assert later.read(LOG, 0, 100)[1] == b"before after"


@pytest.mark.parametrize(
    ("text", "lines", "shown"),
    [
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 99, b"a\nb\nc\n"),
        (b"a\nb\nunfinished", 1, b"unfinished"),
        (b"a\nb\nunfinished", 2, b"b\nunfinished"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"no line end", 3, b"no line end"),
        (b"a\nb\n", 0, b""),
    ],
)
def test_tail_begins_where_the_last_lines_begin(files: LogFiles, text: bytes, lines: int, shown: bytes) -> None:
    files.append(LOG, [(0, text)])
    assert files.read(LOG, files.tail_offset(LOG, lines), 100)[1] == shown


def test_tail_of_a_large_log_crosses_blocks_of_reading(files: LogFiles) -> None:
    lines = [b"%07d %s\n" % (n, b"x" * (n % 300)) for n in range(4000)]
    files.append(LOG, [(0, b"".join(lines))])
    for count in (1, 2, 500, 3999):
        wanted = b"".join(lines[-count:])
        assert files.size(LOG) - files.tail_offset(LOG, count) == len(wanted)


def test_tail_of_a_huge_line_stops_looking(files: LogFiles) -> None:
    size = logfiles._MAX_TAIL + 1000
    files.append(LOG, [(0, b"x" * size)])
    assert files.tail_offset(LOG, 1) == 1000


def test_a_full_disk_acknowledges_nothing_and_recovers(files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files.append(LOG, [(0, b"abc")])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(Unavailable, match="no room left for logs"):
            files.append(LOG, [(3, b"def")])
    assert files.size(LOG) == 3
    assert files.append(LOG, [(3, b"def")]) == 6
    assert files.read(LOG, 0, 100)[1] == b"abcdef"


def test_bytes_whose_sync_failed_are_not_shown_and_are_written_anew(
    files: LogFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.append(LOG, [(0, b"abc")])

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(Unavailable, match="cannot use its log files"):
            files.append(LOG, [(3, b"def")])
    assert files.read(LOG, 0, 100)[1] == b"abc"
    written: list[int] = []
    real = os.pwrite

    def write(fd: int, data: bytes, at: int) -> int:
        written.append(at)
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", write)
    assert files.append(LOG, [(3, b"def")]) == 6
    assert written == [3]


def test_new_bytes_are_synced_before_they_are_acknowledged(files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        seen.append(files.known_size(LOG))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    files.append(LOG, [(0, b"abc")])
    assert seen == [0]
    assert files.known_size(LOG) == 3


def test_two_senders_of_the_same_log_leave_one_whole_log(files: LogFiles) -> None:
    text = bytes(range(256)) * 400
    pieces = [(at, text[at : at + 777]) for at in range(0, len(text), 777)]
    barrier = threading.Barrier(2)

    def send() -> None:
        barrier.wait()
        for piece in pieces:
            files.append(LOG, [piece])

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert files.read(LOG, 0, len(text) * 2)[1] == text


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", "ABCDEF0123456789", "0123456789abcdef/..", "0" * 65])
def test_a_name_that_is_no_attempts_reaches_no_file(files: LogFiles, uid: str) -> None:
    with pytest.raises(InvalidRequest):
        files.append((AttemptUid(uid), 0), [(0, b"x")])
    with pytest.raises(InvalidRequest):
        files.size((AttemptUid(uid), 0))


@pytest.mark.parametrize("rank", [-1, 1 << 20])
def test_a_rank_no_gang_has_is_refused(files: LogFiles, rank: int) -> None:
    with pytest.raises(InvalidRequest):
        files.size((LOG[0], rank))


def test_only_the_account_itself_reads_logs(files: LogFiles, tmp_path: Path) -> None:
    files.append(LOG, [(0, b"secret")])
    (path,) = (tmp_path / "logs").rglob("*.log")
    assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "logs").stat().st_mode & 0o077 == 0


def test_sizes_pushed_out_of_memory_are_learned_again(files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "_REMEMBERED", 2)
    logs = [(AttemptUid(f"{n:020x}"), 0) for n in range(5)]
    for log in logs:
        files.append(log, [(0, b"12345")])
    assert [files.size(log) for log in logs] == [5] * 5


MIB = 1 << 20


def test_a_hole_is_given_back_said_and_skipped_and_offsets_stay(files: LogFiles, tmp_path: Path) -> None:
    text = bytes(range(97, 107)) * (8 * MIB // 10)
    size = files.append(LOG, [(0, text)])
    hole = Hole(MIB, 6 * MIB)
    assert files.append(LOG, [(size, b"more\n")], hole) == size + 5
    start, head = files.read(LOG, 0, 4 * MIB)
    said = f"\n[gpuq] the log is longer than its cap: from here to byte {hole.end} nothing is kept\n".encode()
    assert (start, head) == (0, text[: MIB - len(said)] + said)
    assert files.read(LOG, MIB, 100) == (hole.end, text[hole.end : hole.end + 100])
    assert files.read(LOG, 3 * MIB, 10) == (hole.end, text[hole.end : hole.end + 10])
    assert files.read(LOG, size, 100) == (size, b"more\n")
    (path,) = (tmp_path / "logs").rglob("*.log")
    assert path.stat().st_blocks * 512 < 4 * MIB
    assert files.search(LOG, Wanted(b"more", False, 9), 0).lines != []


def test_what_lies_in_a_hole_need_not_be_sent(files: LogFiles) -> None:
    assert files.append(LOG, [(0, b"x" * 2 * MIB)]) == 2 * MIB
    assert files.append(LOG, [(6 * MIB, b"after")]) == 2 * MIB
    assert files.append(LOG, [(6 * MIB, b"after")], Hole(MIB, 6 * MIB)) == 6 * MIB + 5
    assert files.read(LOG, 2 * MIB, 100) == (6 * MIB, b"after")
    assert files.append(LOG, [(7 * MIB, b"beyond")], Hole(MIB, 6 * MIB)) == 6 * MIB + 5


def test_the_size_is_found_again_behind_a_hole(tmp_path: Path) -> None:
    LogFiles(tmp_path).append(LOG, [(0, b"x" * 2 * MIB), (6 * MIB, b"after")], Hole(MIB, 6 * MIB))
    assert LogFiles(tmp_path).read(LOG, 5 * MIB, 9) == (6 * MIB, b"after")


def test_a_deleted_log_is_known_to_have_been(files: LogFiles, tmp_path: Path) -> None:
    files.append(LOG, [(0, b"x" * 10_000)])
    never = (LOG[0], 1)
    assert not files.was_deleted(LOG)
    files.delete(LOG)
    files.delete(never)
    assert (files.size(LOG), files.read(LOG, 0, 9)) == (0, (0, b""))
    assert [files.was_deleted(log) for log in (LOG, never)] == [True, False]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) == 0
    assert files.append(LOG, [(0, b"again")]) == 5  # shipped anew, after a restore
    assert not files.was_deleted(LOG)
