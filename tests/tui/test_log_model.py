from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.log_model import (
    CHUNK_BYTES,
    KEPT_BYTES,
    KEPT_LINES,
    SHOWN_BYTES,
    Ask,
    Line,
    LogWindow,
    MatchWindow,
    text_of,
)


def texts(window: LogWindow) -> list[str]:
    return [text_of(line) for line in window.lines]


def loaded(data: bytes) -> LogWindow:
    window = LogWindow()
    window.told(len(data), ended=True)
    window.open(0, data)
    return window


def give(window: LogWindow, log: bytes, ask: Ask | None) -> bool:
    assert ask is not None
    return window.take(ask.offset, log[ask.offset : ask.offset + ask.limit])


def test_lines_are_split_at_newlines_and_the_unfinished_last_one_is_shown_too() -> None:
    assert texts(loaded(b"one\ntwo\n\nthr")) == ["one", "two", "", "thr"]


def test_an_unfinished_line_grows_when_the_rest_of_it_comes() -> None:
    window = loaded(b"loss 1.")
    window.told(20, ended=False)
    assert window.take(7, b"88\nnext\n", arrived=5.0)
    assert texts(window) == ["loss 1.88", "next"]
    assert [line.arrived for line in window.lines] == [None, 5.0]


def test_progress_is_folded_to_its_last_state_however_it_is_cut_into_pieces() -> None:
    log = b"".join(b"\r%3d%%" % n for n in range(101)) + b"\r\ndone\n"
    whole = loaded(log)
    assert texts(whole) == ["100%", "done"]
    assert whole.lines[0].states == 100
    pieces = LogWindow()
    pieces.told(len(log), ended=True)
    pieces.open(0, b"")
    for at in range(0, len(log), 7):
        assert pieces.take(at, log[at : at + 7])
    assert pieces.lines == whole.lines


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"dos line\r\n", "dos line"),
        (b"\x1b[31mred\x1b[0m \x1b[1;32mgreen\x1b[m\x1b[K\n", "red green"),
        (b"\x1b]0;title\x07\x1b[2Jcleared\n", "\\x1b]0;title\\x07\\x1b[2Jcleared"),
        (b"a\tb\n", "a       b"),
        (b"\xff\xfe bytes\n", "\\xff\\xfe bytes"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}evil\n".encode(), "\\u202eevil"),
        (b"nul\x00\x08bell\x07\n", "nul\\x00\\x08bell\\x07"),
        (b"[bold]no markup[/bold]\n", "[bold]no markup[/bold]"),
    ],
)
def test_what_a_line_writes_never_reaches_the_terminal_as_it_is(data: bytes, shown: str) -> None:
    assert texts(loaded(data)) == [shown]


def test_a_long_line_is_cut_with_a_mark_and_costs_no_more_than_what_is_shown() -> None:
    window = loaded(b"x" * 10_000_000 + b"\nnext\n")
    (long, after) = window.lines
    assert len(long.head) == SHOWN_BYTES
    assert text_of(long).endswith(f"x [+{10_000_000 - SHOWN_BYTES:,} bytes]")
    assert after.offset == 10_000_001


def test_a_cut_through_a_character_leaves_it_away() -> None:
    window = loaded(b"x" * (SHOWN_BYTES - 1) + "é".encode() + b"\n")
    assert text_of(window.lines[0]).startswith("x" * (SHOWN_BYTES - 1) + " [+1 bytes]")


def test_a_window_opened_in_the_middle_begins_at_a_line() -> None:
    log = b"first line\nsecond\nthird\n"
    window = LogWindow()
    window.told(len(log), ended=True)
    window.open(4, log[4:])
    assert texts(window) == ["second", "third"]
    assert window.start == 11
    assert give(window, log, window.before())
    assert texts(window) == ["first line", "second", "third"]
    assert window.at_start
    assert window.before() is None


def test_an_exact_offset_is_taken_at_its_word() -> None:
    window = LogWindow()
    window.open(11, b"second\n", exact=True)
    assert texts(window) == ["second"]


def test_the_end_of_a_line_longer_than_a_request_is_shown_and_said_to_begin_earlier() -> None:
    log = b"x" * (2 * CHUNK_BYTES) + b"\nend\n"
    window = LogWindow()
    window.told(len(log), ended=True)
    start = len(log) - CHUNK_BYTES
    window.open(start, log[start : start + 100])
    assert text_of(window.lines[0]).startswith("[begins earlier] xxx")
    while window.before() is not None:
        assert give(window, log, window.before())
    assert window.start == 0
    assert sum(line.length for line in window.lines) == window.end


