"""What people type from habit: each of Slurm's options that gpuq has not is one line that helps."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Gpuq


@pytest.mark.parametrize("verb", ["submit", "run"])
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("-s", "--shared --gpu-mem"),
        ("--oversubscribe", "--shared --gpu-mem"),
        ("-n 4", "starts the command once"),
        ("--ntasks=4", "starts the command once"),
        ("--mail-type=END", "sends no mail"),
        ("-A lab", "no accounts"),
    ],
)
def test_an_option_of_slurms_is_answered_with_what_to_do(
    home: object, gpuq: Gpuq, verb: str, option: str, says: str
) -> None:
    result = gpuq(verb, *option.split(), "true")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert says in result.err
    assert "Did you mean" not in result.err


def test_an_option_nobody_has_is_answered_by_its_spelling(home: object, gpuq: Gpuq) -> None:
    assert "--gpu-type" in gpuq("submit", "--gpu-typ", "h100", "true").err


def test_a_terminal_is_had_by_run_and_not_by_submit(home: object, gpuq: Gpuq) -> None:
    assert "gpuq run --pty runs a job on this terminal" in gpuq("submit", "--pty", "true").err
    assert "--pty needs a terminal" in gpuq("run", "--pty", "true").err
