"""Sizes, durations and ids as people write them, both ways. Pure text; raises InvalidRequest on what it cannot read."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone

from gpuq.errors import InvalidRequest

# Numbers are at most so long: int() and float() of what someone pasted by mistake raise errors of their own.
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([kmgt])(?:i?b)?|(b))?", re.IGNORECASE | re.ASCII)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SPANS = re.compile(r"(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m(?:in)?)?(?:(\d{1,9})s)?", re.ASCII)
_SLURM = re.compile(r"\d{1,9}(?:-\d{1,9})?(?::\d{1,9}){0,2}", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)
_SPAN_SECONDS = (604_800, 86_400, 3_600, 60, 1)
MAX_SECONDS = 10 * 366 * 86_400  # nothing gpuq runs lasts ten years; a larger number is a typing error

# As Linux numbers them on all machines gpuq runs on; a client may be another system. Those that programs catch.
SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "ALRM": 14, "TERM": 15, "CONT": 18, "XCPU": 24}
WARNING_SECONDS = 60  # as Slurm's --signal has it
MAX_WARNING_SECONDS = 65_535  # likewise
_SIGNAL = re.compile(r"(?:(B):)?([A-Z0-9]{1,8})(?:@(\d{1,6}))?")


def parse_size(text: str, bare: str = "m") -> int:
    """Bytes of '24G', '512M', '1.5TiB', '512B'; a bare number counts in `bare` (Slurm: megabytes).

    Units are powers of 1024.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InvalidRequest(f"'{text}' is not a size", "write for example 24G or 512M")
    number, unit, bytes_ = match.groups()
    size = int(float(number) * (1 << _SHIFT["" if bytes_ else (unit or bare).lower()]))
    if size >= 1 << 60:
        raise InvalidRequest(f"'{text}' is more memory than any machine has")
    return size


def format_size(size: int | None) -> str:
    """'79.6G' for people; '-' when the size is not known."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1024 or unit == "T":
            return f"{value:.0f}{unit}" if value >= 100 or unit == "B" or value == int(value) else f"{value:.1f}{unit}"
        value /= 1024
    raise AssertionError("unreachable")


def plural(count: int, noun: str) -> str:
    """The noun as it stands behind the count: 'GPU' behind 1, else 'GPUs'."""
    return noun if count == 1 else f"{noun}s"


def parse_duration(text: str) -> int:
    """Seconds of Slurm's grammar (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; a bare number is minutes) or '2h30m', '90s'.

    Zero, 'infinite' and 'unlimited' are refused here: leaving the limit away says that.
    """
    text = text.strip()
    seconds = _slurm_seconds(text)
    if seconds is None and text:
        match = _SPANS.fullmatch(text.lower())
        if match:
            seconds = sum(int(n) * s for n, s in zip(match.groups(), _SPAN_SECONDS, strict=True) if n)
    if seconds is None:
        raise InvalidRequest(f"'{text}' is not a duration", "write minutes, H:M:S, D-H:M:S, or for example 2h30m")
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidRequest(f"the duration '{text}' is not between 1 second and 10 years")
    return seconds


def _slurm_seconds(text: str) -> int | None:
    if not _SLURM.fullmatch(text):
        return None
    days, dash, clock = text.rpartition("-")
    parts = [int(p) for p in clock.split(":")]
    if dash:  # D-H[:M[:S]]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(days) * 86_400 + hours * 3_600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3_600 + parts[1] * 60 + parts[2]
    minutes, seconds = (*parts, 0)[:2]
    return minutes * 60 + seconds


def parse_signal(text: str) -> tuple[int, int, bool]:
    """(number, seconds before the time limit, whether to the main process alone) of Slurm's '[B:]SIG[@SECONDS]'."""
    match = _SIGNAL.fullmatch(text.strip().upper())
    if match is None:
        raise InvalidRequest(f"'{text}' is not a signal and a time", "write for example USR1@120 or B:USR1@120")
    main, name, seconds = match.groups()
    number = SIGNALS.get(name.removeprefix("SIG"), int(name) if name.isdigit() else 0)
    if number not in SIGNALS.values():
        raise InvalidRequest(f"'{name}' is not a signal gpuq sends", f"one of {', '.join(SIGNALS)}")
    if seconds is not None and int(seconds) > MAX_WARNING_SECONDS:
        raise InvalidRequest(f"'{text}': at most {MAX_WARNING_SECONDS} s before the time limit")
    return number, WARNING_SECONDS if seconds is None else int(seconds), main is not None


def format_signal(number: int) -> str:
    """'USR1'; the number where it has no name here."""
    return next((name for name, known in SIGNALS.items() if known == number), str(number))


def format_duration(seconds: float | None) -> str:
    """'1-02:03:04' or '02:03:04', as Slurm shows it; '-' when not known."""
    if seconds is None:
        return "-"
    total = max(0, int(seconds))
    days, rest = divmod(total, 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def format_time(wall: float | None) -> str | None:
    """RFC 3339, UTC, milliseconds: '2026-11-21T05:53:12.042Z'. None stays None.

    So does a time that no calendar has: nodes report theirs, and one broken clock must not break a whole list.
    """
    if wall is None:
        return None
    try:
        return datetime.fromtimestamp(wall, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def parse_begin(text: str, now: float) -> float:
    """Wall seconds of '2026-11-21T22:00[:00][Z]', '22:00[:00]', 'now', 'now+2h', 'now+90' (Slurm: seconds), 'tomorrow'.

    A clock time that has passed today means tomorrow. Times without a zone are local to who asks.
    """
    plain = text.strip()
    if plain == "now":
        return now
    if plain.startswith("now+"):
        span = plain[4:]
        return now + (int(span) if re.fullmatch(r"[0-9]{1,9}", span) else parse_duration(_long_units(span)))
    if plain in ("tomorrow", "midnight"):
        return _local(now, 1, 0, 0, 0)
    clock = _CLOCK.fullmatch(plain)
    if clock:
        hour, minute, second = (int(part or 0) for part in clock.groups())
        if hour > 23 or minute > 59 or second > 59:
            raise InvalidRequest(f"'{text}' is not a time of day")
        today = _local(now, 0, hour, minute, second)
        return today if today > now else _local(now, 1, hour, minute, second)
    try:
        return datetime.fromisoformat(plain[:-1] + "+00:00" if plain.endswith("Z") else plain).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest(f"'{text}' is not a time", "write for example now+2h, 22:00 or 2026-11-21T22:00") from None


def _local(now: float, days: int, hour: int, minute: int, second: int) -> float:
    """A clock time of the local day `days` after today; mktime knows about summer time, arithmetic does not."""
    today = time.localtime(now)
    return time.mktime((today.tm_year, today.tm_mon, today.tm_mday + days, hour, minute, second, 0, 0, -1))


def _long_units(span: str) -> str:
    """Slurm's 'now+2hours', 'now+1day' in this module's grammar."""
    return re.sub(r"(week|day|hour|minute|second)s?", lambda m: m.group(1)[0], span)