def test_an_answer_that_does_not_join_the_window_is_refused() -> None:
    window = loaded(b"one\ntwo\n")
    assert not window.take(100, b"far away\n")
    assert not window.take(4, b"two\n")
    assert not window.take(8, b"")
    assert texts(window) == ["one", "two"]


def test_reading_down_through_a_long_log_keeps_a_bounded_part_of_it() -> None:
    line = b"step=%09d loss=1.8821 lr=2.9e-04 grad=0.41 tok/s=412k\n"
    log = b"".join(line % n for n in range(600_000))  # 36 MB
    window = LogWindow()
    window.told(len(log), ended=True)
    window.open(0, log[:CHUNK_BYTES])
    while not window.at_end:
        assert give(window, log, window.after())
        assert len(window.lines) <= KEPT_LINES
    assert text_of(window.lines[-1]).startswith("step=000599999")
    assert window.start > 0
    while not window.at_start:
        assert give(window, log, window.before())
        assert len(window.lines) <= KEPT_LINES
    assert text_of(window.lines[0]).startswith("step=000000000")
    assert window.after() == Ask(window.end, CHUNK_BYTES)


def test_long_lines_are_bounded_in_bytes_as_well() -> None:
    log = (b"y" * SHOWN_BYTES + b"\n") * 5_000  # 20 MB
    window = LogWindow()
    window.told(len(log), ended=True)
    window.open(0, b"")
    while not window.at_end:
        give(window, log, window.after())
    assert sum(len(line.head) for line in window.lines) <= KEPT_BYTES + SHOWN_BYTES
    assert window.lines[-1].offset + window.lines[-1].length == len(log)


def test_a_line_is_found_by_any_of_its_bytes() -> None:
    window = loaded(b"one\ntwo\nthree\n")
    assert [window.index_at(offset) for offset in (0, 3, 4, 9, 99)] == [0, 0, 1, 2, 2]


def test_an_older_answer_does_not_make_the_log_shorter() -> None:
    window = LogWindow()
    window.told(100, ended=True)
    window.told(40, ended=False)
    assert window.size == 100
    assert window.ended


@given(
    st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"x" * 50, "é€".encode(), b"\x1b[1m"]), max_size=80),
    st.integers(0, 2**32),
)
def test_whatever_comes_in_whatever_pieces_the_lines_are_those_of_the_whole(parts: list[bytes], seed: int) -> None:
    log, chance = b"".join(parts), random.Random(seed)
    window = LogWindow()
    window.told(len(log), ended=True)
    start = chance.randint(0, len(log))
    window.open(start, log[start : start + chance.randint(1, 40)])
    while not (window.at_start and window.at_end):
        if window.at_end or (not window.at_start and chance.random() < 0.5):
            offset = max(0, window.start - chance.randint(1, 40))
            assert window.take(offset, log[offset : window.start])
        else:
            assert window.take(window.end, log[window.end : window.end + chance.randint(1, 40)])
        assert [line.offset for line in window.lines] == _starts(window.lines, window.start)
    if all(line.whole for line in window.lines):
        assert [(line.offset, line.length) for line in window.lines] == _reference(log)


def _starts(lines: list[Line], start: int) -> list[int]:
    starts = [start]
    for line in lines:
        starts.append(starts[-1] + line.length)
    return starts[:-1]


def _reference(log: bytes) -> list[tuple[int, int]]:
    found, at = [], 0
    for piece in log.splitlines(keepends=True) if b"\r" not in log else _at_newlines(log):
        found.append((at, len(piece)))
        at += len(piece)
    return found


def _at_newlines(log: bytes) -> list[bytes]:
    pieces = [piece + b"\n" for piece in log.split(b"\n")]
    pieces[-1] = pieces[-1][:-1]
    return [piece for piece in pieces if piece]


def test_matches_come_page_by_page_and_a_line_that_has_grown_replaces_itself() -> None:
    window = MatchWindow("loss")
    complete = [window.at_end]
    window.take([(0, "loss 1"), (50, "loss 2")], searched_to=51, size=100, done=False)
    complete.append(window.at_end)
    window.take([(90, "loss 3 unfin")], searched_to=90, size=100, done=True)
    complete.append(window.at_end)
    window.take([(90, "loss 3 unfinished no more")], searched_to=120, size=120, done=True)
    assert complete == [False, False, True]
    assert [text_of(line) for line in window.lines] == ["loss 1", "loss 2", "loss 3 unfinished no more"]
    assert window.index_at(60) == 1
