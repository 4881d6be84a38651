"""What reaches a person's terminal: text made safe, times made local, widths known."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from datetime import datetime, timezone

from gpuq.cli.complain import complain
from gpuq.cli.fold import Fold

# What a job's output may do to a terminal: everything but newline, tab and carriage return (progress bars live on it).
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Text from somebody else as one line that cannot steer a terminal: control characters are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def sanitised(text: str) -> str:
    """A job's output with escape sequences made visible, lines and carriage returns kept."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def log_writer(raw: bool) -> Callable[[bytes], None]:
    """What writes a job's output to standard output as it comes: its very bytes, or safe and folded for a terminal."""
    if raw or not sys.stdout.isatty():

        def write(piece: bytes) -> None:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

        return write
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    fold = Fold()

    def write_safely(piece: bytes) -> None:
        text = fold(sanitised(decoder.decode(piece)))
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()

    return write_safely


def is_conversation() -> bool:
    """Whether somebody sits here, with keys and with what they see."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def stdout_width() -> int | None:
    """Columns of the terminal, or None if standard output is not one: then nothing is cut.

    `watch` takes what it shows through a pipe, and says with both variables how much it can show.
    """
    terminal = sys.stdout.isatty()
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0 and (terminal or "LINES" in os.environ):
        return int(columns)
    if not terminal:
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def say(text: str) -> None:
    """Writes a line to standard output, whatever its encoding can carry."""
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def tell(text: str) -> None:
    """A line on standard output, at once, of something that is being done: a reader who left does not undo it."""
    try:
        say(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return


def say_json(document: object) -> None:
    import json  # most verbs have it loaded by the client already; tables do not need it here

    sys.stdout.write(json.dumps(document, ensure_ascii=True, indent=None, separators=(", ", ": ")) + "\n")


def note(text: str) -> None:
    """One line on standard error, for what is not the result: progress, warnings, hints."""
    complain(text)


def say_behind(job: str) -> Callable[[int, bool], None]:
    """Says, for follow_log, that a node owes bytes of a job's log."""

    def say(count: int, given_up: bool) -> None:
        owed = f"the last {count:,} bytes of the output have not arrived from the node"
        note(f"{owed}; gpuq logs -f {job} has them if they do" if given_up else f"{owed}: waiting for them")

    return say


def seconds_of(time: str) -> float:
    """Wall seconds of the API's RFC 3339 UTC time."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def local_time(time: str | None) -> str:
    """'2026-11-21 06:53:12' in this machine's time zone; '-' when there is none."""
    if time is None:
        return "-"
    return datetime.fromtimestamp(seconds_of(time), timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table_time(time: str | None) -> str:
    """As local_time; where columns are dear, on a terminal, without today's date."""
    text = local_time(time)
    if stdout_width() is None:
        return text
    return text.removeprefix(datetime.now(timezone.utc).astimezone().strftime("%Y-%m-%d "))


def now_seconds() -> float:
    return datetime.now(timezone.utc).timestamp()
