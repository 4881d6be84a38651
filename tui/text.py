"""Text on its way to the screen: made safe, measured in cells, cut and padded; figures as people read them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from rich.cells import cell_len

from gpuq.units import format_duration, format_size
from tui.job_row import JobRow

UNKNOWN = "?"  # not known is never shown as 0
_CUT = "…"
# More of a text than this is never shown in a row: a name of 10 KB must not cost 10 KB of work in every frame.
_LONGEST = 4096
# Marks piled on one letter, beyond the two that a language may need, climb over the lines above and below.
_PILED = re.compile("([\u0300-\u036f]{2})[\u0300-\u036f]+")

STATE_LETTER: Mapping[str, str] = {
    "QUEUED": "Q",
    "ALLOCATED": "A",
    "STARTING": "S",
    "RUNNING": "R",
    "STOPPING": "E",
    "LOST": "L",
    "SUCCEEDED": "D",
    "FAILED": "F",
    "CANCELED": "C",
}
HELD = "H"  # queued, and held by somebody


def letter_of(row: JobRow) -> str:
    """The letter of a job's state."""
    if row.reason is not None and row.reason["code"] == "held" and row.state == "QUEUED":
        return HELD
    return STATE_LETTER.get(row.state, UNKNOWN)


def safe(text: str) -> str:
    """Text from somebody else as one line that cannot steer a terminal: what does not print is shown as an escape."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + _CUT
    if not text.isascii():
        text = _PILED.sub(r"\1", text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def cell_width(text: str) -> int:
    """Cells that a line takes on the screen; a wide character takes two."""
    return len(text) if text.isascii() else cell_len(text)


def clip(text: str, cells: int) -> str:
    """The line cut to at most `cells`; a cut one ends in an ellipsis."""
    if len(text) <= cells and text.isascii():
        return text
    if cells <= 0:
        return ""
    if text.isascii():
        return text[: cells - 1] + _CUT
    if len(text) <= 4 * cells and cell_len(text) <= cells:
        return text
    return _head(text, cells - 1) + _CUT


def pad(text: str, cells: int, right: bool = False) -> str:
    """The line in exactly `cells`: cut, or filled with spaces behind it (`right`: before it)."""
    text = clip(text, cells)
    fill = " " * max(0, cells - cell_width(text))
    return fill + text if right else text + fill


def _head(text: str, cells: int) -> str:
    """The longest beginning that fits. Combining marks beyond a few per cell are left out with the rest."""
    taken = used = 0
    for character in text[: 4 * cells + 4]:
        used += cell_len(character)
        if used > cells:
            break
        taken += 1
    return text[:taken]


def duration(seconds: float | None) -> str:
    """'02:14:09', '3-02:14:09'; '?' when not known."""
    return UNKNOWN if seconds is None else format_duration(seconds)


def span(seconds: float | None) -> str:
    """A duration in at most 5 cells that changes seldom: '42s', '14m', '2h14', '3d02'; '?' when not known.

    A list of seconds that count would send its whole column to the terminal every second.
    """
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 6_000:
        return f"{whole // 60}m"
    if whole < 172_800:
        return f"{whole // 3600}h{whole // 60 % 60:02}"
    return f"{whole // 86_400}d{whole // 3600 % 24:02}"


def ago(seconds: float | None) -> str:
    """A span in one unit, for people: '4 s', '14 min', '3 h', '2 d'; '?' when not known."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    for unit, span in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= 2 * span or (unit == "min" and whole >= span):
            return f"{whole // span} {unit}"
    return f"{whole} s"


def size(count: int | None) -> str:
    """Bytes as '79.6G'; '?' when not known."""
    return UNKNOWN if count is None else format_size(count)


def seconds_of(time: str | None) -> float | None:
    """Wall seconds of the API's RFC 3339 UTC time; None stays None."""
    return None if time is None else datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def clock(wall: float) -> str:
    """'05:53:12' in the time zone of who looks."""
    return datetime.fromtimestamp(wall).astimezone().strftime("%H:%M:%S")


def reason_text(reason: Mapping[str, str]) -> str:
    """Why a job waits, as the controller says it; a begin time in the time zone of who looks."""
    if reason["code"] != "begin":
        return reason["text"]
    try:
        at = datetime.fromisoformat(reason["text"].removeprefix("begins ").replace("Z", "+00:00"))
    except ValueError:
        return reason["text"]
    return f"begins {at.astimezone():%Y-%m-%d %H:%M:%S}"
