from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuq.errors import InvalidRequest, Unavailable
from tests.tui.clusters import ServedClient, job, running, snapshot
from tests.tui.desk import Desk, desk, played
from tests.tui.test_submission_text import detail
from tui import perform
from tui.submission_text import Place
from tui.submit_form import SubmitForm

INSIDE = {"submit": {"place": Place("/work", {"PATH": "/bin"})}}
NOW_HERE = {"starts_now": True, "nodes": [{"node": "n0414", "gpus": [0, 1]}], "reason": None}
WAITS = {"starts_now": False, "nodes": [], "reason": {"code": "resources", "text": "waits for 3 more h100 GPUs"}}


class Controller(ServedClient):
    """Answers dry runs, and counts submissions apart from them."""

    def __init__(self, *rows: Any, role: str = "user") -> None:
        super().__init__(snapshot(list(rows), role=role))
        self.dry_runs: list[dict[str, Any]] = []
        self.submitted: list[tuple[dict[str, Any], str]] = []
        self.would: Any = NOW_HERE
        self.losing = 0  # answers to submissions

    async def post(self, path: str, body: Any, request_id: str, method: str = "POST", params: Any = None) -> Any:
        assert path == "/jobs"
        if params == {"dry_run": 1}:
            self.dry_runs.append(body)
            if isinstance(self.would, Exception):
                raise self.would
            return self.would
        self.submitted.append((body, request_id))
        if self.losing:
            self.losing -= 1
            raise Unavailable("lost")
        return {"id": "1042", "elements": None}


async def form(found: Desk, command: str = "submit") -> SubmitForm:
    await found.command(command)
    return await found.until(lambda: next(iter(found.app.query(SubmitForm)), None))  # type: ignore[no-any-return]


async def typed(found: Desk) -> None:
    """What most of them begin with: a command, 2 GPUs, 4 hours."""
    await form(found)
    await found.until(lambda: found.app.query_one("#field-command").has_focus_within)
    await found.type("python train.py")
    await found.keys("down", "2", "enter", "4", "h")


@played
async def test_while_one_types_the_line_and_the_answer_follow() -> None:
    client = Controller()
    async with desk(client, extra=INSIDE) as found:
        await typed(found)
        await found.shows("gpuq submit -G 2 -t 4h -D /work python train.py")
        await found.shows("starts now on n0414 (GPU 0,1)")
        client.would = WAITS
        await found.keys("backspace", "backspace", "5", "h")
        await found.shows("waits: waits for 3 more h100 GPUs")
        client.would = InvalidRequest("gpu_type: no", "say another")
        await found.keys("backspace", "m")
        await found.shows("gpu_type: no: say another")
    assert client.dry_runs[-1]["time_limit_seconds"] == 300
    assert len(client.dry_runs) < 8  # not one for each key
    assert client.submitted == []


@played
async def test_what_is_wrong_is_said_while_typing_and_nothing_is_asked() -> None:
    client = Controller()
    async with desk(client, extra=INSIDE) as found:
        await form(found)
        await found.shows("Command: nothing to run yet")
        await found.type("true")
        await found.keys("down", *"two")
        await found.shows("GPUs: 'two' is not a number of GPUs: write for example 2 or H100:2")
        await found.keys("ctrl+s")
        await found.shows("GPUs: 'two'")
    assert client.submitted == []
    assert all("two" not in str(body) for body in client.dry_runs)


@played
async def test_a_submission_is_sent_and_shown_and_the_way_back_leads_past_the_form() -> None:
    client = Controller(running(7, name="earlier"))
    async with desk(client, extra=INSIDE) as found:
        await typed(found)
        await found.keys("ctrl+s")
        await found.shows("jobs > 1042")
        await found.keys("escape")
        await found.shows("earlier")
        await found.keys("s")
        await found.shows("Command: nothing to run yet")
    body, _ = client.submitted[0]
    assert body["command"] == ["python", "train.py"]
    assert body["environment"] == {"PATH": "/bin"}
    assert len(client.submitted) == 1


@played
async def test_a_lost_answer_submits_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform, "PAUSES", (0.0, 0.0))
    client = Controller()
    client.losing = 4
    async with desk(client, extra=INSIDE) as found:
        await typed(found)
        await found.keys("ctrl+s")
        await found.shows("lost")
        await found.keys("ctrl+s")
        await found.until(lambda: len(client.submitted) == 5)
    assert len({request_id for _, request_id in client.submitted}) == 1


