"""From arguments to the submission that is sent: every option, a script's lines under them, folder and environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from gpuq.cli.submission import Place, Prepared, prepare
from gpuq.cli.submit import submit
from gpuq.errors import InvalidRequest

HERE = Place("/work", {"PATH": "/bin", "GPUQ_TOKEN": "x"}, on_cluster=True)
ELSEWHERE = Place("/Users/ann", {"PATH": "/bin"}, on_cluster=False)


def prepared(*arguments: str, place: Place = HERE) -> Prepared:
    with submit.make_context("gpuq submit", list(arguments)) as ctx:
        return prepare(ctx, lambda: place)


def fields(*arguments: str, place: Place = HERE) -> dict[str, Any]:
    return prepared(*arguments, place=place).fields


def asked(*arguments: str) -> dict[str, Any]:
    """What options alone add to a submission."""
    plain = fields("true")
    return {name: value for name, value in fields(*arguments, "true").items() if plain.get(name) != value}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-J", "a b"], {"name": "a b"}),
        (["--job-name=x"], {"name": "x"}),
        (["--name", "x"], {"name": "x"}),
        (["-N", "2"], {"nodes": 2}),
        (["--nodes=2"], {"nodes": 2}),
        (["-G", "2"], {"gpus": 2}),
        (["-G2"], {"gpus": 2}),
        (["--gpus", "H100:2"], {"gpus": 2, "gpu_type": "H100"}),
        (["--gpus=0"], {"gpus": 0}),
        (["--gpus-per-node", "A100:4"], {"gpus_per_node": 4, "gpu_type": "A100"}),
        (["--gres", "gpu:2"], {"gpus_per_node": 2}),
        (["--gres=gpu:a100:2"], {"gpus_per_node": 2, "gpu_type": "a100"}),
        (["-N2", "-G4"], {"nodes": 2, "gpus": 4}),
        (["--gpu-type", "L40S", "-G1"], {"gpus": 1, "gpu_type": "L40S"}),
        (["-G1", "--gpu-mem", "24G"], {"gpus": 1, "gpu_memory_bytes": 24 << 30}),
        (["-G1", "--gpu-memory", "24GiB"], {"gpus": 1, "gpu_memory_bytes": 24 << 30}),
        (["-c", "8"], {"cpus": 8}),
        (["--cpus-per-task=8"], {"cpus": 8}),
        (["--cpus", "8"], {"cpus": 8}),
        (["--mem", "512"], {"memory_bytes": 512 << 20}),
        (["--memory", "1.5G"], {"memory_bytes": 3 << 29}),
        (["-p", "main"], {"queue": "main"}),
        (["--partition=main"], {"queue": "main"}),
        (["--queue", "main"], {"queue": "main"}),
        (["--priority", "-5"], {"priority": -5}),
        (["--priority=0"], {"priority": 0}),
        (["-a", "0-99:2%8"], {"array": "0-99:2%8"}),
        (["--array", "1,2"], {"array": "1,2"}),
        (["-b", "2030-01-02T03:04:05Z"], {"begin_at": 1893553445.0}),
        (["-w", "n[1-2]"], {"only_nodes": ["n1", "n2"]}),
        (["--nodelist=n1"], {"only_nodes": ["n1"]}),
        (["-x", "n3,n2"], {"not_nodes": ["n2", "n3"]}),
        (["-H"], {"hold": True}),
        (["--hold"], {"hold": True}),
        (["-D", "/data"], {"cwd": "/data"}),
        (["--chdir", "sub"], {"cwd": "/work/sub"}),
        (["--env", "A=1", "--env", "PATH"], {"changes": {"A": "1", "PATH": "/bin"}}),
        (["--setup", "a", "--setup", "b c"], {"setup": ["a", "b c"]}),
        (["--venv", "/v"], {"venv": "/v"}),
        (["--conda-env", "torch"], {"conda_env": "torch"}),
        (["--max-retries", "3"], {"max_retries": 3}),
        (["--requeue"], {"requeue": True}),
        (["--no-requeue"], {"requeue": False}),
        (["--on-lost", "fence"], {"on_lost": "fence"}),
        (["-o", "o-%j.txt"], {"output": "o-%j.txt"}),
        (["--output=o", "-e", "e"], {"output": "o", "error": "e"}),
        (["-o", "o", "--open-mode", "append"], {"output": "o", "append": True}),
        (["--error", "e", "--open-mode=truncate"], {"error": "e", "append": False}),
        (["--signal", "USR1@120"], {"warning": {"number": 10, "seconds": 120, "main_only": False}}),
        (["--signal", "B:SIGTERM"], {"warning": {"number": 15, "seconds": 60, "main_only": True}}),
        (["--signal", "12@0"], {"warning": {"number": 12, "seconds": 0, "main_only": False}}),
        (["--scheduling-timeout", "1h"], {"scheduling_timeout_seconds": 3600}),
        (["--comment", "x"], {"comment": "x"}),
        (["-W", "--parsable", "--json", "--dry-run"], {}),
        (["--test-only"], {}),
    ],
)
def test_option_becomes_its_field(arguments: list[str], expected: dict[str, Any]) -> None:
    assert asked(*arguments) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-0", 86_400),
        ("1-2:30", 95_400),
        ("1-2:03:04", 93_784),
        ("90m", 5400),
        ("2h30m", 9000),
        ("1d", 86_400),
        ("45s", 45),
    ],
)
def test_time_limit_in_every_form_of_slurms_grammar(text: str, seconds: int) -> None:
    for option in ("-t", "--time", "--time-limit"):
        assert asked(option, text) == {"time_limit_seconds": seconds}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-t", "0"],
        ["-t", "5x"],
        ["-t", "99999999"],
        ["-N", "0"],
        ["-N", "1-4"],
        ["-G", "0,1"],
        ["--gpu-mem", "24"],
        ["--mem", "lots"],
        ["-d", "1042"],
        ["-w", "n[9-1]"],
        ["-b", "someday"],
        ["--on-lost", "panic"],
        ["--max-retries", "-1"],
        ["--no-such-option"],
        ["--gpu", "1"],
        ["-n", "4"],
    ],
)
def test_wrong_value_or_unknown_option_is_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        prepared(*arguments, "true")


def test_error_names_the_option() -> None:
    with pytest.raises(click.UsageError) as caught:
        prepared("-t", "5x", "true")
    assert "'--time'" in caught.value.format_message()
    assert "2h30m" in caught.value.format_message()


def test_options_end_at_the_first_word_and_at_two_dashes() -> None:
    assert fields("-G1", "python", "x.py", "-G", "8", "--help")["command"] == ["python", "x.py", "-G", "8", "--help"]
    assert fields("--", "-odd", "-t", "--")["command"] == ["-odd", "-t", "--"]


def test_command_is_an_argument_list_and_wrap_a_line_for_the_shell() -> None:
    assert fields("echo", "a b", "$HOME", "")["command"] == ["echo", "a b", "$HOME", ""]
    wrapped = fields("--wrap", "a | b")
    assert (wrapped["command"], wrapped["name"]) == (["/bin/sh", "-c", "a | b"], "wrap")
    with pytest.raises(click.UsageError, match="--wrap takes the place"):
        prepared("--wrap", "a", "b")
    with pytest.raises(click.UsageError, match="no command to run"):
        prepared("-G1")


def test_wrong_usage_is_told_before_a_controller_is_looked_for() -> None:
    def nowhere() -> Place:
        raise AssertionError("asked for the controller")

    words = ["-G5", "-N2", "true"]
    context = submit.make_context("gpuq submit", words)
    with context as ctx, pytest.raises(InvalidRequest):
        prepare(ctx, nowhere)


@pytest.mark.parametrize("arguments", [["--gpu-type", "H100"], ["--gpu-mem", "24G"]])
def test_traits_of_gpus_without_any_asked_for_are_refused(arguments: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="no GPU is asked for"):
        prepared(*arguments, "true")


def test_dependencies_are_read_from_several_kinds() -> None:
    found = prepared("-d", "afterok:1,afterany:@", "true")
    assert [(d.kind, d.job) for d in found.dependencies] == [("afterok", "1"), ("afterany", "@")]
    assert "dependencies" not in found.fields


def test_on_the_cluster_folder_and_environment_are_those_here() -> None:
    sent = fields("true")
    assert (sent["cwd"], sent["environment"]) == ("/work", {"PATH": "/bin"})


def test_elsewhere_a_folder_must_be_given_in_full() -> None:
    with pytest.raises(InvalidRequest, match="not one of the cluster's"):
        prepared("true", place=ELSEWHERE)
    with pytest.raises(InvalidRequest, match="not an absolute path"):
        prepared("-D", "x", "true", place=ELSEWHERE)
    sent = fields("-D", "/x", "true", place=ELSEWHERE)
    assert sent["cwd"] == "/x"
    assert "environment" not in sent


def test_folder_that_vanished_is_said() -> None:
    with pytest.raises(InvalidRequest, match="no longer exists"):
        prepared("true", place=HERE._replace(cwd=None))


# ---------------------------------------------------------------- scripts


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "train.sh"


def test_script_is_stored_with_its_arguments(script: Path) -> None:
    script.write_text("#!/bin/sh\n#SBATCH -t 10\necho $1\n")
    sent = fields(str(script), "a", "-t")
    assert sent["script"] == script.read_text()
    assert (sent["command"], sent["name"], sent["time_limit_seconds"]) == (["a", "-t"], "train.sh", 600)


def test_command_line_wins_over_gpuq_lines_and_those_over_sbatch_lines(script: Path) -> None:
    script.write_text("#!/bin/sh\n#GPUQ -t 20 --comment g\n#SBATCH -t 10 -J s -c 2 --comment s\ntrue\n")
    assert fields(str(script))["time_limit_seconds"] == 1200
    sent = fields("-t", "30", "-J", "mine", str(script))
    assert (sent["time_limit_seconds"], sent["name"], sent["cpus"], sent["comment"]) == (1800, "mine", 2, "g")


def test_gpus_of_the_command_line_replace_the_scripts_however_written(script: Path) -> None:
    script.write_text("#!/bin/sh\n#SBATCH --gres=gpu:a100:2\ntrue\n")
    assert fields(str(script))["gpus_per_node"] == 2
    sent = fields("-G", "H100:4", str(script))
    assert (sent.get("gpus_per_node"), sent["gpus"], sent["gpu_type"]) == (None, 4, "H100")
    sent = fields("--gpu-type", "L40S", str(script))
    assert (sent["gpus_per_node"], sent["gpu_type"]) == (2, "L40S")


def test_lines_of_one_script_that_contradict_each_other_are_refused(script: Path) -> None:
    script.write_text("#!/bin/sh\n#SBATCH --gres=gpu:2\n#SBATCH -G 3\ntrue\n")
    with pytest.raises(InvalidRequest, match="--gpus 3 is not --nodes 1 times"):
        prepared(str(script))


def test_repeatable_options_add_up_with_the_command_lines_last(script: Path) -> None:
    script.write_text("#!/bin/sh\n#GPUQ --env A=1 --setup one\n#GPUQ --env B=2\ntrue\n")
    sent = fields("--env", "A=9", "--setup", "two", str(script))
    assert sent["changes"] == {"A": "9", "B": "2"}
    assert sent["setup"] == ["one", "two"]


def test_a_line_of_shell_as_one_word_gets_a_hint() -> None:
    assert "--wrap" in prepared("echo hi; echo ho").notes[0]
    assert not prepared("echo", "hi; echo ho").notes
    assert not prepared("--wrap", "echo hi").notes


def test_nodes_asked_for_and_excluded_at_once_leave_none(script: Path) -> None:
    with pytest.raises(InvalidRequest, match="-x excludes every node"):
        fields("-w", "n1,n2", "-x", "n[1-3]", "true")
    assert fields("-w", "n1,n2", "-x", "n2", "true")["only_nodes"] == ["n1", "n2"]


def test_unknown_sbatch_option_is_a_note_and_unknown_gpuq_option_an_error(script: Path) -> None:
    script.write_text("#!/bin/sh\n#SBATCH --mail-type=ALL\n#SBATCH -t 5\ntrue\n")
    found = prepared(str(script))
    assert found.fields["time_limit_seconds"] == 300
    assert [note.partition(" is ignored: ")[0] for note in found.notes] == [f"{script} line 2: --mail-type=ALL"]
    script.write_text("#!/bin/sh\n#SBATCH -A a -q b\n#SBATCH --odd\n#SBATCH --qos=c\ntrue\n")
    assert [note.partition(" ignored: ")[0] for note in prepared(str(script)).notes] == [
        f"{script} lines 2, 4: -A a, -q b, --qos=c are",
        f"{script} line 3: --odd is",
    ]
    script.write_text("#!/bin/sh\n\n#GPUQ --mail-type=ALL\ntrue\n")
    with pytest.raises(InvalidRequest, match=r"line 3: no option --mail-type: gpuq sends no mail"):
        prepared(str(script))


@pytest.mark.parametrize("line", ["-t never", "stray", "--controller https://x", "--token x"])
def test_wrong_line_of_a_script_is_named(script: Path, line: str) -> None:
    script.write_text(f"#!/bin/sh\n#GPUQ {line}\ntrue\n")
    with pytest.raises(InvalidRequest):
        prepared(str(script))


def test_wait_and_the_like_may_stand_in_a_script(script: Path) -> None:
    script.write_text("#!/bin/sh\n#SBATCH -W --parsable\n#SBATCH --no-requeue\ntrue\n")
    found = prepared("--requeue", str(script))
    assert (found.options["wait"], found.options["parsable"], found.fields["requeue"]) == (True, True, True)


def test_program_beside_the_options_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tool").write_bytes(b"\x7fELF\0")
    monkeypatch.chdir(tmp_path)
    assert fields("tool", "x")["command"] == ["tool", "x"]
