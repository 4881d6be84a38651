from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq.errors import InvalidRequest
from gpuq.units import (
    MAX_SECONDS,
    format_duration,
    format_signal,
    format_size,
    format_time,
    parse_begin,
    parse_duration,
    parse_signal,
    parse_size,
)

HOUR, DAY = 3_600, 86_400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),  # minutes
        ("1:30", 90),  # minutes:seconds
        ("2:03:04", 2 * HOUR + 184),
        ("3-0", 3 * DAY),  # days-hours
        ("1-12", DAY + 12 * HOUR),
        ("1-2:30", DAY + 2 * HOUR + 1_800),
        ("1-2:03:04", DAY + 2 * HOUR + 184),
        ("0-0:0:1", 1),
        ("0:90", 90),  # Slurm takes more than 59
        (" 5 ", 300),
        ("90s", 90),
        ("2h30m", 2 * HOUR + 1_800),
        ("30min", 1_800),
        ("1w2d3h4m5s", 9 * DAY + 3 * HOUR + 245),
        ("1D", DAY),
    ],
)
def test_durations_in_every_form(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "0:00", "0s", "-5", "1:2:3:4", "1-", "-1", "1-2-3", ":30", "1:", "1.5h", "2h 30m", "30m2h", "h",
     "inf", "infinite", "unlimited", "1e3", "٣", "٣h", "²", "1٣:00", "0x10", "5\n5", "9" * 9, "1" * 9 + "-0",
     "9" * 5_000, "9" * 5_000 + "h", "1:" + "9" * 5_000, str(MAX_SECONDS // 60 + 1)],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_duration(text)


@given(st.integers(0, MAX_SECONDS))
def test_a_formatted_duration_reads_back(seconds: int) -> None:
    shown = format_duration(seconds)
    if seconds == 0:
        assert shown == "00:00:00"
    else:
        assert parse_duration(shown) == seconds


@given(st.text(max_size=30))
def test_any_text_is_a_duration_a_size_or_refused(text: str) -> None:
    for parse in (parse_duration, parse_size, lambda t: parse_begin(t, 1e9)):
        with contextlib.suppress(InvalidRequest):
            parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24G", 24 << 30),
        ("24g", 24 << 30),
        ("24GB", 24 << 30),
        ("24GiB", 24 << 30),
        ("24 G", 24 << 30),
        ("512M", 512 << 20),
        ("512", 512 << 20),
        ("512k", 512 << 10),
        ("1.5T", 3 << 39),
        ("512B", 512),
        ("0", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_bare_size_counts_in_what_the_caller_says() -> None:
    assert parse_size("2", bare="g") == 2 << 30


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "1P", "1e3", "1,5G", "٣G", "5iB", "1G1", "nan", "inf", "1048576T", "9" * 18 + "T",
             "9" * 400, "9" * 5_000]
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1K"),
        (1536, "1.5K"),
        (80 << 30, "80G"),
        (85_520_809_984, "79.6G"),
        (3 << 40, "3T"),
        (5000 << 40, "5000T"),
    ],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert format_size(size) == text


def test_durations_and_times_that_are_not_known() -> None:
    assert format_duration(None) == "-"
    assert format_time(None) is None
    assert format_duration(-3.0) == "00:00:00"
    assert format_duration(DAY + 1) == "1-00:00:01"


@pytest.mark.parametrize("wall", [1e300, -1e300, float("inf"), float("nan"), 1e12])
def test_a_time_no_calendar_has_is_not_known(wall: float) -> None:
    assert format_time(wall) is None


def test_times_are_utc_with_milliseconds() -> None:
    assert format_time(0.0) == "1970-01-01T00:00:00.000Z"
    assert format_time(1_763_704_392.042) == "2025-11-21T05:53:12.042Z"


# ---------------------------------------------------------------- begin times


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return parse_begin(text, 0.0)


NOON = 1_763_722_800.0  # 2025-11-21 12:00 in Berlin


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("now", 0),
        ("now+90", 90),  # Slurm: seconds, unlike -t
        ("now+2h", 2 * HOUR),
        ("now+2hours", 2 * HOUR),
        ("now+1day", DAY),
        ("now+30minutes", 1_800),
        ("13:00", HOUR),
        ("12:00:01", 1),
        ("11:59", DAY - 60),  # passed today: tomorrow
        ("12:00", DAY),
        ("tomorrow", 12 * HOUR),
        ("midnight", 12 * HOUR),
        ("2025-11-21T13:00", HOUR),
        ("2025-11-21T13:00:30", HOUR + 30),
        ("2025-11-21T12:00:00Z", HOUR),
        ("2025-11-21T12:00:00+01:00", 0),
        ("2025-11-22", 12 * HOUR),
    ],
)
def test_begin_times_in_every_form(text: str, after: float) -> None:
    assert parse_begin(text, NOON) == NOON + after


@pytest.mark.parametrize(
    "text", ["", "now+", "now-5", "now+-5", "24:00", "12:60", "12:00:60", "1:2", "yesterday", "2025-13-01", "٣:00",
             "now+" + "9" * 5_000, "9" * 5_000, "2025-11-21T25:00"]
)  # fmt: skip
def test_what_is_no_begin_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_begin(text, NOON)


@pytest.mark.usefixtures("berlin")
def test_tomorrow_is_23_hours_away_when_summer_time_begins() -> None:
    midnight = at("2025-03-30T00:00")
    assert parse_begin("tomorrow", midnight) == midnight + 23 * HOUR
    assert parse_begin("22:00", midnight) == midnight + 21 * HOUR


@pytest.mark.usefixtures("berlin")
def test_tomorrow_is_25_hours_away_when_summer_time_ends() -> None:
    midnight = at("2025-10-26T00:00")
    assert parse_begin("tomorrow", midnight) == midnight + 25 * HOUR
    assert parse_begin("22:00", midnight) == midnight + 23 * HOUR


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("now", ["2025-03-30T00:30", "2025-03-30T01:45", "2025-03-30T03:15", "2025-10-26T01:45"])
def test_a_clock_time_that_summer_time_skips_or_repeats_is_still_the_next_one(now: str) -> None:
    begin = parse_begin("02:30", at(now))
    assert at(now) < begin <= at(now) + 26 * HOUR


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("USR1@120", (10, 120, False)),
        ("B:usr1", (10, 60, True)),
        ("SIGTERM@0", (15, 0, False)),
        ("10@30", (10, 30, False)),
    ],
)
def test_a_warning_signal_as_slurm_writes_it(text: str, parsed: tuple[int, int, bool]) -> None:
    assert parse_signal(text) == parsed
    assert format_signal(parsed[0]) == {10: "USR1", 15: "TERM"}[parsed[0]]


@pytest.mark.parametrize("text", ["", "KILL", "9", "R:USR1@60", "USR1@", "USR1@70000", "USR1 120", "0"])
def test_what_is_no_such_signal_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_signal(text)
    assert "\n" not in refused.value.one_line()
