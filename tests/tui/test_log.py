from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tui.clusters import ServedClient, changes, job, running, snapshot
from tests.tui.desk import Desk, desk, played
from tests.tui.logs import Logs, training_log, with_logs
from tui.log import LogPane


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logs:
    monkeypatch.chdir(tmp_path)
    return Logs(tmp_path)


def served(logs: Logs, **fields: Any) -> Any:
    return with_logs(ServedClient(snapshot([running(7, name="llama")._replace(**fields)])), logs)


async def opened(found: Desk) -> LogPane:
    await found.command("log 7")
    await found.until(lambda: isinstance(found.app.focused, LogPane))
    pane = found.app.focused
    assert isinstance(pane, LogPane)
    return pane


@played
async def test_a_log_is_followed_until_one_moves_up(logs: Logs) -> None:
    log = logs.add(training_log(1_000), ended=False)
    async with desk(served(logs)) as found:
        await opened(found)
        assert "FOLLOW" in await found.shows("7 llama")
        await found.shows("step=000000999")
        log.write(b"one more line\n")
        await found.shows("one more line")
        await found.keys("k", "k")
        assert "FOLLOW" not in await found.shows("7 llama")
        log.write(b"and another\n")
        await found.shows("85B more below; f follows")
        assert not any("and another" in line for line in found.screen())
        await found.keys("G")
        await found.shows("and another")


@played
async def test_the_whole_log_is_searched_from_where_one_is(logs: Logs) -> None:
    logs.add(training_log(200_000) + b"Traceback here\n" + training_log(200_000))
    async with desk(served(logs)) as found:
        await opened(found)
        await found.shows("step=000199999")
        await found.keys("slash")
        await found.type("traceback")
        await found.keys("enter")
        await found.shows("Traceback here")
        await found.shows("1 match ")
        await found.keys("N")
        await found.shows("none further up: on from the end")
        await found.shows("Traceback here")
        await found.keys("slash")
        await found.type("no such line")
        await found.keys("enter")
        await found.shows("no 'no such line' in the whole log")


@played
async def test_escape_ends_the_search_and_then_leaves_the_log(logs: Logs) -> None:
    logs.add(training_log(1_000))
    async with desk(served(logs)) as found:
        pane = await opened(found)
        await found.keys("slash", *"loss", "enter")
        await found.shows("1,000 matches")
        await found.keys("escape")
        await found.until(lambda: not any("matches" in line for line in found.screen()))
        assert found.app.focused is pane
        await found.keys("escape")
        await found.until(lambda: found.app.focused is not pane)


@played
async def test_only_what_matches_and_back_to_its_place(logs: Logs) -> None:
    logs.add(b"".join(b"%s %d\n" % (b"loss" if n % 10 == 0 else b"note", n) for n in range(2_000)))
    async with desk(served(logs)) as found:
        await opened(found)
        await found.shows("note 1999")
        await found.keys("ampersand")
        await found.shows("search for something first: /")
        await found.keys("slash", *"loss", "enter")
        await found.shows("200 matches")
        await found.keys("ampersand", "g")
        await found.shows("loss 10")
        assert not any("note" in line for line in found.screen())
        await found.keys("ampersand")
        await found.shows("note 1")
        await found.keys("slash", "enter")
        await found.until(lambda: not any("match" in line for line in found.screen()))


@played
async def test_long_lines_wrap_or_are_gone_along(logs: Logs) -> None:
    logs.add(b"begin " + b"x" * 200 + b" end\n")
    async with desk(served(logs)) as found:
        await opened(found)
        line = await found.shows("begin")
        assert line.endswith("…")
        await found.keys("w")
        await found.shows("xx end")
        await found.keys("w", *["right"] * 12)
        await found.shows("xx end")
        await found.shows("from column 193")


@played
async def test_attempts_and_ranks_are_chosen(logs: Logs) -> None:
    logs.add(b"first attempt\n", attempt=1)
    logs.add(b"second, rank 0\n", attempt=2, rank=0, ranks=2)
    logs.add(b"second, rank 1\n", attempt=2, rank=1, ranks=2)
    async with desk(served(logs, attempt=2)) as found:
        await opened(found)
        await found.shows("second, rank 0")
        await found.keys("R")
        await found.shows("second, rank 1")
        await found.keys("A")
        await found.shows("first attempt")
        await found.shows("attempt 1 of 2")
        await found.keys("A")
        await found.shows("second, rank 0")


@played
async def test_following_goes_on_with_the_next_attempt(logs: Logs) -> None:
    logs.add(b"first\n", attempt=1)
    client = served(logs, attempt=1)
    async with desk(client) as found:
        await opened(found)
        await found.shows("-- end of the log, 6B")
        logs.add(b"second\n", attempt=2, ended=False)
        client.tell(changes(101, [running(7, name="llama")._replace(attempt=2)]))
        await found.shows("second")
        await found.shows("attempt 2 of 2")


@played
async def test_a_log_that_is_not_there_yet_says_why(logs: Logs) -> None:
    client = with_logs(ServedClient(snapshot([job(7, reason={"code": "resources", "text": "waits for 3 h100"})])), logs)
    async with desk(client) as found:
        await opened(found)
        await found.shows("-- it has not started yet: waits for 3 h100")


@played
async def test_what_a_job_writes_cannot_steer_the_screen(logs: Logs) -> None:
    logs.add(b"\x1b[2J\x1b]0;evil\x07 [bold]x[/bold] [/]\n\xff\xfe\n\r 10%\r 20%\r100%\n")
    async with desk(served(logs)) as found:
        await opened(found)
        await found.shows("\\x1b[2J\\x1b]0;evil\\x07 [bold]x[/bold] [/]")
        await found.shows("\\xff\\xfe")
        await found.shows("100%  (2 earlier states)")


@played
async def test_times_and_places_of_lines_are_shown_on_demand(logs: Logs) -> None:
    log = logs.add(b"old\n", ended=False)
    async with desk(served(logs)) as found:
        await opened(found)
        await found.shows("old")
        await found.keys("t", "i")
        log.write(b"new\n")
        line = await found.shows("4  new")
        assert line[2] == ":"
        assert (await found.shows("0  old"))[:9].strip() == ""


@played
async def test_a_log_is_saved_and_never_over_another_file(logs: Logs, tmp_path: Path) -> None:
    log = logs.add(training_log(10_000))
    (tmp_path / "job-7.log").write_text("mine")
    async with desk(served(logs)) as found:
        await opened(found)
        await found.shows("step=")
        await found.keys("e")
        await found.shows("saved 576K as")
    assert (tmp_path / "job-7-2.log").read_bytes() == log.path.read_bytes()
    assert (tmp_path / "job-7.log").read_text() == "mine"


@pytest.mark.parametrize("size", [(40, 10), (60, 20), (100, 30), (160, 45)])
@played
async def test_it_fits_every_screen(logs: Logs, size: tuple[int, int]) -> None:
    logs.add(training_log(100) + "日本語のログ\n".encode())
    async with desk(served(logs), size=size) as found:
        pane = await opened(found)
        await found.shows("日本語のログ")
        assert all(len(line) <= size[0] for line in found.screen())
        await found.keys("pageup", "g", "down", "right", "w", "end")
        await found.shows("日本語のログ")
        assert pane.size.width <= size[0]
