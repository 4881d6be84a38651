from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.tui.clusters import NOW, ServedClient, changes, ended, job, running, snapshot, waiting
from tests.tui.desk import Desk, desk, played
from tui.columns import JOB_COLUMNS, cells, how_it_ended
from tui.job_row import JobRow

ROWS = [
    running(9, "n1", name="llama", time_limit_seconds=7200),
    waiting(8, "quota 8 of 8", name="eval", user="bob"),
    waiting(7, "held by bob", "held", name="tok"),
    ended(6, "FAILED", name="oom", cause={"code": "gpu_oom", "text": "out of GPU memory"}),
    ended(5, name="old", finished_at=7200),
]


def shown(row: JobRow) -> dict[str, str]:
    texts = [cell if isinstance(cell, str) else cell[0] for cell in cells(row, JOB_COLUMNS, NOW)]
    return {column.key: text for column, text in zip(JOB_COLUMNS, texts, strict=True)}


@pytest.mark.parametrize(
    ("row", "state", "time", "where"),
    [
        (ROWS[0], "R", "60m", "n1:0"),
        (ROWS[1], "Q", "10m", "quota 8 of 8"),
        (ROWS[2], "H", "10m", "held by bob"),
        (ROWS[3], "F", "10m", "out of GPU memory"),
        (ended(1, "FAILED", exit_code=None, signal=9), "F", "10m", "signal 9"),
        (ended(1, "FAILED", exit_code=3), "F", "10m", "exit 3"),
        (running(1)._replace(state="LOST"), "L", "60m", "silent: n0001:0"),
        (job(1), "Q", "10m", "?"),
    ],
)
def test_a_row_says_how_a_job_is_and_why(row: JobRow, state: str, time: str, where: str) -> None:
    texts = shown(row)
    assert (texts["state"], texts["time"], texts["where"]) == (state, time, where)


def test_a_job_on_several_nodes_names_the_first_and_counts_the_others() -> None:
    places = [{"node": f"n{n}", "gpus": [0]} for n in range(4)]
    assert shown(running(1)._replace(nodes=places))["where"] == "n0 +3"


def test_an_array_is_one_row_with_the_states_of_its_elements() -> None:
    counts = {"RUNNING": 41, "QUEUED": 469, "SUCCEEDED": 2}
    row = running(1, name="sweep")._replace(elements={"size": 512, "counts": counts}, nodes=[])
    assert shown(row)["name"] == "sweep [512]"
    assert shown(row)["where"] == "R41 Q469 D2"


def test_a_job_that_ended_well_says_where_it_was() -> None:
    assert how_it_ended(ended(1, nodes=[{"node": "n7", "gpus": [1]}])) == "done n7:1"


def names(found: Desk) -> list[str]:
    pane: Any = found.app._body.pane("jobs")
    return [found.app.store.jobs[key].name for key in pane.table.rows.order]


@played
async def test_what_ended_long_ago_and_other_peoples_jobs_come_and_go_by_a_key() -> None:
    async with desk(ServedClient(snapshot(ROWS))) as found:
        await found.until(lambda: names(found) == ["llama", "eval", "tok", "oom"])
        await found.keys("a")
        await found.until(lambda: names(found) == ["llama", "eval", "tok", "oom", "old"])
        await found.keys("m")
        await found.until(lambda: names(found) == ["llama", "tok", "oom", "old"])


@played
async def test_the_line_above_the_keys_tells_of_the_job_under_the_cursor() -> None:
    async with desk(ServedClient(snapshot(ROWS))) as found:
        line = await found.shows("9 llama runs for 01:0")
        assert line.endswith("left of 02:00:00")
        await found.keys("j")
        await found.shows("8 eval: quota 8 of 8")
        await found.keys("G")
        await found.shows("6 oom failed: out of GPU memory")


@played
async def test_reasons_of_the_rows_in_view_are_asked_anew() -> None:
    """Whether a queued job can start depends on others, so its own row does not change."""
    rows = [["8", "QUEUED", {"code": "behind", "text": "behind 7"}], ["7", "RUNNING", None]]
    client = ServedClient(snapshot(ROWS), {"/jobs": {"rows": rows}})
    async with desk(client) as found:
        await found.shows("behind 7")
        assert found.app.store.jobs["7"].reason is not None


@played
async def test_the_rows_shown_are_saved_beside_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with desk(ServedClient(snapshot(ROWS))) as found:
        await found.until(lambda: len(names(found)) == 4)
        await found.keys("space", "e")
        await found.shows("saved 1 rows")
    (file,) = tmp_path.iterdir()
    (row,) = csv.DictReader(file.read_text().splitlines())
    assert row["name"] == "llama"


@played
async def test_the_id_is_copied_to_the_terminals_clipboard() -> None:
    async with desk(ServedClient(snapshot(ROWS))) as found:
        await found.shows("llama")
        await found.keys("c")
        await found.shows("copied 9")
        assert found.app.clipboard == "9"


@played
async def test_a_row_that_changes_is_painted_in_its_place() -> None:
    client = ServedClient(snapshot(ROWS))
    async with desk(client) as found:
        await found.shows("quota 8 of 8")
        client.tell(changes(101, [waiting(8, "waits for 1 more GPU", name="eval", user="bob")]))
        await found.shows("waits for 1 more GPU")


@played
async def test_an_empty_cluster_says_what_to_do() -> None:
    async with desk(ServedClient(snapshot([]))) as found:
        await found.shows("No jobs. s submits one")


@played
async def test_a_filter_that_finds_nothing_says_how_to_get_rid_of_it() -> None:
    async with desk(ServedClient(snapshot(ROWS))) as found:
        await found.keys("slash", *"nothing", "enter")
        await found.shows("Esc clears the filter")
