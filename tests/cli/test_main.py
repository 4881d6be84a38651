from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from gpuq.cli import main as entry
from gpuq.cli.invoke import load
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound, Unavailable, Unreachable
from tests.cli.gpuq_process import environment, gpuq


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    text = capsys.readouterr().err
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A verb `try` whose command does what is put into the list: an error is raised, another value is returned."""
    doings: list[object] = []

    @click.command()
    @click.option("--gpus")
    def command(gpus: str | None) -> object:
        (doing,) = doings
        if isinstance(doing, BaseException):
            raise doing
        return doing

    monkeypatch.setattr(sys.modules[__name__], "command", command, raising=False)
    monkeypatch.setitem(entry.VERBS, "try", entry.Verb(f"{__name__}:command", ""))
    monkeypatch.setitem(entry.VERBS, "try-job", entry.Verb(f"{__name__}:command", "", gives_job_status=True))
    return doings


@pytest.mark.parametrize("name", entry.VERBS)
def test_every_verb_in_the_table_is_a_command_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(load(entry.VERBS[name].command), click.Command)
    assert entry.main([name, "--help"]) == 0
    assert f"Usage: gpuq {name}" in capsys.readouterr().out
    assert entry.main([name, "-h"]) == 0


def test_help_and_suggestions_import_neither_click_nor_a_verb() -> None:
    code = (
        "import sys; from gpuq.cli.main import main; main(['--help']); main(['sumbit']);"
        "print(sorted(m for m in sys.modules if m == 'click' or m.startswith('gpuq.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['gpuq.cli', 'gpuq.cli.complain', 'gpuq.cli.main']"
    assert "Did you mean submit?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sumbit"], "gpuq: no such command: sumbit. Did you mean submit? See gpuq --help"),
        (["delete", "3"], "gpuq: no such command: delete. Did you mean cancel? See gpuq --help"),
        (["squeue"], "gpuq: no such command: squeue. Did you mean queue? See gpuq --help"),
        (["token"], "gpuq token: missing command. See gpuq token --help"),
        (["xyzzy"], "gpuq: no such command: xyzzy. See gpuq --help"),
        (["doctor"], "gpuq: doctor is not in this version of gpuq. See gpuq --help"),
        (
            ["--json", "queue"],
            "gpuq: no such option: --json. Options follow the verb: gpuq queue --json .... See gpuq --help",
        ),
        (["queue", "a\udcffb"], "gpuq: argument 2 is not UTF-8 text: a\\udcffb"),
        (["version", "extra"], "gpuq version: got unexpected extra argument 'extra'. See gpuq version --help"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(arguments) == 2
    assert said(capsys).replace("(extra)", "'extra'") == line


def test_other_names_lead_to_verbs_and_hide_none() -> None:
    assert set(entry.OTHER_NAMES.values()) <= set(entry.VERBS)
    assert not set(entry.OTHER_NAMES) & (set(entry.VERBS) | set(entry.ALIASES) | entry.PLANNED)


def test_help_of_a_verb_may_be_asked_for_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["help", "queue"]) == 0
    asked = capsys.readouterr().out
    assert entry.main(["queue", "--help"]) == 0
    assert asked == capsys.readouterr().out


def test_a_wrong_option_is_answered_with_the_right_one(verb: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["try", "--gpu", "1"]) == 2
    line = said(capsys)
    assert "--gpus" in line
    assert line.startswith("gpuq try: no such option")
    assert line.endswith("See gpuq try --help")


@pytest.mark.parametrize(
    ("error", "status", "of_job"),
    [
        (InvalidRequest("bad"), 2, 2),
        (NotFound("none"), 3, 125),
        (NotAuthorised("no"), 4, 125),
        (Conflict("late"), 1, 125),
        (Unavailable("busy"), 1, 125),
        (Unreachable("gone", "is it running?"), 5, 125),
    ],
)
def test_each_error_has_its_exit_status(
    verb: list[object], error: Exception, status: int, of_job: int, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.append(error)
    assert entry.main(["try"]) == status
    assert said(capsys).startswith(f"gpuq: {error}")
    assert entry.main(["try-job"]) == of_job


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (7, 7), (0, 0)])
def test_what_a_verb_returns_is_the_exit_status(verb: list[object], returned: object, status: int) -> None:
    verb.append(returned)
    assert entry.main(["try"]) == status


def test_an_interrupt_ends_quietly(verb: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    verb.append(KeyboardInterrupt())
    assert entry.main(["try"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_failing_system_call_names_the_file(verb: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    verb.append(FileNotFoundError(2, "No such file or directory", "train.sh"))
    assert entry.main(["try"]) == 1
    assert said(capsys) == "gpuq: train.sh: No such file or directory"
    assert entry.main(["try-job"]) == 125


def test_a_defect_is_one_line_and_its_traceback_a_file(
    verb: list[object], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUQ_HOME", str(tmp_path))
    verb.append(ZeroDivisionError("a\nb"))
    assert entry.main(["try"]) == 1
    (trace,) = (tmp_path / "log").iterdir()
    assert said(capsys) == f"gpuq: unexpected ZeroDivisionError: a b; please report it with {trace}"
    assert "Traceback" in trace.read_text()
    assert entry.main(["try-job"]) == 125


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    # head reads a line and leaves; the rest of a text longer than a pipe's buffer has nowhere to go.
    code = (
        "import sys; from gpuq.cli import main; "
        "main.overview = lambda: 'line\\n' * 100000; sys.argv = ['gpuq', '--help']; sys.exit(main.main())"
    )
    script = f'{sys.executable} -c "$1" | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", code], capture_output=True, text=True, check=True, env=environment(tmp_path)
    )
    assert (done.stdout, done.stderr) == ("line\n141\n", "")


def test_closed_standard_streams_are_no_trouble(tmp_path: Path) -> None:
    script = f"{sys.executable} -m gpuq queue >&-; echo $?; {sys.executable} -m gpuq version <&- >&- 2>&-; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment(tmp_path))
    assert done.stdout == "5\n0\n"
    assert done.stderr.startswith("gpuq: no controller known")
    assert done.stderr.count("\n") == 1


def test_bytes_that_are_no_text_are_refused_from_a_real_command_line(tmp_path: Path) -> None:
    done = gpuq(tmp_path, "submit", b"\xff")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpuq: argument 2 is not UTF-8 text: \\udcff\n"


def test_no_arguments_show_the_overview_and_are_wrong_usage(tmp_path: Path) -> None:
    done = gpuq(tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("Usage: gpuq VERB")


def test_version_says_what_a_peer_needs_to_know(tmp_path: Path) -> None:
    assert gpuq(tmp_path, "--version").stdout.startswith("gpuq 0.")
    assert '"protocol": 1' in gpuq(tmp_path, "version", "--json").stdout
