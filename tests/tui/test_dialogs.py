"""From the key to the request: what is asked, what a mistake costs, what happens when the job ends meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.widgets import Button, Input

from gpuq.errors import GpuqError, NoSpace, Unavailable
from tests.tui.clusters import ServedClient, changes, ended, job, node, running, snapshot
from tests.tui.desk import Desk, desk, played
from tui import perform
from tui.dialogs import ConfirmDialog


def answers(path: str, body: Any) -> Any:
    ids = body.get("ids", ())
    return {"items": [{"id": id, "outcome": "done", "text": f"job {id} is being canceled"} for id in ids]}


def served(*rows: Any, role: str = "admin") -> ServedClient:
    client = ServedClient(snapshot(list(rows) or [running(7, gpus=(0, 1))], [node("n0001")], role=role))
    client.post_answer = answers
    return client


async def asked(found: Desk, command: str) -> ConfirmDialog:
    await found.command(command)
    await found.until(lambda: isinstance(found.app.screen, ConfirmDialog))
    dialog = found.app.screen
    assert isinstance(dialog, ConfirmDialog)
    await found.until(lambda: dialog.focused is not None)
    return dialog


@pytest.mark.parametrize("answer", [["n"], ["escape"], ["enter"], ["tab", "tab", "enter"], ["right", "left", "enter"]])
@played
async def test_no_is_the_answer_of_a_slip(answer: list[str]) -> None:
    client = served()
    async with desk(client) as found:
        dialog = await asked(found, "cancel 7")
        assert dialog.query_one("#no", Button).has_focus
        await found.keys(*answer)
        await found.until(lambda: found.app.screen is not dialog)
    assert client.posted == []


@pytest.mark.parametrize("answer", [["y"], ["right", "enter"], ["tab", "enter"]])
@played
async def test_yes_cancels_once_and_says_what_came_of_it(answer: list[str]) -> None:
    client = served()
    async with desk(client) as found:
        await asked(found, "cancel 7")
        await found.shows("2 GPU-hours of work will be lost.")
        await found.keys(*answer)
        await found.shows("job 7 is being canceled")
    assert client.posted == [("POST", "/jobs/cancel", {"ids": ["7"]})]


@played
async def test_a_job_that_ends_while_it_is_asked_about_leaves_nothing_to_say_yes_to() -> None:
    client = served()
    async with desk(client) as found:
        dialog = await asked(found, "cancel 7")
        client.tell(changes(101, [ended(7)]))
        await found.shows("nothing is left to do: it ended or changed meanwhile")
        await found.keys("y")
        assert found.app.screen is dialog
        await found.keys("escape")
        await found.until(lambda: found.app.screen is not dialog)
    assert client.posted == []


@played
async def test_of_several_those_that_ended_meanwhile_must_be_looked_at_again() -> None:
    client = served(running(7), running(8))
    async with desk(client) as found:
        dialog = await asked(found, "cancel 7 8")
        client.tell(changes(101, [ended(8)]))
        await found.until(lambda: found.app.store.jobs["8"].state == "SUCCEEDED")
        await found.keys("y")
        await found.until(lambda: any("cancel job 7" in line for line in found.screen()))
        if found.app.screen is dialog:
            await found.keys("y")
        await found.until(lambda: client.posted)
    assert client.posted == [("POST", "/jobs/cancel", {"ids": ["7"]})]


@played
async def test_force_needs_the_id_typed() -> None:
    client = served(running(7)._replace(state="LOST"))
    async with desk(client) as found:
        dialog = await asked(found, "kill 7")
        assert dialog.query_one(Input).has_focus
        await found.keys("enter")
        await found.shows("type 7 first")
        await found.type("y")
        await found.keys("enter")
        assert client.posted == []
        await found.keys("backspace", "7", "enter")
        await found.until(lambda: client.posted)
    assert client.posted == [("POST", "/jobs/cancel", {"ids": ["7"], "force": True})]


@played
async def test_what_is_taken_back_as_easily_is_done_at_once() -> None:
    client = served(job(7))
    async with desk(client) as found:
        await found.command("hold 7")
        await found.until(lambda: client.posted)
    assert client.posted == [("POST", "/jobs/hold", {"ids": ["7"]})]


@played
async def test_a_job_no_list_has_is_looked_up_first() -> None:
    client = served()
    element = running(7)._replace(id="7_3")._asdict()
    client.answers["/jobs/7_3"] = {k: v for k, v in element.items() if k != "elements"}
    async with desk(client) as found:
        await found.command("cancel 9")
        await found.shows("nothing at /jobs/9")
        await asked(found, "cancel 7_3")
        await found.keys("y")
        await found.until(lambda: client.posted)
    assert client.posted[0][2] == {"ids": ["7_3"]}


@played
async def test_a_drain_is_asked_with_the_focus_on_yes() -> None:
    client = served()
    client.post_answer = lambda path, body: {"name": "n0001"}
    async with desk(client) as found:
        dialog = await asked(found, "drain n0001")
        assert dialog.query_one("#yes", Button).has_focus
        await found.keys("enter")
        await found.shows("draining node n0001")
        await found.command("drain n9")
        await found.shows("there is no node n9")
    assert client.posted == [("POST", "/nodes/n0001/drain", {"text": ""})]


@played
async def test_who_may_not_is_told_so_in_one_line() -> None:
    client = served(role="viewer")
    async with desk(client) as found:
        await found.command("cancel 7")
        await found.shows("cancel jobs: needs the role user, you are viewer")
    assert client.posted == []


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (160, 45)])
@played
async def test_both_answers_are_in_sight_however_long_the_question(size: tuple[int, int]) -> None:
    rows = [running(n, name="x" * 300) for n in range(1, 40)]
    async with desk(served(*rows), size=size) as found:
        await asked(found, "cancel " + " ".join(row.id for row in rows))
        line = await found.shows("Yes, cancel 39 jobs")
        assert "No" in line
        await found.shows("Cancel 39 jobs")


class Flaky(ServedClient):
    """Loses the answers to its first requests, or refuses them for good."""

    def __init__(self, failures: list[GpuqError]) -> None:
        super().__init__(snapshot([running(7)]))
        self.failures, self.request_ids = failures, []  # type: ignore[var-annotated]
        self.post_answer = answers

    async def post(self, path: str, body: Any, request_id: str, method: str = "POST", params: Any = None) -> Any:
        self.request_ids.append(request_id)
        if self.failures:
            raise self.failures.pop(0)
        return await super().post(path, body, request_id, method, params)


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform, "PAUSES", (0.0,) * 3)


@played
async def _carried_out(client: Flaky, said: Callable[[str], object]) -> None:
    async with desk(client) as found:
        await asked(found, "cancel 7")
        await found.keys("y")
        said(
            await found.until(lambda: next((line for line in found.screen() if "job 7" in line or "disk" in line), ""))
        )


def test_a_lost_answer_is_asked_for_again_under_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    client, said = Flaky([Unavailable("lost"), Unavailable("starting")]), []  # type: ignore[var-annotated]
    _carried_out(client, said.append)
    assert len(client.posted) == 1
    assert len(client.request_ids) == 3
    assert len(set(client.request_ids)) == 1


def test_a_full_disk_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    client, said = Flaky([NoSpace("the controller's disk is full")]), []  # type: ignore[var-annotated]
    _carried_out(client, said.append)
    assert client.posted == []
    assert len(client.request_ids) == 1
