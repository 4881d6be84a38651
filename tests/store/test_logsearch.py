"""Search in log files: the same lines as a plain look finds, from any place, in either direction, in bounded steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from gpuq.model import AttemptUid
from gpuq.store import logsearch
from gpuq.store.logfiles import LogFiles
from gpuq.store.logsearch import Wanted

LOG = AttemptUid("ab" * 8), 0


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path / "logs")


def plain(text: bytes, wanted: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    for line in text.splitlines(keepends=True):
        if wanted in line:
            found.append((at, line.rstrip(b"\r\n")))
        at += len(line)
    return found


def onwards(files: LogFiles, wanted: Wanted, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """All lines from `start` on, search by search."""
    while True:
        found = files.search(LOG, wanted, start)
        yield from found.lines
        if found.done:
            return
        assert found.reached > start
        start = found.reached


def backwards(files: LogFiles, wanted: Wanted, before: int) -> Iterator[tuple[int, bytes]]:
    while True:
        found = files.search_back(LOG, wanted, before)
        yield from found.lines
        if found.done:
            return
        assert found.reached < before
        before = found.reached


@pytest.mark.parametrize("seed", range(20))
def test_every_search_finds_what_a_plain_look_finds(
    files: LogFiles, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    monkeypatch.setattr(logsearch, "BLOCK_BYTES", 64)
    monkeypatch.setattr(logsearch, "BUDGET_BYTES", 200)
    lines = [bytes(random.choices(b"abX ", k=random.randrange(50))) + b"\n" for _ in range(100)]
    text = b"".join(lines) + random.choice([b"", b"aX", b"b"])
    files.append(LOG, [(0, text)])
    wanted = Wanted(b"aX", ignore_case=False, limit=random.choice([1, 2, 1000]))
    every = plain(text, b"aX")
    assert list(onwards(files, wanted)) == every
    assert list(backwards(files, wanted, len(text))) == every[::-1]
    place = random.randrange(len(text))
    assert list(onwards(files, wanted, place)) == [line for line in every if line[0] >= place]
    assert list(backwards(files, wanted, place)) == [line for line in every if line[0] < place][::-1]


def test_one_search_reads_a_bounded_part(files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logsearch, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(logsearch, "BUDGET_BYTES", 10 << 10)
    files.append(LOG, [(0, b"0123456\n" * 8_192)])
    found = files.search(LOG, Wanted(b"x", ignore_case=False, limit=1), 0)
    assert (found.lines, found.reached, found.done) == ([], 10 << 10, False)
    found = files.search_back(LOG, Wanted(b"x", ignore_case=False, limit=1), 65_536)
    assert (found.lines, found.done) == ([], False)
    assert 65_536 - (11 << 10) < found.reached <= 65_536 - (10 << 10)


@pytest.mark.parametrize("ahead", range(890, 1_010, 3))
def test_a_line_longer_than_a_block_is_found_wherever_the_blocks_begin(
    files: LogFiles, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(logsearch, "BLOCK_BYTES", 100)
    monkeypatch.setattr(logsearch, "BUDGET_BYTES", 300)
    text = b"-" * ahead + b"here" + b"-" * 1_000 + b"\nhere\n"
    files.append(LOG, [(0, text)])
    wanted = Wanted(b"here", ignore_case=False, limit=1)
    found = [offset for offset, _ in onwards(files, wanted)]
    assert len(found) == 2
    assert found[0] <= ahead < found[1] == ahead + 1_005
    found = [offset for offset, _ in backwards(files, wanted, len(text))]
    assert len(found) == 2
    assert found[1] <= ahead < found[0] == ahead + 1_005


def test_a_last_line_that_grows_is_searched_again(files: LogFiles) -> None:
    wanted = Wanted(b"needle", ignore_case=False, limit=9)
    files.append(LOG, [(0, b"one\nneed")])
    found = files.search(LOG, wanted, 0)
    assert (found.lines, found.reached, found.done) == ([], 4, True)
    files.append(LOG, [(8, b"le\n")])
    assert files.search(LOG, wanted, found.reached).lines == [(4, b"needle")]


def test_a_long_line_is_shown_cut(files: LogFiles) -> None:
    files.append(LOG, [(0, b"x" * 5_000 + b"needle\n")])
    ((offset, line),) = files.search(LOG, Wanted(b"needle", ignore_case=False, limit=9), 0).lines
    assert (offset, line) == (0, b"x" * logsearch.SHOWN_BYTES)


def test_a_log_nothing_was_written_to_has_no_lines(files: LogFiles) -> None:
    wanted = Wanted(b"x", ignore_case=True, limit=1)
    assert files.search(LOG, wanted, 0).done
    assert files.search_back(LOG, wanted, 10).done
