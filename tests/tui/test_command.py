from __future__ import annotations

import time
from typing import Any

import pytest

from gpuq.errors import InvalidRequest
from tests.tui.clusters import ServedClient, job, node, running, snapshot
from tests.tui.desk import desk, played
from tui import command
from tui.command import COMMANDS, CommandLine, CommandProvider, completions, run
from tui.store import Store


class Asked:
    """A dashboard that writes down what it is asked for."""

    def __init__(self, role: str = "admin", writable: bool = True) -> None:
        self.store = Store(lambda: 0.0)
        self.store.load(snapshot([job(1042), job(7)], [node("n0412"), node("n1")], role=role))
        self.writable = writable
        self.said: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.said.append((name, *args, *kwargs.values()))

    def after(self, text: str, context: str = "jobs") -> list[tuple[Any, ...]]:
        run(text, self, context)
        return self.said


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("jobs user=bob gpu>4", ("open_view", "jobs", "user=bob gpu>4")),
        ("nodes", ("open_view", "nodes", None)),
        ("1042", ("open_job", "1042")),
        ("1042_7", ("open_job", "1042_7")),
        ("job 1042", ("open_job", "1042")),
        ("why 1042", ("open_job", "1042")),
        ("node n0412", ("open_node", "n0412")),
        ("log 1042", ("open_log", "1042")),
        ("submit -G 2 echo 'a b'", ("open_submit", "-G 2 echo 'a b'")),
        ("clone 1042", ("open_submit", "1042")),
        ("theme light", ("set_theme", "light")),
        ("q", ("act", "quit")),
        ("cancel", ("act", "cancel")),  # what is marked or under the cursor
        ("export", ("act", "export")),
        ("pause", ("act", "pause")),
        ("copy-id", ("act", "copy_id")),
    ],
)
def test_a_line_does_what_it_says(text: str, done: tuple[Any, ...]) -> None:
    assert Asked().after(text) == [done]


def test_an_empty_line_does_nothing() -> None:
    assert Asked().after("  ") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frobnicate", "there is no command 'frobnicate'"),
        ("log", "name one job"),
        ("log abc", "'abc' is not a job id"),
        ("cancel 1042 --all", "'--all' is not a job id"),
        ("priority 1042", "write a job and a number"),
        ("uncordon", "no node is named"),
        ("hold '1042", "no closing quotation in the line"),
        ("follow", "there is no command 'follow'"),  # of the log alone
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Asked().after(text, context="nodes")
    assert refused.value.one_line().startswith(said)


@pytest.mark.parametrize(
    ("text", "role", "writable"), [("cancel 7", "viewer", True), ("drain n1", "user", True), ("hold 7", "admin", False)]
)
def test_what_one_may_not_is_refused(text: str, role: str, writable: bool) -> None:
    with pytest.raises(InvalidRequest, match=r"needs the role|not while offline"):
        Asked(role, writable).after(text)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("can", ["cancel"]),
        ("log 1", ["log 1042"]),
        ("cancel 7 10", ["cancel 7 1042"]),
        ("node n0", ["node n0412"]),
        ("theme l", ["theme light"]),
        ("jobs us", []),
        ("pau", ["pause"]),
        ("nonsense x", []),
    ],
)
def test_tab_completes_from_what_is_there(text: str, offered: list[str]) -> None:
    assert completions(text, Asked().store, "jobs") == offered


def test_completing_among_a_hundred_thousand_jobs_offers_few() -> None:
    store = Store(lambda: 0.0)
    store.load(snapshot([job(n) for n in range(100_000, 0, -1)]))
    began = time.perf_counter()
    assert len(completions("log 1", store, "jobs")) == command.OFFERED
    assert completions("log nothing", store, "jobs") == []
    assert time.perf_counter() - began < 2  # a scan, not a scan for each


def test_every_command_says_what_it_is_for() -> None:
    assert len({each.name for each in COMMANDS}) == len(COMMANDS)
    assert all(each.help for each in COMMANDS)


@played
async def test_the_line_completes_goes_back_and_gives_the_focus_back() -> None:
    client = ServedClient(snapshot([running(1042), running(7)], [node("n0412")]))
    async with desk(client) as found:
        before = found.app.focused
        await found.keys("colon", *"no", "tab")
        line = found.app.query_one(CommandLine)
        assert line.value == "nodes"
        await found.keys("tab")
        assert line.value == "node"
        await found.keys("escape")
        assert found.app.focused is before
        await found.keys("colon", *"frob", "enter")
        await found.shows("there is no command 'frob'")
        assert found.app.focused is before
        await found.keys("colon", "up")
        assert line.value == "frob"
        await found.keys("down")
        assert line.value == ""


@played
async def test_the_palette_finds_commands_and_does_them() -> None:
    client = ServedClient(snapshot([running(1042)], [node("n0412")]))
    async with desk(client) as found:
        await found.keys("ctrl+p")
        await found.until(lambda: type(found.app.screen).__name__ == "CommandPalette")
        await found.type("next theme")
        await found.shows("key T")
        theme = found.app.theme
        await found.until(lambda: found.app.screen.query_one("OptionList").option_count)  # type: ignore[attr-defined]
        await found.keys("enter")
        await found.until(lambda: found.app.theme != theme)


@played
async def test_the_palette_offers_a_viewer_nothing_that_changes() -> None:
    client = ServedClient(snapshot([running(1042)], [node("n0412")], role="viewer"))
    async with desk(client) as found:
        provider = CommandProvider(found.app.screen)
        offered = [text for text, _, _ in provider._all()]
    assert "log JOB" in offered or any("log" in text for text in offered)
    assert not [text for text in offered if "cancel" in text or "drain" in text or "submit" in text]
