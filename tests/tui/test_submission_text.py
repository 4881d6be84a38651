"""The form's three shapes agree: what it sends is what `gpuq submit` sends for the line it shows."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq.api.schemas import Submission
from gpuq.cli import submission
from gpuq.cli.submit import submit
from gpuq.errors import InvalidRequest
from tui.submission_fields import BY_KEY, FIELDS, faults, needs_shell
from tui.submission_text import (
    Place,
    Template,
    blank,
    body,
    command_line,
    exact_size,
    from_job,
    from_line,
    newest_of,
    place_faults,
    span,
)

NOW = 1_800_000_000.0
SHELL = {"PATH": "/bin", "HOME": "/home/ann"}
INSIDE, OUTSIDE = Place("/work", SHELL), Place()
BLANK = Template({})


def values(**fields: str) -> dict[str, str]:
    return {"command": "python train.py", "cwd": "/work"} | fields


def as_submitted(line: str, on_cluster: bool) -> dict[str, Any]:
    """What `gpuq submit` sends for a line typed in a shell."""
    words = shlex.split(line)
    assert words[:2] == ["gpuq", "submit"]
    place = submission.Place("/work", SHELL, on_cluster)
    # click keeps the names of the first who asks, for all tests in this process
    with submit.make_context("gpuq submit", words[2:]) as ctx:
        prepared = submission.prepare(ctx, lambda: place)
    fields = prepared.fields
    if prepared.dependencies:
        fields["dependencies"] = [{"kind": d.kind, "job": d.job} for d in prepared.dependencies]
    return fields


def agrees(filled: dict[str, str], place: Place, template: Template = BLANK) -> None:
    line = command_line(filled, template, place)
    sent = body(filled, template, place, NOW)
    submitted = as_submitted(line, on_cluster=place.environment is not None)
    assert {k: v for k, v in sent.items() if v != {}} == {k: v for k, v in submitted.items() if v not in ({}, None)}
    Submission.model_validate(sent | {"command": tuple(sent["command"])}, strict=False)


EACH = [
    {"command": "python train.py --lr 0.1 'a b'"},
    {"command": "python train.py > out.txt 2>&1"},
    {"command": "SEED=7 python train.py"},
    {"command": "echo $HOME"},
    {"command": "--odd-program -x"},
    {"name": "a b"},
    {"name": "-x"},
    {"gpus": "2"},
    {"gpus": "H100:2"},
    {"gpus": "1", "gpu_type": "A100", "gpu_memory": "24G"},
    {"gpus": "2", "gpu_memory": "20G", "shared": "yes"},
    {"gpus": "8", "nodes": "2"},
    {"constraint": "h100&!rack=7", "exclusive": "yes"},
    {"time": "2h30m"},
    {"time": "90"},
    {"cpus": "8", "memory": "64G"},
    {"array": "0-99:2%8"},
    {"dependency": "afterok:1041:1042,afternotok:7"},
    {"dependency": "afterany:3,singleton"},
    {"dependency": "singleton"},
    {"output": "out-%j.txt", "error": "/tmp/e r r"},
    {"output": "out-%j.txt", "open_mode": "append"},
    {"time": "2h", "warning": "B:USR1@120"},
    {"time": "2h", "warning": "TERM"},
    {"begin": "2030-01-01T10:00:00Z"},
    {"hold": "yes"},
    {"hold": "no"},
    {"queue": "main", "priority": "-5"},
    {"only_nodes": "n1,n2", "not_nodes": "n3"},
    {"environment": "shell"},
    {"environment": "login"},
    {"env": "A=1 B='x y' C="},
    {"setup": "module load cuda && export X='1 2'"},
    {"venv": "env", "conda_env": "torch"},
    {"max_retries": "3", "requeue": "no", "on_lost": "fence"},
    {"scheduling_timeout": "2h", "comment": 'it\'s "quoted" $HOME `x`'},
]


@pytest.mark.parametrize("filled", EACH, ids=str)
def test_what_is_sent_is_what_the_line_shown_would_send(filled: dict[str, str]) -> None:
    agrees(values(**filled), INSIDE)
    if filled.get("environment") != "shell":
        agrees(values(**filled), OUTSIDE)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(EACH), max_size=8),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
)
def test_so_it_is_for_any_fields_together_and_any_text(parts: list[dict[str, str]], text: str) -> None:
    filled = values(environment="shell")
    for part in parts:
        filled |= part
    if not filled.get("gpus"):
        filled = {k: v for k, v in filled.items() if k not in ("gpu_type", "gpu_memory", "shared")}
    elif int(filled["gpus"].rpartition(":")[2]) % int(filled.get("nodes", 1)) or "gpu_memory" not in filled:
        filled = {k: v for k, v in filled.items() if k not in ("nodes", "shared")}  # the form says what is wrong
    if "gpu_type" in filled and ":" in filled["gpus"]:
        del filled["gpu_type"]  # two types; the form says so, see the test of its faults
    agrees(filled | {"comment": text.strip()}, INSIDE)


def test_every_option_a_person_uses_is_a_field() -> None:
    flags = {flag for field in FIELDS for flag in field.flags}
    options_of_submit = {
        opt for param in submit.params for opt in (*param.opts, *param.secondary_opts) if opt[0] == "-"
    }
    assert flags <= options_of_submit
    # Other ways to say the same, what a form does by itself, and where the cluster is.
    other = {"--wrap", "--gres", "--gpus-per-node"}
    own = {
        "-W",
        "--wait",
        "--dry-run",
        "--test-only",
        "--parsable",
        "--json",
        "--controller",
        "--token",
        "--help",
        "-h",
    }
    left_out = options_of_submit - flags - other - own
    assert {flag for flag in left_out if flag.startswith("--")} <= {"--context"}
    assert {field.key for field in FIELDS} == set(BY_KEY)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("gpus", "two", "'two' is not a number of GPUs"),
        ("gpu_memory", "24", "'24' has no unit: write 24G or 24M"),
        ("time", "soon", "'soon' is not a duration"),
        ("memory", "lots", "'lots' is not a size"),
        ("cpus", "-1", "'-1' is not a whole number: from 0 to 1,000,000"),
        ("cpus", "1.5", "'1.5' is not a whole number"),
        ("array", "9-0", "'9-0' is not a range of array indices"),
        ("dependency", "1041", "'1041' is not a dependency: write afterok:ID"),
        ("begin", "later", "'later' is not a time"),
        ("only_nodes", "n[01-08]", "'n[01-08]' is not a node's name: write each name out"),
        ("env", "SEED", "'SEED' sets no variable: write NAME=VALUE"),
        ("env", "A='x", "no closing quotation in 'A='x': close the quote"),
        ("command", "echo 'x", "no closing quotation"),
        ("cwd", "project", "'project' is not an absolute path"),
    ],
)
def test_a_field_says_itself_what_is_wrong_with_it(key: str, text: str, said: str) -> None:
    filled = values(gpus="1") | {key: text}
    assert faults(filled, NOW)[key].startswith(said)
    with pytest.raises(InvalidRequest):
        body(filled, BLANK, INSIDE, NOW)
    command_line(filled, BLANK, INSIDE)  # is shown while one types, so nothing typed may stop it


def test_a_type_without_a_number_of_gpus_would_run_on_none() -> None:
    assert faults(values(gpu_type="A100"), NOW) == {"gpu_type": "no GPU is asked for: say how many"}


def test_two_types_of_gpu_are_one_too_many() -> None:
    assert faults(values(gpus="H100:2", gpu_type="A100"), NOW) == {
        "gpu_type": "A100, but GPUs asks for H100: one type of GPU a job"
    }
    assert not faults(values(gpus="H100:2", gpu_type="h100"), NOW)


def test_gpus_are_divided_among_nodes_and_a_share_has_a_size() -> None:
    assert faults(values(gpus="3", nodes="2"), NOW) == {"gpus": "3 GPUs cannot be divided among 2 nodes"}
    assert faults(values(gpus="1", shared="yes"), NOW) == {"shared": "say how much of each GPU it takes, as GPU memory"}
    assert faults(values(shared="yes"), NOW) == {"shared": "no GPU is asked for: say how many"}
    assert list(faults(values(constraint="a &"), NOW)) == ["constraint"]
    assert not faults(values(gpus="4", nodes="2", shared="yes", gpu_memory="20G"), NOW)


def test_a_folder_is_never_guessed_and_variables_must_be_of_the_cluster() -> None:
    assert set(place_faults({"environment": "shell"}, BLANK, OUTSIDE)) == {"cwd", "environment"}
    assert place_faults(values(environment="shell"), BLANK, INSIDE) == {}


def test_here_a_blank_form_has_this_folder_and_this_shell() -> None:
    assert blank(INSIDE).values == {"cwd": "/work", "environment": "shell"}
    assert blank(OUTSIDE).values == {"cwd": ""}


def test_the_newest_job_stands_for_an_at_sign() -> None:
    filled = values(dependency="afterok:@")
    assert body(filled, BLANK, INSIDE, NOW, newest="1041")["dependencies"] == [{"kind": "afterok", "job": "1041"}]
    assert "-d afterok:@" in command_line(filled, BLANK, INSIDE)
    with pytest.raises(InvalidRequest, match="you have none"):
        body(filled, BLANK, INSIDE, NOW)
    assert newest_of(["9", "1043_7", "1042"]) == "1043"
    assert newest_of([]) is None


@pytest.mark.parametrize(
    "text", ["a | b", "a; b", "echo $X", 'echo "$X"', "ls *.py", "a > b", "X=1 a", "a && b", "a\nb"]
)
def test_a_line_that_only_a_shell_understands_goes_to_one(text: str) -> None:
    assert needs_shell(text)
    assert body(values(command=text), BLANK, INSIDE, NOW)["command"] == ["/bin/sh", "-c", text]


@pytest.mark.parametrize("text", ["python a.py --x=1", "echo 'a | b'", "echo '$X'", 'echo "a;b"', "a \\$b", "x {1}"])
def test_a_line_that_an_argument_list_says_as_well_goes_to_no_shell(text: str) -> None:
    assert not needs_shell(text)
    assert body(values(command=text), BLANK, INSIDE, NOW)["command"] == shlex.split(text)


def detail(**fields: Any) -> dict[str, Any]:
    request: dict[str, Any] = {
        "nodes": 1,
        "gpus_per_node": 2,
        "gpu_type": "h100",
        "gpu_memory_bytes": 24 << 30,
        "cpus": 4,
    }
    request |= {"memory_bytes": 3 << 29, "only_nodes": ["n1"], "not_nodes": []}
    request |= {"gpu_share_bytes": None, "constraint": "", "exclusive": False}
    plain: dict[str, Any] = {
        "id": "1042",
        "name": "train",
        "user": "ann",
        "queue": "main",
        "command": ["python", "a b.py"],
    }
    plain |= {"cwd": "/work", "request": request, "time_limit_seconds": 9_000, "priority": -5, "max_retries": 1}
    plain |= {"requeue": False, "on_lost": "fence", "comment": "note", "array": None, "script": False}
    return plain | fields


def test_a_clone_asks_for_what_its_job_asked_for() -> None:
    template = from_job(detail(), None, {"environment": SHELL, "changes": {"SEED": "7", "A": "x y"}})
    sent = body(template.values, template, OUTSIDE, NOW)
    assert sent == {
        "command": ["python", "a b.py"],
        "gpus": 2,
        "gpu_type": "h100",
        "gpu_memory_bytes": 24 << 30,
        "cpus": 4,
        "memory_bytes": 3 << 29,
        "only_nodes": ["n1"],
        "time_limit_seconds": 9_000,
        "cwd": "/work",
        "name": "train",
        "queue": "main",
        "priority": -5,
        "max_retries": 1,
        "requeue": False,
        "on_lost": "fence",
        "comment": "note",
        "environment": SHELL,
        "changes": {"SEED": "7", "A": "x y"},
    }


def test_a_clone_shares_its_gpus_and_takes_as_many_nodes_as_its_job_did() -> None:
    job = detail()
    job["request"] |= {"nodes": 2, "gpu_memory_bytes": None, "gpu_share_bytes": 20 << 30, "constraint": "rack=7"}
    template = from_job(job | {"cwd": "/work"}, None, None)
    sent = body(template.values, template, OUTSIDE, NOW)
    assert (sent["nodes"], sent["gpus"], sent["shared"], sent["gpu_memory_bytes"]) == (2, 4, True, 20 << 30)
    assert (sent["constraint"], "exclusive" in sent) == ("rack=7", False)


def test_a_clone_writes_its_files_and_is_warned_as_its_job_was() -> None:
    warning = {"number": 10, "seconds": 120, "main_only": True}
    job = detail(output="out-%j.txt", error=None, append=True, warning=warning)
    template = from_job(job, None, None)
    assert template.values["warning"] == "B:USR1@120"
    sent = body(template.values, template, OUTSIDE, NOW)
    assert (sent["output"], "error" in sent, sent["append"], sent["warning"]) == ("out-%j.txt", False, True, warning)


def test_what_becomes_of_files_that_nobody_named_is_asked_back() -> None:
    assert list(faults(values(open_mode="append"), NOW)) == ["open_mode"]


def test_a_clone_of_a_script_sends_its_text_and_shows_how_to_get_the_file() -> None:
    script = "#!/bin/sh\n#GPUQ -G 2\necho $1\n"
    template = from_job(detail(name="sweep.sh", command=["a b"], script=True), script, None)
    sent = body(template.values, template, OUTSIDE, NOW)
    assert (sent["script"], sent["command"], sent["name"]) == (script, ["a b"], "sweep.sh")
    line = command_line(template.values, template, OUTSIDE)
    assert line.startswith("gpuq show 1042 --script > sweep.sh && gpuq submit ")
    assert line.endswith("./sweep.sh 'a b'")


def test_a_clone_of_a_shell_line_shows_the_line() -> None:
    template = from_job(detail(command=["/bin/sh", "-c", "echo $X | wc\necho two"]), None, None)
    assert template.values["command"] == "echo $X | wc\necho two"
    assert body(template.values, template, OUTSIDE, NOW)["command"][-1] == "echo $X | wc\necho two"


def test_an_array_is_cloned_with_its_limit() -> None:
    array = {"text": "0-99:2", "size": 50, "max_running": 8, "counts": {}}
    assert from_job(detail(array=array), None, None).values["array"] == "0-99:2%8"


@pytest.mark.parametrize(
    ("line", "filled"),
    [
        ("-G 2 -t 4h python train.py --lr 0.1", {"gpus": "2", "time": "4h", "command": "python train.py --lr 0.1"}),
        ("--gpus=H100:2 -c8 -- -x", {"gpus": "H100:2", "cpus": "8", "command": "-x"}),
        ("-H --no-requeue --export NONE sleep 1", {"hold": "yes", "requeue": "no", "environment": "login"}),
        ("--name 'a b' echo 'x y'", {"name": "a b", "command": "echo 'x y'"}),
    ],
)
def test_a_line_fills_the_form(line: str, filled: dict[str, str]) -> None:
    assert filled.items() <= from_line(line, BLANK).values.items()


@pytest.mark.parametrize("line", ["--nope x", "-G", "echo 'x"])
def test_a_line_the_form_cannot_hold_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequest):
        from_line(line, BLANK)


def test_times_and_sizes_are_written_exactly() -> None:
    assert [span(s) for s in (None, 59, 3_600, 9_000, 90_061)] == ["", "59s", "1h", "2h30m", "1d1h1m1s"]
    assert [exact_size(b) for b in (None, 24 << 30, 3 << 29, 1_000)] == ["", "24G", "1536M", "1000B"]


def test_a_script_that_lies_here_is_run_as_the_file_it_is_on_the_node(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text("#!/bin/sh\n#GPUQ -G 8\n")
    place = INSIDE._replace(is_script=lambda word: word == str(script))
    filled = values(command=f"{script} --lr 0.1")
    agrees(filled, place)
    assert body(filled, BLANK, place, NOW)["name"] == "train.sh"
    assert "gpus" not in body(filled, BLANK, place, NOW)