@played
async def test_a_clone_is_filled_in_and_says_of_what() -> None:
    client = Controller(running(1042))
    client.answers |= {
        "/jobs/1042": detail(command=["a b"], script=True, name="sweep.sh"),
        "/jobs/1042/script": "#!/bin/sh\necho hi\n",
        "/jobs/1042/environment": {"environment": None, "changes": {"SEED": "7"}},
    }
    async with desk(client, extra=INSIDE) as found:
        await form(found, "clone 1042")
        await found.shows("Submit a job, like job 1042 and its script of 18 characters")
        await found.shows("gpuq show 1042 --script > sweep.sh && gpuq submit -G 2 -t 2h30m")
        await found.until(lambda: client.dry_runs)
    assert client.dry_runs[-1]["script"] == "#!/bin/sh\necho hi\n"
    assert client.dry_runs[-1]["changes"] == {"SEED": "7"}


@played
async def test_anothers_job_is_cloned_without_its_variables() -> None:
    client = Controller(running(1042, user="bob"))
    client.answers["/jobs/1042"] = detail(command=None, cwd=None)
    async with desk(client, extra=INSIDE) as found:
        await form(found, "clone 1042")
        await found.shows("Submit a job, like job 1042")
        await found.shows("Command: nothing to run yet")


@played
async def test_the_last_submissions_are_templates_one_after_the_other() -> None:
    client = Controller(job(9), job(8, user="bob"), job(7))
    client.answers |= {f"/jobs/{id}": detail(id=id, command=[f"./job{id}"]) for id in ("9", "7")}
    async with desk(client, extra=INSIDE) as found:
        await form(found)
        for id in ("9", "7", "9"):
            await found.keys("ctrl+t")
            await found.shows(f"like job {id}")
            await found.shows(f"./job{id}")


@played
async def test_a_line_of_options_fills_the_form() -> None:
    async with desk(Controller(), extra=INSIDE) as found:
        await form(found, "submit -G H100:2 -H python train.py")
        await found.shows("gpuq submit -G H100:2 -D /work -H python train.py")
        await found.command("submit --nope")
        await found.shows("'--nope' is not in the form")


@played
async def test_what_was_typed_is_there_when_one_comes_back() -> None:
    async with desk(Controller(), extra=INSIDE) as found:
        await typed(found)
        await found.keys("escape")
        await found.until(lambda: not any("Submit a job" in line for line in found.screen()))
        await found.keys("s")
        await found.shows("python train.py")


@played
async def test_a_viewer_submits_nothing() -> None:
    client = Controller(role="viewer")
    async with desk(client, extra=INSIDE) as found:
        await found.keys("s")
        await found.shows("needs the role user")
    assert client.dry_runs == []
    assert client.submitted == []


@played
async def test_from_outside_the_cluster_nothing_is_guessed() -> None:
    client = Controller()
    async with desk(client) as found:
        await form(found)
        await found.type("true")
        await found.shows("Folder: say where to run")
        await found.shows("gpuq submit --export NONE true")
    assert client.dry_runs == []


@played
async def test_escapes_in_a_copied_line_are_shown_and_sent_as_they_were() -> None:
    client = Controller(running(1042))
    line = "echo '\x1b[2J' | wc\necho two"
    client.answers["/jobs/1042"] = detail(command=["/bin/sh", "-c", line])
    async with desk(client, extra=INSIDE) as found:
        await form(found, "clone 1042")
        await found.shows("echo '\\x1b[2J' | wc\\necho two")
        await found.until(lambda: client.dry_runs)
    assert client.dry_runs[-1]["command"] == ["/bin/sh", "-c", line]


@pytest.mark.parametrize("size", [(40, 10), (60, 20), (100, 30), (160, 45)])
@played
async def test_field_answer_and_line_fit_every_screen(size: tuple[int, int]) -> None:
    async with desk(Controller(), size=size, extra=INSIDE) as found:
        await typed(found)
        await found.shows("starts now")
        await found.shows("gpuq submit")
        await found.shows("Time limit")
        assert all(len(line) <= size[0] for line in found.screen())


@played
async def test_a_script_here_is_run_as_a_file_there(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    extra = {"submit": {"place": Place("/work", {}, lambda word: word == str(script))}}
    async with desk(Controller(), size=(160, 45), extra=extra) as found:
        await form(found)
        await found.type(str(script))
        await found.shows(f"--wrap {script}")
