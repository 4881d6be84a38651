"""The job's environment and set-up steps, from the order alone."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

from agent.environment import build, granted, setup_steps
from gpuq.model import JobId, NodeName, Rank
from tests.agent.orders import run_order


def built(base, **spec):
    order = run_order(**spec)
    return build(order, base, "/work")


def test_traces_of_other_jobs_and_terminals_are_left_out():
    base = {
        "HOME": "/home/anna",
        "LD_LIBRARY_PATH": "/lib",
        "GPUQ_TOKEN": "secret",
        "GPUQ_JOB_ID": "7",
        "SLURM_NTASKS": "9",
        "SSH_CONNECTION": "x",
        "DISPLAY": ":0",
        "XDG_RUNTIME_DIR": "/run/user/5",
        "XDG_SESSION_ID": "5",
        "OLDPWD": "/x",
        "": "nameless",
    }
    env = built(base)
    assert env["HOME"] == "/home/anna"
    assert env["LD_LIBRARY_PATH"] == "/lib"
    assert env["GPUQ_JOB_ID"] == "1042"
    assert not (set(base) - {"HOME", "LD_LIBRARY_PATH", "GPUQ_JOB_ID"}) & set(env)


def test_changes_lie_over_the_base_and_an_explicit_token_is_the_users_wish():
    env = built({"A": "base", "B": "base"}, changes={"A": "mine", "GPUQ_TOKEN": "given"})
    assert (env["A"], env["B"], env["GPUQ_TOKEN"], env["PWD"]) == ("mine", "base", "given", "/work")


def test_no_one_can_replace_what_was_granted():
    order = run_order(gpus=(1, 3), changes={"CUDA_VISIBLE_DEVICES": "0", "GPUQ_ATTEMPT": "other"})
    env = build(order, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, "/work")
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("1,3", "PCI_BUS_ID")
    assert (env["GPUQ_ATTEMPT"], env["GPUQ_GPUS"]) == ("x", "1,3")


def test_without_gpus_none_is_visible():
    assert built({"CUDA_VISIBLE_DEVICES": "0"})["CUDA_VISIBLE_DEVICES"] == ""


def test_rank_of_a_gang_knows_its_place():
    plain = run_order()
    ranks = tuple(Rank(NodeName(name), (0,), 4, 0) for name in ("a1", "a2", "a3"))
    env = granted(replace(plain, ranks=ranks, rank=1, number=3), "/work")
    assert {
        "GPUQ_NODELIST": "a1,a2,a3",
        "GPUQ_NNODES": "3",
        "GPUQ_NODE_RANK": "1",
        "GPUQ_NODENAME": "a2",
        "GPUQ_ATTEMPT_NUMBER": "3",
        "GPUQ_RESTART_COUNT": "2",
        "GPUQ_CPUS": "4",
        "GPUQ_SUBMIT_DIR": "/work",
        "SLURM_NODEID": "1",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_SUBMIT_DIR": "/work",
        "SLURM_NNODES": "3",
        "SLURM_JOB_NODELIST": "a1,a2,a3",
        "SLURM_CPUS_PER_TASK": "4",
    }.items() <= env.items()
    assert "SLURM_NTASKS" not in env
    assert "GPUQ_ARRAY_TASK_ID" not in env


def test_array_element_has_its_own_id_and_its_arrays():
    plain = run_order()
    env = granted(replace(plain, job=replace(plain.job, id=JobId("1042_7"), index=7)), "/work")
    for prefix in ("GPUQ", "SLURM"):
        assert (env[f"{prefix}_ARRAY_JOB_ID"], env[f"{prefix}_ARRAY_TASK_ID"]) == ("1042", "7")
        assert env[f"{prefix}_JOB_ID"] == "1042_7"


def test_threads_follow_the_cpus_unless_the_user_says_otherwise():
    plain = run_order()
    order = replace(plain, ranks=(replace(plain.ranks[0], cpus=6),))
    assert build(order, {}, "/")["OMP_NUM_THREADS"] == "6"
    assert build(order, {"OMP_NUM_THREADS": "2"}, "/")["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in build(plain, {}, "/")


def test_virtual_environment_comes_first_in_the_path():
    env = built({"PATH": "/usr/bin", "PYTHONHOME": "/x"}, venv="/v")
    assert (env["VIRTUAL_ENV"], env["PATH"]) == ("/v", "/v/bin:/usr/bin")
    assert "PYTHONHOME" not in env


def test_virtual_environment_that_is_not_there_fails_its_step(tmp_path):
    odd = tmp_path / "it's here; rm"
    (step,) = setup_steps(run_order(venv=str(odd)).spec)
    assert step.label == f"venv {odd}"
    run = subprocess.run(["sh", "-c", step.line], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, f"no Python in {odd}/bin\n")
    (odd / "bin").mkdir(parents=True)
    (odd / "bin" / "python").touch(0o755)
    assert subprocess.run(["sh", "-c", step.line], check=False).returncode == 0


def test_conda_environment_is_activated_by_the_conda_there_is(tmp_path):
    conda = tmp_path / "conda"
    conda.write_text("#!/bin/sh\necho 'conda() { ACTIVE=\"$*\"; export ACTIVE; }'\n")
    conda.chmod(0o755)
    (step,) = setup_steps(run_order(conda_env="my env").spec)
    shell = ["sh", "-c", f'{step.line}\nprintf %s "$ACTIVE"']
    for env in ({"CONDA_EXE": str(conda)}, {"PATH": f"{tmp_path}:/bin"}):
        found = subprocess.run(shell, env={"PATH": "/bin", **env}, capture_output=True, text=True, check=True)
        assert found.stdout == "activate my env"
    assert shlex.quote("my env") in step.line


def test_steps_come_in_the_order_venv_conda_set_up():
    steps = setup_steps(run_order(venv="/v", conda_env="c", setup=("one", "two")).spec)
    assert [step.label for step in steps] == ["venv /v", "conda activate c", "one", "two"]
