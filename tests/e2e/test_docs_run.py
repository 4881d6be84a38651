"""What the documents show is run here as it stands: every ```sh block of README.md and docs/, in order, in one shell.

A block that cannot be run says why, in the line above it: <!-- not run: needs a second machine -->. build.py's own
commands are checked to exist (tests/test_docs.py) and not run again.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from trial import Trial

from tests.e2e.cluster import Cluster
from tests.test_docs import DOCS, ROOT, api_words, code, page, rows, section

SECONDS = 100.0
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")


def script(path: Path) -> str:
    """The blocks as one script of as many lines as the document: what fails is named by the document's own line."""
    lines = path.read_text().splitlines()
    out = ["set -eEuo pipefail; trap 'echo \"line $LINENO ended with $?\" >&2' ERR"]
    inside = skipped = False
    for above, line in pairwise(lines):
        if line.startswith("```"):
            skipped = NOT_RUN.fullmatch(above) is not None
            inside = line == "```sh" and not inside
            out.append("")
        else:
            run = inside and not skipped
            out.append((":" if line.startswith("python3 build.py ") else line) if run else "")
    return "\n".join(out) + "\n"


def with_commands() -> list[Path]:
    return [path for path in DOCS if script(path).count("\n") > 1 and script(path).split("\n", 1)[1].strip()]


@pytest.mark.parametrize("path", with_commands(), ids=lambda path: path.name)
def test_every_command_shown_works(path: Path, program: Path, cache: Path) -> None:
    if "curl " in script(path) and shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    with Trial(program) as trial:
        _as_on_a_fresh_machine(trial, program, cache, installed=path.name != "README.md")
        (trial.root / path.name).write_text(script(path))
        done = subprocess.run(
            ["bash", str(trial.root / path.name)],
            cwd=trial.work,
            env=trial.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert not _undocumented(trial.home)


def _as_on_a_fresh_machine(trial: Trial, program: Path, cache: Path, installed: bool) -> None:
    """A home folder of its own with ~/.local/bin first in PATH, in a folder where build.py has just run."""
    local = trial.root / ".local" / "bin"
    local.mkdir(parents=True)
    (local / "python3").symlink_to(sys.executable)  # the file's first line looks for python3, of the Python it is for
    (trial.work / "dist").mkdir()
    shutil.copy2(program, trial.work / "dist" / "gpuq.pyz")
    if installed:
        shutil.copy2(program, local / "gpuq")
    trial.environment["PATH"] = f"{local}:{trial.environment['PATH']}"
    trial.environment["HOME"] = str(trial.root)
    trial.environment["GPUQ_CACHE"] = str(cache)


def _undocumented(home: Path) -> list[str]:
    """Files below GPUQ_HOME that docs/settings.md does not know."""
    patterns = [name for row in rows(section(page("settings.md"), "## Files")) for name in code("|".join(row))]
    found = []
    for path in home.rglob("*"):
        parts = path.relative_to(home).parts
        name = "/".join(parts[2:] if parts[0] == "hosts" else parts)
        known = any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(f"controller/{p}", p) for p in patterns)
        if path.is_file() and not known and parts[-1] not in patterns:
            found.append(name)
    return found


def test_every_field_the_program_shows_is_documented(cluster: Cluster) -> None:
    job = cluster.submit("-G", "1", "-a", "0-1", "true")
    cluster.gpuq("wait", job)
    element = f"{job}_0"
    commands = [("show", job), ("show", element), ("queue", "--all"), ("nodes",), ("events",), ("why", job)]
    shown = {name for command in commands for name in _names(cluster.json(*command))}
    unknown = sorted(name for name in shown - api_words() if name.islower())
    assert not unknown


def _names(value: object) -> set[str]:
    """The names of all fields in a JSON value, at any depth."""
    if isinstance(value, dict):
        return set(value) | {name for item in value.values() for name in _names(item)}
    return {name for item in value for name in _names(item)} if isinstance(value, list) else set()


def test_the_picture_in_the_readme_has_the_columns_of_today() -> None:
    from gpuq.cli.nodes import GPU_HEADER
    from gpuq.cli.queue import HEADER

    text = (ROOT / "README.md").read_text()
    picture = text[text.index("<!-- picture") : text.index("## Try it")]
    lines = [tuple(line.split()) for line in picture.splitlines()]
    assert HEADER in lines
    assert GPU_HEADER in lines
