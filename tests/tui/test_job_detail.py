"""Everything about one job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from textual.pilot import Pilot

from gpuq.units import format_time
from tests.tui.clusters import NOW
from tests.tui.stage import HOSTILE, Clock, Stage, event, gpu, job, node, perform, store_of, until
from tui.job_detail import Fetched, JobDetail, job_detail
from tui.job_row import JobRow
from tui.line_pane import plain
from tui.store import Dirty, Store
from tui.text import cell_width

REQUEST = {
    "nodes": 2,
    "gpus_per_node": 8,
    "gpu_type": "h100",
    "gpu_memory_bytes": None,
    "gpu_share_bytes": None,
    "constraint": "",
    "exclusive": False,
    "cpus": 4,
    "memory_bytes": 0,
    "only_nodes": [],
    "not_nodes": ["n9"],
}


def fetched(row: JobRow, why: dict[str, Any] | None = None, **given: Any) -> Fetched:
    """As GET /jobs/{id} and its neighbours answer."""
    more = {
        "command": ["python", "train.py", "a b"],
        "cwd": "/home/alice",
        "request": REQUEST,
        "begin_at": None,
        "held_by": None,
        "dependencies": [],
        "max_retries": 2,
        "retries_used": 1,
        "losses_used": 0,
        "requeue": True,
        "on_lost": "keep",
        "comment": None,
        "array": None,
        "script": False,
        "attempts": [],
        "log_bytes": None,
    }
    return Fetched({**row._asdict(), **more, **given}, why, [event(1, "job.submitted", job=row.id, text="train")])


def shown(store: Store, id: str, of: Fetched | None = None, width: int = 80) -> list[str]:
    return [plain(line).rstrip() for line in job_detail(store, id, of, width)]


def attempt(number: int, **given: Any) -> dict[str, Any]:
    return {
        "number": number,
        "nodes": [{"node": "n1", "gpus": [0, 1]}],
        "granted_at": format_time(NOW - 3600),
        "started_at": format_time(NOW - 3590),
        "ended_at": format_time(NOW - 3530),
        "exit_code": 3,
        "signal": None,
        "cause": None,
        "log_bytes": 2048,
        **given,
    }


def test_what_the_store_knows_shows_before_anything_is_fetched() -> None:
    lines = shown(store_of([job("7", name="train", time_limit_seconds=7200)]), "7")
    assert lines[0] == "7  train  R RUNNING  for 00:30:00 of 02:00:00"
    assert "JOB  asking the controller" in lines
    assert shown(store_of(), "99") == ["job 99: asking the controller"]


def test_a_waiting_job_says_why_node_by_node() -> None:
    row = job("7", "QUEUED", reason={"code": "resources", "text": "waits for 3 more h100 GPUs"})
    nodes = [{"node": f"n{n:03}", "fits": False, "text": "5 of 8 GPUs are free"} for n in range(900)]
    nodes += [{"node": "z1", "fits": False, "text": "is draining"}, {"node": "z2", "fits": True, "text": ""}]
    why = {"reason": {"code": "resources", "text": "waits for 2 more h100 GPUs"}, "nodes": nodes}
    lines = shown(store_of([row]), "7", fetched(row, why))
    begin = lines.index("WHY IT WAITS")
    assert lines[begin + 1].strip() == "waits for 2 more h100 GPUs"  # what was asked last, not the row's older word
    assert [text.split(None, 1)[0] for text in lines[begin + 2 : begin + 6]] == ["NODES", "z2", "z1", "n000,"]
    assert lines[begin + 5].split("  ")[0] == "n000, n001 and 898 more"
    assert lines[begin + 6] == ""


def test_a_thousand_different_reasons_end_in_a_count() -> None:
    row = job("7", "QUEUED")
    nodes = [{"node": f"n{n}", "fits": False, "text": f"{n} GPUs are free"} for n in range(1000)]
    lines = shown(store_of([row]), "7", fetched(row, {"reason": row.reason, "nodes": nodes}))
    assert any(text.startswith("and 988 more") for text in lines)


def test_what_no_node_can_change_has_no_table_of_nodes() -> None:
    row = job("7", "QUEUED", reason={"code": "held", "text": "held by bob"})
    why = {"reason": row.reason, "nodes": [{"node": "n1", "fits": True, "text": ""}]}
    lines = shown(store_of([row]), "7", fetched(row, why))
    assert "7  train-7  H HELD  waited 01:00:00" in lines
    assert not any(text.startswith("NODES") for text in lines)


def test_a_begin_time_is_in_the_zone_of_who_looks() -> None:
    row = job("7", "QUEUED", reason={"code": "begin", "text": f"begins {format_time(NOW)}"})
    local = datetime.fromtimestamp(NOW).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert any(text.strip() == f"begins {local}" for text in shown(store_of([row]), "7", fetched(row)))
    row = row._replace(reason={"code": "begin", "text": "begins some day"})
    assert any(text.strip() == "begins some day" for text in shown(store_of([row]), "7"))


def test_a_running_job_shows_each_of_its_gpus() -> None:
    places = [{"node": "n1", "gpus": [0, 1]}, {"node": "lost", "gpus": [5]}]
    row = job("7", nodes=places, gpus=3)
    nodes = [node("n1", [gpu(0, ("7",)), gpu(1, ("7",), utilization_percent=None)]), node("lost", state="lost")]
    lines = shown(store_of([row], nodes), "7", fetched(row))
    begin = next(at for at, text in enumerate(lines) if text.startswith("GPU USE"))
    assert lines[begin] == "GPU USE  3 GPUs, last 1 min"
    rows = [text.split() for text in lines[begin + 3 : begin + 6]]
    assert rows[0] == ["n1", "0", "90%", "60G/80G", "66", "°C"]
    assert rows[1][:3] == ["n1", "1", "?"]
    assert rows[2] == ["lost", "5", "?", "?", "?"]  # its last readings are old


def test_a_job_with_more_of_a_gpu_than_its_share_says_what_becomes_of_it() -> None:
    row = job("7", nodes=[{"node": "n1", "gpus": [3]}])
    over = {"node": "n1", "gpu": 3, "used_bytes": 33 << 30, "share_bytes": 20 << 30, "seconds": 35.2}
    for after, then in ((60, ": stopped after 00:01:00 of that"), (None, "")):
        lines = shown(store_of([row]), "7", fetched(row, overuse=[{**over, "stopped_after_seconds": after}]))
        assert f"uses 33G of GPU 3 of n1, asked for 20G{then}" in lines


def test_facts_and_attempts_are_those_of_gpuq_show() -> None:
    row = job("7", "FAILED", exit_code=3)
    lost = {"code": "node_lost", "text": "n1 was restarted"}
    attempts = [attempt(1, cause=lost), attempt(2), attempt(3, ended_at=None, exit_code=None)]
    told = fetched(row, attempts=attempts, log_bytes=2048, comment="for the paper", dependencies=[])
    lines = shown(store_of([row]), "7", told)
    assert lines[1].strip() == "exit 3"
    for text in (
        "Command     python train.py 'a b'",
        "Asks for    2 nodes, 8 h100 GPUs on each, 4 CPUs on each, not on n9",
        "Retries     1 of 2 for its own failures, 0 for lost nodes",
        "Log         2K; l shows it",
        "Comment     for the paper",
    ):
        assert text in lines
    begin = lines.index("ATTEMPTS  3")
    shown_attempts = [text.split() for text in lines[begin + 2 : begin + 5]]
    assert [words[0] for words in shown_attempts] == ["3", "2", "1"]
    assert shown_attempts[0][3] == "live"
    assert shown_attempts[1][2:5] == ["00:01:00", "exit", "3"]
    assert "n1 was restarted" in lines[begin + 4]


def test_somebody_elses_command_is_not_made_up() -> None:
    row = job("7")
    lines = shown(store_of([row]), "7", fetched(row, command=None, cwd=None))
    assert "Command     (only its owner and admins see it)" in lines


def test_an_array_shows_its_elements_and_an_element_shows_without_a_row() -> None:
    counts = {"RUNNING": 2, "QUEUED": 7}
    row = job("7", started_at=None, elements={"size": 9, "counts": counts})
    array = {"text": "0-8", "size": 9, "max_running": 2, "counts": counts}
    lines = shown(store_of([row]), "7", fetched(row, array=array))
    assert lines[0] == "7  train-7  R RUNNING  for 01:00:00"
    assert lines[1].strip() == "9 elements: 2 running, 7 queued"
    assert "Array       0-8, 9 elements" in lines
    element = job("7_3")
    assert shown(store_of([row]), "7_3", fetched(element))[0].startswith("7_3  train-7_3  R RUNNING")


@pytest.mark.parametrize("width", [38, 78, 158])
def test_hostile_words_stay_in_their_lines(width: int) -> None:
    row = job("7", "QUEUED", name=HOSTILE, user=HOSTILE, reason={"code": "resources", "text": HOSTILE})
    why = {"reason": row.reason, "nodes": [{"node": HOSTILE, "fits": False, "text": HOSTILE}]}
    lines = shown(store_of([row]), "7", fetched(row, why, command=[HOSTILE * 50], comment=HOSTILE), width)
    assert not any("\x1b" in text or "\u202e" in text for text in lines)
    assert max(map(cell_width, lines)) <= max(width, 72)


def test_it_asks_once_the_cursor_rests_and_again_when_the_job_moves() -> None:
    clock = Clock()
    waiting, running = job("7", "QUEUED"), job("7", nodes=[{"node": "n1", "gpus": [0]}])
    store = store_of([waiting, job("8")], [node("n1", [gpu(0, ("7",))])], clock=clock)
    asked: list[str] = []
    present = {"row": waiting}

    def answer(_: Any) -> Any:
        asked.append("7")
        return fetched(present["row"]).job

    answers = {
        "/jobs/7": answer,
        "/jobs/7/why": {"reason": waiting.reason, "nodes": [{"node": "n1", "fits": False, "text": "is full"}]},
        "/events": {"items": [event(1, "job.submitted", job="7")]},
    }
    pane = JobDetail(store)

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        assert stage.shows("no job is chosen")
        pane.open("8")
        pane.open("7")
        assert stage.said == []
        await until(lambda: stage.shows("is full"), pilot)
        assert asked == ["7"]
        await pilot.press("enter")
        store.jobs["7"] = present["row"] = running
        pane.tick(Dirty(jobs={"7"}))
        await until(lambda: stage.shows("GPU USE") and not stage.shows("is full"), pilot)
        await until(lambda: len(asked) == 2, pilot)
        clock.seconds += 6
        pane.tick(Dirty())
        await until(lambda: len(asked) == 3, pilot)

    stage = perform(pane, play, answers=answers)
    assert stage.asked == [("node", "n1")]
    assert stage.said == []  # job 8 was passed by, and never asked about
