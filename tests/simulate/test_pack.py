"""`gpuq simulate pack`: the method, and what is said of files that are no traces."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from gpuq.errors import InvalidRequest
from gpuq.model import Request
from gpuq.scheduler.placing import PLACINGS
from gpuq.simulate.pack import pack
from gpuq.simulate.pack_trace import machines, tasks
from tests.cli.gpuq_process import gpuq

TASKS = "job_id,num_gpu,gpu_milli,cpu_milli,mem_mib,model33"
NODES = "node,gpus,model,cpu_milli,mem_mib"


def a_file(path: Path, *lines: str) -> Path:
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    return path


def some_tasks(folder: Path, *lines: str, constraints: bool = False) -> list[Request]:
    return tasks(a_file(folder / "tasks.csv.gz", TASKS, *lines), constraints)


@pytest.mark.parametrize("placing", PLACINGS)
def test_whole_and_shared_gpus_fill_a_cluster_to_the_last(tmp_path: Path, placing: str) -> None:
    every = some_tasks(tmp_path, "1,1,1000,4000,1,", "2,1,500,2000,1,", "3,1,500,2000,1,", "4,2,1000,8000,1,")
    nodes = machines(a_file(tmp_path / "nodes.csv.gz", NODES, "a,4,V100,64000,1024"))
    assert dict(pack(every, nodes, placing, 0, 100).allocated_percent) == {100: 100.0}


def test_each_task_comes_once_before_any_comes_again(tmp_path: Path) -> None:
    """Every task has a node that takes no other: all are placed when each has come once, whatever the seed."""
    every = some_tasks(tmp_path, *(f"{n},1,1000,0,1,M{n}x" for n in range(8)), constraints=True)
    nodes = machines(a_file(tmp_path / "nodes.csv.gz", NODES, *(f"n{n},1,M{n}x,1000,1024" for n in range(8))))
    for seed in range(5):
        assert dict(pack(every, nodes, "ours", seed, 100).allocated_percent) == {100: 100.0}


def test_what_does_not_fit_is_dropped_and_figures_are_of_all_gpus(tmp_path: Path) -> None:
    every = some_tasks(tmp_path, "1,8,1000,0,1,")
    nodes = machines(a_file(tmp_path / "nodes.csv.gz", NODES, "a,8,V100,1000,1024", "b,4,V100,1000,1024"))
    assert dict(pack(every, nodes, "ours", 0, 130).allocated_percent) == {100: 100 * 8 / 12, 130: 100 * 8 / 12}


def test_nodes_without_gpus_are_left_out_and_gpu_tasks_need_their_cpus(tmp_path: Path) -> None:
    every = some_tasks(tmp_path, "1,1,1000,6000,1,", "2,1,1000,6000,1,")
    nodes = machines(a_file(tmp_path / "nodes.csv.gz", NODES, "a,2,V100,8000,1024", "b,0,,99000,1024"))
    assert list(nodes) == ["a"]
    assert dict(pack(every, nodes, "ours", 0, 100).allocated_percent) == {100: 50.0}


def test_models_count_only_where_constraints_are_wanted(tmp_path: Path) -> None:
    line = "1,1,1000,0,1,T4|P100"
    nodes = machines(a_file(tmp_path / "nodes.csv.gz", NODES, "a,1,P100,8000,1024", "b,1,V100,8000,1024"))
    free, bound = some_tasks(tmp_path, line, line), some_tasks(tmp_path, line, line, constraints=True)
    assert dict(pack(free, nodes, "ours", 0, 100).allocated_percent) == {100: 100.0}
    assert dict(pack(bound, nodes, "ours", 0, 100).allocated_percent) == {100: 50.0}


@pytest.mark.parametrize("placing", PLACINGS)
def test_the_same_seed_gives_the_same_figures(tmp_path: Path, placing: str) -> None:
    sizes = (160, 230, 320, 470, 810, 1000)
    lines = [f"{n},1,{sizes[n % 6]},{1000 * (n % 7)},{100 * n},{'A|B' if n % 3 else ''}" for n in range(90)]
    every = some_tasks(tmp_path, *lines)
    lines = [f"n{n},{n % 4 + 1},{'AB'[n % 2]},16000,9000" for n in range(20)]
    nodes = machines(a_file(tmp_path / "nodes.csv.gz", NODES, *lines))
    figures = [pack(every, nodes, placing, seed, 130).allocated_percent for seed in (1, 1, 2)]
    assert figures[0] == figures[1] != figures[2]
    assert all(0 < percent <= 100 for run in figures for percent in run.values())


def test_the_command_prints_the_figures_by_name(tmp_path: Path) -> None:
    jobs = a_file(tmp_path / "jobs.csv.gz", TASKS, "1,1,1000,0,1,V100", "2,1,500,0,1,")
    nodes = a_file(tmp_path / "nodes.csv.gz", NODES, "a,2,V100,8000,1024")
    words = "simulate", "pack", "--jobs", str(jobs), "--nodes-file", str(nodes), "--constraints", "--seed", "3"
    said = gpuq(tmp_path, *words, "--json")
    assert (said.returncode, said.stderr) == (0, "")
    assert set(json.loads(said.stdout)) == {"allocated_percent_at_100", "allocated_percent_at_130"}
    table = gpuq(tmp_path, *words, "--until-percent", "50", "--policy", "first-fit")
    assert Counter(table.stdout.split()) == Counter(["ASKED", "FOR", "ALLOCATED", "50", "%", "50.00", "%"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1,1,1500,0,1,", "line 2: 1 GPUs of 1500 thousandths each"),
        ("1,0,500,0,1,", "line 2: 0 GPUs of 500 thousandths each"),
        ("1,-1,1000,0,1,", "line 2: num_gpu is -1, less than nothing"),
        ("1,x,1000,0,1,", "line 2: num_gpu is 'x'"),
        ("1,1", "line 2: no gpu_milli"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        some_tasks(tmp_path, line)
    assert says in caught.value.one_line()


def test_files_that_are_no_traces_are_refused_in_one_line(tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv.gz"
    plain.write_text(TASKS)
    without = a_file(tmp_path / "without.csv.gz", "job_id,gpus", "1,1")
    for path in (plain, without):
        with pytest.raises(InvalidRequest):
            tasks(path, False)
    with pytest.raises(InvalidRequest, match="no node with GPUs"):
        machines(a_file(tmp_path / "nodes.csv.gz", NODES, "a,0,,1000,1000"))
    with pytest.raises(InvalidRequest, match="line 3: node a is there twice"):
        machines(a_file(tmp_path / "nodes.csv.gz", NODES, "a,1,V100,1000,1000", "a,1,V100,1000,1000"))
    with pytest.raises(InvalidRequest, match="has no column cpu_milli"):
        machines(a_file(tmp_path / "nodes.csv.gz", "node,gpus,model", "a,1,V100"))
    nodes = machines(a_file(tmp_path / "nodes.csv.gz", NODES, "a,1,V100,1000,1000"))
    with pytest.raises(InvalidRequest, match="no task asks for a GPU"):
        pack(some_tasks(tmp_path, "1,0,0,1000,1,"), nodes, "ours", 0, 130)
