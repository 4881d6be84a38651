"""gpuq config against a real controller: a document shown, changed in an editor, and applied."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.server import Running, start
from tests.cli.gpuq_process import environment, gpuq


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    controller = start(tmp_path / "controller")
    yield controller
    assert controller.stop() == 0


class Person:
    """Someone with a shell, a token and a file to edit."""

    def __init__(self, running: Running, home: Path, user: str = "root") -> None:
        home.mkdir()
        self.home, self.file = home, home / "cluster.toml"
        self.variables = {"GPUQ_URL": running.url, "GPUQ_TOKEN": running.tokens[user]}

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return gpuq(self.home, "config", *arguments, stdin=stdin, **self.variables)

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def shown(self) -> str:
        done = self("show")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture
def person(running: Running, tmp_path: Path) -> Person:
    person = Person(running, tmp_path / "person")
    person.file.write_text(person.shown())
    return person


def test_what_is_shown_is_changed_and_applied_and_a_second_time_changes_nothing(person: Person) -> None:
    person.edit('lost_after = "1m30s"', 'lost_after = "2m"')
    person.edit("# keep_history =", 'keep_history = "9d"  #')
    person.edit("# Quotas", "[queues.night]\nmax_time = '12h'\n[quotas.ann]\ngpu_hours = 4\n# Quotas")
    lines = [
        'cluster.lost_after: "1m30s" -> "2m"',
        'cluster.keep_history: not set -> "9d"',
        'queues.night: added, max_time = "12h"',
        "quotas.ann: added, gpu_hours = 4",
    ]
    differs = person("diff", str(person.file))
    assert (differs.returncode, differs.stdout.splitlines()) == (0, lines)
    assert "does not act on it yet: cluster.keep_history" in differs.stderr
    assert "version = 0" in person.shown()
    done = person("apply", "--yes", str(person.file))
    assert done.stdout.splitlines() == [*lines, "done: the settings are at version 1"]
    again = person("apply", "--yes", str(person.file))
    assert (again.returncode, again.stdout) == (0, "nothing to change: the settings are at version 1\n")
    assert 'max_time = "12h"' in person.shown()
    shown = json.loads(person("show", "--json").stdout)
    assert (shown["settings"]["queues"]["night"]["max_time"], shown["kept_only"]) == ("12h", ["cluster.keep_history"])


def test_of_two_who_change_at_once_the_second_is_told(person: Person, running: Running, tmp_path: Path) -> None:
    other = Person(running, tmp_path / "other")
    other.file.write_text(other.shown())
    for each, value in ((person, "2m"), (other, "3m")):
        each.edit('lost_after = "1m30s"', f'lost_after = "{value}"')
    assert person("apply", "--yes", str(person.file)).returncode == 0
    assert "`gpuq config apply` would refuse it" in other("diff", str(other.file)).stderr
    late = other("apply", "--yes", str(other.file))
    assert (late.returncode, late.stderr.count("\n")) == (1, 1)
    assert "changed since version 0" in late.stderr
    assert 'lost_after = "2m"' in person.shown()


def test_each_problem_is_a_line_with_its_path_and_nothing_is_applied(person: Person) -> None:
    person.file.write_text('[cluster]\nvisibility = "open"\nlost_after = 3\n[queues.a]\nmax_tim = 2000-01-01\n')
    refused = person("apply", "--yes", str(person.file))
    assert (refused.returncode, refused.stdout) == (2, "")
    lines = refused.stderr.splitlines()
    assert [line.split(": ")[2] for line in lines[:2]] == ["cluster.lost_after", "queues.a.max_tim"]
    assert lines[2].endswith("has 2 problems, so nothing was changed")
    assert 'visibility = "private"' in person.shown()
    for text, said in (
        ("[cluster", "is not valid TOML"),
        ("\xff", "is not UTF-8"),
        ("version = " + "9" * 5000, "cannot be read"),
    ):
        person.file.write_text(text, encoding="latin-1")
        wrong = person("diff", str(person.file))
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
        assert said in wrong.stderr
    assert "No such file" in person("apply", str(person.home / "nowhere")).stderr


def test_without_a_terminal_it_takes_yes_and_with_one_it_asks(person: Person) -> None:
    person.edit('visibility = "private"', 'visibility = "open"')
    refused = person("apply", str(person.file))
    assert (refused.returncode, "say --yes" in refused.stderr) == (2, True)
    for answer, status in ((b"n\n", 1), (b"y\n", 0)):
        assert 'visibility = "private"' in person.shown()
        assert on_a_terminal(person, answer) == status
    assert 'visibility = "open"' in person.shown()


def on_a_terminal(person: Person, typed: bytes) -> int:
    """The exit status of `gpuq config apply` where this is typed."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    command = [sys.executable, "-m", "gpuq", "config", "apply", str(person.file)]
    try:
        variables = environment(person.home, **person.variables)
        return subprocess.run(
            command, env=variables, stdin=theirs, capture_output=True, timeout=60, check=False
        ).returncode
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_document_comes_from_a_pipe_too(person: Person) -> None:
    done = person("apply", "--yes", "--json", "-", stdin='[cluster]\nvisibility = "open"\n')
    assert (done.returncode, done.stderr) == (0, "")
    assert [change["path"] for change in json.loads(done.stdout)["changes"]] == ["cluster.visibility"]


def test_who_is_no_admin_sees_settings_and_cannot_change_them(running: Running, tmp_path: Path) -> None:
    ann = Person(running, tmp_path / "ann", "ann")
    ann.file.write_text(ann.shown().replace("private", "open"))
    assert ann("apply", "--yes", str(ann.file)).returncode == 4
