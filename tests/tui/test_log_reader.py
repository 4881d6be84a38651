from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gpuq.errors import InvalidRequest, NotAuthorised, Unavailable
from tests.tui.logs import Logs, training_log
from tui.log_model import CHUNK_BYTES, MatchWindow, text_of
from tui.log_reader import POLL_SECONDS, LogReader
from tui.log_view import LogView

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


class Reading:
    """A reader, its view, and a clock that stands still."""

    def __init__(self, logs: Logs, **choice: Any) -> None:
        self.client: Any = logs
        self.now = 100.0
        self.reader = LogReader("7", lambda: self.now, lambda: 5_000.0 + self.now, **choice)
        self.view = LogView(self.reader.window)
        self.view.resize(80, 20)

    def fetch(self) -> int:
        """Fetches all that the view lacks; how many requests that took."""
        before = len(self.client.asked)
        while run(self.reader.fetch(self.client, self.view)):
            pass
        return len(self.client.asked) - before

    def later(self) -> None:
        self.now += POLL_SECONDS + 0.1

    def shown(self) -> list[str]:
        return [row.text for row in self.view.rows()]


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def test_a_long_log_is_opened_at_its_end_with_few_bytes(logs: Logs) -> None:
    logs.add(training_log(1_000_000))  # 58 MB
    reading = Reading(logs)
    assert reading.fetch() <= 3
    assert sum(limit for _, limit in logs.asked) <= 3 * CHUNK_BYTES
    assert reading.shown()[-1].startswith("step=000999999")


def test_scrolling_up_fetches_ahead_and_never_all(logs: Logs) -> None:
    logs.add(training_log(1_000_000))
    reading = Reading(logs)
    reading.fetch()
    for _ in range(300):
        reading.view.move(-19)
        reading.fetch()
        assert len(reading.shown()) == 20
    assert reading.shown()[0].startswith("step=00099428")
    assert len(logs.asked) < 10


def test_the_far_end_is_jumped_to_not_read_through(logs: Logs) -> None:
    logs.add(training_log(1_000_000))
    reading = Reading(logs)
    reading.fetch()
    reading.reader.open_at(run(reading.reader.around(reading.client, 0)), 0)
    reading.view.go(0)
    reading.fetch()
    assert reading.shown()[0].startswith("step=000000000")
    reading.view.end()
    assert reading.fetch() <= 3
    assert reading.shown()[-1].startswith("step=000999999")


def test_following_shows_what_comes_and_when_it_came(logs: Logs) -> None:
    log = logs.add(b"one\n", ended=False)
    reading = Reading(logs)
    reading.fetch()
    log.write(b"two\n")
    assert reading.fetch() == 0  # asked a moment ago
    reading.later()
    reading.fetch()
    assert reading.shown() == ["one", "two"]
    assert [line.arrived for line in reading.reader.window.lines] == [None, 5_000.0 + reading.now]


def test_a_log_that_has_ended_is_asked_for_no_more(logs: Logs) -> None:
    logs.add(b"one\n")
    reading = Reading(logs)
    reading.fetch()
    reading.later()
    assert reading.fetch() == 0


def test_what_is_read_is_not_pushed_out_by_what_comes(logs: Logs) -> None:
    log = logs.add(training_log(5_000), ended=False)
    reading = Reading(logs)
    reading.fetch()
    reading.view.move(-1_000)
    reading.fetch()
    before, end = reading.shown(), reading.reader.window.end
    log.write(training_log(5_000))
    reading.later()
    reading.fetch()
    assert reading.shown() == before
    assert reading.reader.window.end == end
    assert reading.reader.window.size == log.path.stat().st_size


def test_a_job_that_has_not_started_is_asked_again_until_it_has(logs: Logs) -> None:
    reading = Reading(logs)
    reading.fetch()
    assert reading.shown() == []
    logs.add(b"begun\n", ended=False)
    reading.later()
    reading.fetch()
    assert reading.shown() == ["begun"]


def test_an_attempt_once_shown_stays_the_one_shown(logs: Logs) -> None:
    logs.add(b"first\n", attempt=1)
    reading = Reading(logs)
    reading.fetch()
    logs.add(b"second\n", attempt=2)
    reading.later()
    reading.fetch()
    assert (reading.reader.attempt, reading.shown()) == (1, ["first"])


def test_a_rank_of_choice_is_read(logs: Logs) -> None:
    logs.add(b"zero\n", rank=0, ranks=2)
    logs.add(b"one\n", rank=1, ranks=2)
    reading = Reading(logs, rank=1)
    reading.fetch()
    assert reading.shown() == ["one"]
    assert reading.reader.ranks == 2


def test_trouble_is_said_and_gone_when_the_controller_is_back(logs: Logs) -> None:
    logs.add(b"one\n", ended=False)
    reading = Reading(logs)
    logs.trouble = Unavailable("the controller is starting")
    reading.fetch()
    assert reading.reader.trouble == "the controller is starting"
    logs.trouble = None
    reading.later()
    reading.fetch()
    assert reading.reader.trouble == ""
    assert reading.shown() == ["one"]


def test_a_log_one_may_not_read_is_asked_for_once(logs: Logs) -> None:
    reading = Reading(logs)
    logs.trouble = NotAuthorised("the log of job 7 is for its owner")
    reading.fetch()
    reading.later()
    assert reading.fetch() == 0
    assert "for its owner" in reading.reader.trouble


def test_a_search_looks_through_the_whole_log_both_ways(logs: Logs) -> None:
    log = logs.add(training_log(700_000) + b"here: NaN\n" + training_log(700_000))  # 81 MB: three answers
    offset = 59 * 700_000
    reading = Reading(logs)
    reading.fetch()
    find, size = reading.reader.find, log.path.stat().st_size
    assert run(find(reading.client, "nan", 0)) == offset
    assert run(find(reading.client, "nan", size, backwards=True)) == offset
    assert run(find(reading.client, "NaN", offset + 1)) is None
    assert run(find(reading.client, "NAN", 0)) is None  # capitals are meant
    assert reading.reader.searched == ""
    reading.reader.open_at(run(reading.reader.around(reading.client, offset)), offset)
    reading.view.go(offset, above=3)
    assert reading.shown()[3] == "here: NaN"


def test_only_what_matches_comes_page_by_page(logs: Logs) -> None:
    logs.add(b"".join(b"%s %d\n" % (b"loss" if n % 2 else b"note", n) for n in range(6_000)))
    reading = Reading(logs)
    reading.fetch()
    matches = reading.reader.matches = MatchWindow("loss")
    reading.view.look_at(matches)
    reading.view.home()
    reading.fetch()
    assert reading.shown()[:2] == ["loss 1", "loss 3"]
    assert len(matches.lines) == 1_000
    reading.view.end()
    reading.fetch()
    assert text_of(matches.lines[-1]) == "loss 5999"
    assert matches.at_end


def test_a_saved_log_is_the_log_to_the_byte(logs: Logs, tmp_path: Path) -> None:
    log = logs.add(training_log(50_000) + b"\x00\xff no line end")
    reading, told = Reading(logs), []
    path = tmp_path / "saved.log"
    size = run(reading.reader.save(reading.client, path, lambda at, whole: told.append((at, whole))))
    assert path.read_bytes() == log.path.read_bytes()
    assert told[-1] == (size, size)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(InvalidRequest, match="cannot write"):
        run(reading.reader.save(reading.client, path, lambda at, whole: None))
