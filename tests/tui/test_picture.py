from __future__ import annotations

import re
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tui.picture import Picture

STYLES = (
    "0", "1", "38;2;1;2;3", "38;2;1;2;3;48;2;9;9;9", "1;38;5;7;48;5;0", "4;31", "97;100", "38;2;1;2;3;49", "39;44", "7",
)  # fmt: skip
TEXTS = ("", "a", "words", "a much longer line of words", "  ", "│ █▇", "日本", "e\u0301x", "42s")


class Terminal:
    """Cells as a terminal has them: what was written where, and in which style."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], tuple[str, frozenset[str]]] = defaultdict(lambda: (" ", frozenset()))
        self.row = self.column = 1
        self.style: dict[str, str] = {}

    def write(self, data: str) -> None:
        for row, column, style, text, _rest in re.findall(
            r"\x1b\[(\d+);(\d+)H|\x1b\[([\d;]*)m|([^\x1b\n]+)|(\n)", data, re.DOTALL
        ):
            if row:
                self.row, self.column = int(row), int(column)
            elif style:
                self._restyle(style.split(";"))
            for char in text:
                cells = cell_len(char)
                at = self.column if cells else self.column - 1
                shown = char if cells else self.cells[self.row, at][0] + char
                self.cells[self.row, at] = shown, frozenset(map("=".join, self.style.items()))
                self.column += cells

    def _restyle(self, codes: list[str]) -> None:
        while codes:
            code = codes.pop(0)
            if code in ("38", "48"):
                length = 4 if codes[0] == "2" else 2
                self.style["ink" if code == "38" else "ground"] = code[0] + ";".join(codes[:length])
                del codes[:length]
            elif code == "0":
                self.style = {}
            elif code in ("39", "49"):
                self.style.pop("ink" if code == "39" else "ground", None)
            elif 30 <= int(code) < 38 or 90 <= int(code) < 98:
                self.style["ink"] = code
            elif int(code) >= 40:
                self.style["ground"] = code
            else:
                self.style[f"flag {code}"] = ""


def line(row: int, *pieces: tuple[str, str], column: int = 1) -> str:
    """As Textual writes a line of pieces, each with its style."""
    return f"\x1b[{row};{column}H" + "".join(f"\x1b[{style}m{text}\x1b[0m" for style, text in pieces)


frames = st.lists(
    st.builds(
        lambda row, column, pieces: line(row, *pieces, column=column),
        st.integers(1, 3),
        st.sampled_from((1, 1, 7, 20)),
        st.lists(st.tuples(st.sampled_from(STYLES), st.sampled_from(TEXTS)), max_size=4),
    ),
    max_size=4,
).map(lambda lines: "\n".join(lines) + "\x1b[1;1H")


@given(st.lists(frames, max_size=8))
def test_the_terminal_ends_up_the_same_as_by_the_whole_frames(sequence: list[str]) -> None:
    whole, less, picture = Terminal(), Terminal(), Picture()
    for frame in sequence:
        whole.write(frame)
        less.write(picture.update(frame))
        for place in {*whole.cells, *less.cells}:
            assert less.cells[place] == whole.cells[place]


def test_what_is_shown_already_is_not_sent() -> None:
    picture = Picture()
    frame = line(2, ("1;31", "RUN"), ("0", " words")) + "\x1b[1;1H"
    assert picture.update(frame)
    assert picture.update(frame) == ""


def test_of_a_line_only_what_is_other_is_sent() -> None:
    picture = Picture()
    picture.update(line(2, ("32", "run-1   41s   n0001")))
    assert picture.update(line(2, ("32", "run-1   42s   n0001"))) == "\x1b[2;10H\x1b[32m2\x1b[0m"


def test_of_a_style_only_what_is_other_is_sent() -> None:
    sent = Picture().update(line(1, ("38;2;1;2;3;48;2;9;9;9", "a"), ("38;2;4;5;6;48;2;9;9;9", "b")))
    assert sent == "\x1b[1;1H\x1b[38;2;1;2;3;48;2;9;9;9ma\x1b[38;2;4;5;6mb\x1b[0m"


def test_after_it_was_told_to_forget_all_is_sent() -> None:
    picture = Picture()
    frame = line(1, ("31", "words")) + "\x1b[1;1H"
    first = picture.update(frame)
    picture.forget()
    assert picture.update(frame) == first


def test_modes_the_clipboard_and_the_bell_pass_and_leave_the_picture_as_it_is() -> None:
    picture = Picture()
    frame = line(1, ("31", "words"))
    picture.update(frame)
    for control in ("\x1b[?2026h", "\x1b[?25l", "\x1b[>25u", "\x1b[?2026$p", "\x1b]52;c;d29yZHM=\x07", "\x07"):
        assert picture.update(control) == control
        assert picture.update(frame) == ""


def test_another_screen_or_anything_unknown_is_drawn_over_all() -> None:
    for control in ("\x1b[?1049h", "\x1b[?1049l", "\x1b[2J", "words without a place", "\x1b[1;1Ha\tb", "\x1bc"):
        picture = Picture()
        frame = line(1, ("31", "words"))
        first = picture.update(frame)
        assert picture.update(control) == control
        assert picture.update(frame) == first


def test_a_line_whose_width_terminals_do_not_agree_on_is_always_sent_whole() -> None:
    picture = Picture()
    frame = line(1, ("31", "日本 42s"))
    assert picture.update(frame) == picture.update(frame) != ""
    assert "words that follow" in picture.update(line(1, ("31", "words that follow")))


def test_the_cursor_is_put_where_the_frame_leaves_it() -> None:
    picture = Picture()
    assert picture.update(line(1, ("31", "words")) + "\x1b[3;4H").endswith("\x1b[3;4H")
    assert picture.update("\x1b[3;4H") == ""
    assert picture.update("\x1b[5;6H") == "\x1b[5;6H"
