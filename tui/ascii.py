"""--ascii: whatever is drawn, what reaches the terminal is ASCII. One filter over every line that is painted."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

# What stands for the glyphs that gpuq and Textual draw with; everything else becomes a question mark a cell.
_INSTEAD = str.maketrans(
    {
        **dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True)),
        **dict.fromkeys("─━═▔╌┄╍⎯", "-"),
        **dict.fromkeys("│┃║▏▎▍▌▋▊▉▐▕┆┊", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰╔╗╚╝╠╣╦╩╬┏┓┗┛", "+"),
        **dict.fromkeys("▲↑", "^"),
        **dict.fromkeys("▼↓", "v"),
        **dict.fromkeys("▶→", ">"),
        **dict.fromkeys("◀←", "<"),
        **dict.fromkeys("•·●◌", "*"),
        **dict.fromkeys("░▒", "."),
        "▓": "#",
        "…": "~",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{EN DASH}": "-",
        "—": "-",
        "°": "*",
        "\N{NO-BREAK SPACE}": " ",
    }
)


class AsciiFilter(LineFilter):
    """Keeps the width of every line, so that nothing moves."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.control or segment.text.isascii()
            else Segment(in_ascii(segment.text), segment.style, segment.control)
            for segment in segments
        ]


def in_ascii(text: str) -> str:
    """The text with glyphs of the same width in their places."""
    text = text.translate(_INSTEAD)
    return text if text.isascii() else "".join(c if c.isascii() else "?" * cell_len(c) for c in text)
