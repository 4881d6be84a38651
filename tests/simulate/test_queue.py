"""Replays of traces: small ones that can be worked out by hand, and what is said of files that are none."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuq.cli.simulate import simulate
from gpuq.errors import InvalidRequest
from gpuq.scheduler.plan import SCHEMES
from gpuq.simulate.queue import Machines, parse_limits, replay
from gpuq.simulate.queue_trace import TracedJob, read

TRACE = """job_id,submit_time_s,duration_s,gpus,vc,user
a,0,100,6,x,
b,10,100,8,x,
c,20,50,2,x,
d,30,500,2,y,
e,40,10,16,x,
"""


def a_trace(folder: Path, text: str = TRACE) -> Path:
    path = folder / "jobs.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def waits(path: Path, policy: str, limits: str, nodes: int = 1) -> tuple[float, float | None, float]:
    outcome = replay(read(path), Machines(nodes, 8), policy, parse_limits(limits))
    return outcome.wait_mean_s, outcome.wait_mean_8plus_s, outcome.makespan_s


def test_each_policy_does_what_its_name_says(tmp_path: Path) -> None:
    path = a_trace(tmp_path, "".join(TRACE.splitlines(keepends=True)[:5]))
    assert waits(path, "fifo", "none") == ((0 + 90 + 180 + 170) / 4, 90, 700)
    assert waits(path, "first-fit", "none") == ((0 + 560 + 0 + 40) / 4, 560, 670)
    assert waits(path, "easy", "exact") == ((0 + 90 + 0 + 170) / 4, 90, 700)
    assert waits(path, "easy", "over:100") == ((0 + 90 + 0 + 170) / 4, 90, 700)
    assert waits(path, "sjf", "none") == ((0 + 90 + 0 + 170) / 4, 90, 700)


def test_a_job_larger_than_a_node_takes_whole_nodes_and_one_larger_than_all_is_left_out(tmp_path: Path) -> None:
    path = a_trace(tmp_path)
    outcome = replay(read(path), Machines(2, 8), "first-fit", parse_limits("none"))
    assert (outcome.jobs, outcome.too_large) == (5, 0)
    assert outcome.makespan_s >= 530
    assert replay(read(path), Machines(1, 8), "first-fit", parse_limits("none")).too_large == 1
    with pytest.raises(InvalidRequest, match="every job is larger"):
        replay([TracedJob("a", 0, 1, 9, "", "")], Machines(1, 8), "fifo", parse_limits("none"))


@pytest.mark.parametrize("policy", list(SCHEMES))
def test_a_replay_gives_the_same_every_time_and_starts_every_job(tmp_path: Path, policy: str) -> None:
    path = a_trace(tmp_path)
    first = replay(read(path), Machines(2, 8), policy, parse_limits("none"))
    assert first == replay(read(path), Machines(2, 8), policy, parse_limits("none"))
    assert not math.isnan(first.wait_max_s)
    assert 0 < first.utilization_percent <= 100


def test_read_cuts_by_time_and_cluster(tmp_path: Path) -> None:
    path = a_trace(tmp_path)
    assert [job.id for job in read(path, since=10, until=40)] == ["b", "c", "d"]
    assert [job.id for job in read(path, vc="y")] == ["d"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job_id,gpus\n1,2\n", "has no column submit_time_s"),
        ("job_id,submit_time_s,duration_s,gpus\n1,x,2,3\n", "line 2: submit_time_s is 'x'"),
        ("job_id,submit_time_s,duration_s,gpus\n1,0,2\n", "line 2: no gpus"),
        ("job_id,submit_time_s,duration_s,gpus\n1,0,2,1.5\n", "line 2: gpus is '1.5'"),
        ("job_id,submit_time_s,duration_s,gpus\n1,0,-2,3\n", "negative"),
        ("job_id,submit_time_s,duration_s,gpus\n1,0,nan,3\n", "line 2"),
        ("job_id,submit_time_s,duration_s,gpus\n", "no job to replay"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read(a_trace(tmp_path, text))


def test_a_trace_may_be_compressed_or_not_and_what_is_no_text_is_said(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text(TRACE)
    assert read(path) == read(a_trace(tmp_path, TRACE))
    path.write_bytes(b"\xef\xbb\xbf" + TRACE.encode())  # as a spreadsheet writes it
    assert read(path) == read(a_trace(tmp_path, TRACE))
    packed = gzip.compress(TRACE.encode() * 50)
    damaged = packed[:30] + bytes(b ^ 255 for b in packed[30:60]) + packed[60:]
    for junk in (damaged, b"\x1f\x8bjunk", gzip.compress(TRACE.encode())[:-9], b"job_id,gpus\n\xff\xfe"):
        path.write_bytes(junk)
        with pytest.raises(InvalidRequest, match="is not text, nor a gzip file"):
            read(path)


@pytest.mark.parametrize("word", ["", "some", "over:", "over:0.5", "over:x", "over:nan"])
def test_limits_that_mean_nothing_are_refused(word: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_limits(word)


def test_the_command_prints_the_figures_by_their_names(tmp_path: Path) -> None:
    asked = ["queue", "--trace", str(a_trace(tmp_path)), "--nodes", "2", "--gpus-per-node", "8"]
    done = CliRunner().invoke(simulate, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)) == [
        "jobs",
        "wait_mean_s",
        "wait_median_s",
        "wait_p99_s",
        "wait_max_s",
        "wait_mean_8plus_s",
        "jct_mean_s",
        "makespan_s",
        "utilization_percent",
    ]
    assert "mean wait" in CliRunner().invoke(simulate, asked).stdout
    assert CliRunner().invoke(simulate, [*asked, "--limits", "over:0"]).exit_code == 2
