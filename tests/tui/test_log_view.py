from __future__ import annotations

import pytest

from tui.log_model import LogWindow
from tui.log_view import LogView, wrapped


def view_of(text: str, width: int = 20, height: int = 4) -> LogView:
    window = LogWindow()
    data = text.encode()
    window.told(len(data), ended=True)
    window.open(0, data)
    view = LogView(window)
    view.resize(width, height)
    return view


def shown(view: LogView) -> list[str]:
    return [row.text for row in view.rows()]


def ten() -> LogView:
    return view_of("".join(f"line {n}\n" for n in range(10)))


def test_it_begins_at_the_end_and_stays_there_while_it_follows() -> None:
    view = ten()
    assert shown(view) == ["line 6", "line 7", "line 8", "line 9"]
    window = view.source
    assert isinstance(window, LogWindow)
    window.told(window.end + 8, ended=False)
    window.take(window.end, b"line 10\n")
    view.settle()
    assert shown(view)[-1] == "line 10"


def test_a_move_upwards_ends_following_and_new_lines_then_move_nothing() -> None:
    view = ten()
    view.move(-2)
    assert not view.follow
    before = shown(view)
    window = view.source
    assert isinstance(window, LogWindow)
    window.told(window.end + 8, ended=False)
    window.take(window.end, b"line 10\n")
    view.settle()
    assert shown(view) == before == ["line 4", "line 5", "line 6", "line 7"]


def test_what_is_read_stays_where_it_is_when_lines_are_loaded_above() -> None:
    log = b"".join(b"line %d\n" % n for n in range(100))
    window = LogWindow()
    window.told(len(log), ended=True)
    window.open(400, log[400:])
    view = LogView(window)
    view.resize(20, 4)
    view.move(-10)
    before = shown(view)
    ask = window.before()
    assert ask is not None
    assert window.take(ask.offset, log[ask.offset : ask.offset + ask.limit])
    view.settle()
    assert shown(view) == before


def test_no_move_leaves_the_log() -> None:
    view = ten()
    view.move(-100)
    assert shown(view)[0] == "line 0"
    view.move(100)
    assert shown(view)[-1] == "line 9"
    assert len(shown(view)) == 4
    assert not view.follow


def test_a_log_shorter_than_the_screen_begins_at_its_top() -> None:
    view = view_of("one\ntwo\n")
    assert shown(view) == ["one", "two"]
    view.move(5)
    assert shown(view) == ["one", "two"]


def test_an_empty_log_has_no_rows_and_every_move_is_harmless() -> None:
    view = view_of("")
    for act in (view.home, view.end, view.settle):
        act()
    view.move(3)
    view.go(17)
    assert shown(view) == []


def test_going_to_a_line_shows_some_before_it() -> None:
    view = ten()
    view.go(7 * 5, above=2)
    assert shown(view) == ["line 3", "line 4", "line 5", "line 6"]


def test_wrapped_lines_are_moved_through_row_by_row() -> None:
    view = view_of("a" * 50 + "\n" + "b" * 25 + "\nend\n", width=20, height=3)
    view.wrap = True
    view.settle()
    assert shown(view) == ["b" * 20, "b" * 5, "end"]
    view.move(-1)
    assert shown(view) == ["a" * 10, "b" * 20, "b" * 5]
    assert [row.number for row in view.rows()] == [2, 0, 1]
    view.home()
    view.move(1)
    assert shown(view) == ["a" * 20, "a" * 10, "b" * 20]


def test_the_end_of_a_line_longer_than_the_screen_is_shown_when_following() -> None:
    view = view_of("x" * 95 + "\n", width=20, height=3)
    view.wrap = True
    view.settle()
    assert shown(view) == ["x" * 20, "x" * 20, "x" * 15]


def test_unwrapping_keeps_the_line_that_is_read() -> None:
    view = view_of("a" * 95 + "\n" + "".join(f"{n}\n" for n in range(9)), width=20, height=3)
    view.wrap = True
    view.home()
    view.move(3)
    view.wrap = False
    view.settle()
    assert shown(view)[0] == "a" * 95


@pytest.mark.parametrize(
    ("text", "width", "rows"),
    [
        ("", 5, ("",)),
        ("abcdef", 3, ("abc", "def")),
        ("abcdefg", 3, ("abc", "def", "g")),
        ("日本語", 4, ("日本", "語")),
        ("日本語", 3, ("日", "本", "語")),
        ("日本", 1, ("日", "本")),
        ("e\N{COMBINING ACUTE ACCENT}abc", 2, ("e\N{COMBINING ACUTE ACCENT}a", "bc")),
    ],
)
def test_lines_wrap_by_cells_not_by_characters(text: str, width: int, rows: tuple[str, ...]) -> None:
    assert wrapped(text, width) == rows
    assert "".join(wrapped(text, width)) == text
