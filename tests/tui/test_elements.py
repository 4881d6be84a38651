from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.tui.clusters import NOW, ServedClient, running, snapshot
from tests.tui.desk import desk, played
from tui.elements import SHOWN, element_lines, of_array
from tui.job_row import JobRow
from tui.line_pane import plain

FIELDS = ["id", "state", "started_at", "finished_at", "nodes", "cause", "exit_code", "signal"]
VALUES: Mapping[str, list[Any]] = {
    "RUNNING": [None, None, [{"node": "n1", "gpus": [3]}], None, None, None],
    "FAILED": [None, "2026-11-18T10:00:00Z", [], {"code": "exit_code", "text": "exit code 7"}, 7, None],
    "QUEUED": [None, None, [], None, None, None],
    "SUCCEEDED": [None, "2026-11-18T10:00:00Z", [{"node": "n1", "gpus": [3]}], None, 0, None],
}


def array(**counts: int) -> JobRow:
    return running(8, elements={"size": sum(counts.values()), "counts": counts})._replace(nodes=[])


class Controller:
    """Answers GET /jobs as the real one does: elements in the states asked for, at most `limit`."""

    def __init__(self, row: JobRow) -> None:
        self.asked: list[str] = []
        self._row = row

    def __call__(self, params: Mapping[str, Any]) -> Any:
        assert (params["ids"], params["expand"]) == ("8", 1)
        self.asked += params["state"]
        elements = self._row.elements or {}
        ids = {state: iter(range(n)) for state, n in elements["counts"].items()}
        rows = [[f"8_{n}", state, *VALUES[state]] for state in params["state"] for n in ids.get(state, ())]
        return {"fields": FIELDS, "rows": rows[: params["limit"]], "next": None}


def listed(row: JobRow) -> tuple[list[str], list[str]]:
    """The lines of an array's elements, and the states that were asked for."""
    controller = Controller(row)
    client = ServedClient(snapshot([]), {"/jobs": controller})
    elements = asyncio.run(of_array(client, row))
    return [plain(line).rstrip() for line in element_lines(row, elements, NOW, 80)], controller.asked


def test_elements_at_work_come_first_then_those_that_failed_with_how() -> None:
    lines, _ = listed(array(SUCCEEDED=2, FAILED=1, RUNNING=1, QUEUED=1))
    assert [line.split() for line in lines[2:]] == [
        ["8_0", "R", "n1:3"],
        ["8_0", "F", "exit", "7"],
        ["8_0", "Q"],
        ["8_0", "D", "done", "n1:3"],
        ["8_1", "D", "done", "n1:3"],
    ]


def test_a_large_array_is_asked_for_no_more_than_is_shown() -> None:
    lines, asked = listed(array(RUNNING=1, SUCCEEDED=50_000, QUEUED=50_000))
    assert asked == ["RUNNING", "STARTING", "ALLOCATED", "STOPPING", "LOST", "QUEUED"]
    assert len(lines) == 2 + 1 + SHOWN + 1
    assert lines[-1].startswith(f"and {100_001 - 1 - SHOWN:,} more")


@played
async def test_an_element_is_opened_from_its_array_and_l_shows_its_log() -> None:
    row = array(RUNNING=2, QUEUED=1)
    detail = row._asdict() | {"array": {"text": "0-2", "size": 3}, "held_by": None, "command": ["x"], "cwd": "/"}
    detail |= {"request": {"nodes": 1, "gpus_per_node": 1, "gpu_type": None, "gpu_memory_bytes": None, "cpus": 0}}
    detail["request"] |= {"memory_bytes": 0, "only_nodes": [], "not_nodes": []}
    detail |= {"begin_at": None, "dependencies": [], "retries_used": 0, "max_retries": 0, "losses_used": 0}
    detail |= {"requeue": True, "on_lost": "keep", "log_bytes": None, "comment": None, "attempts": [], "script": False}
    answers = {"/jobs": Controller(row), "/jobs/8": detail, "/events": {"items": []}}
    async with desk(ServedClient(snapshot([row]), answers)) as found:
        await found.keys("enter")
        await found.shows("ELEMENTS")
        await found.shows(">8_0")
        await found.keys("j", "l")
        await found.shows("jobs > 8_1 > log")
        await found.keys("q", "enter")
        await found.shows("jobs > 8_1")
