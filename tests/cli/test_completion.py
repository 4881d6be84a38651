from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuq.cli.main import VERBS
from tests.cli.gpuq_process import gpuq


def complete(script: str, words: list[str]) -> list[str]:
    """What bash offers for the last of these words."""
    setup = (
        f'source /dev/stdin; COMP_WORDS=("$@"); COMP_CWORD={len(words) - 1}; _gpuq; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", setup, "bash", *words], input=script, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    done = gpuq(tmp_path_factory.mktemp("home"), "completion", "bash")
    assert done.returncode == 0
    return done.stdout


def test_bash_completes_verbs_and_their_options(script: str) -> None:
    assert complete(script, ["gpuq", "sub"]) == ["submit"]
    assert set(VERBS) <= set(complete(script, ["gpuq", ""]))
    assert complete(script, ["gpuq", "down", "--ke"]) == ["--keep-jobs"]
    assert complete(script, ["gpuq", "nonsense", "--"]) == []


def test_bash_completes_what_stands_behind_a_verb(script: str) -> None:
    assert set(complete(script, ["gpuq", "token", ""])) == {"create", "list", "revoke"}
    assert complete(script, ["gpuq", "nodes", "re"]) == ["remove"]
    assert complete(script, ["gpuq", "token", "create", "--exp"]) == ["--expires"]


def test_bash_leaves_the_jobs_own_command_alone(script: str) -> None:
    assert complete(script, ["gpuq", "run", "-G", "1", "--det"]) == []
    assert "--gpus" in complete(script, ["gpuq", "run", "-J", "name", "--gp"])
    assert complete(script, ["gpuq", "run", "-G", "1", "python", "--gp"]) == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_scripts(shell: str, tmp_path: Path) -> None:
    done = gpuq(tmp_path, "completion", shell)
    assert done.returncode == 0
    assert "--keep-jobs" in done.stdout or "keep-jobs" in done.stdout
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here to read it")
    checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_unknown_shell_is_wrong_usage(tmp_path: Path) -> None:
    done = gpuq(tmp_path, "completion", "tcsh")
    assert done.returncode == 2
    assert "bash" in done.stderr


def test_the_script_starts_nothing(script: str) -> None:
    assert "$(gpuq" not in script
    assert sys.executable not in script
