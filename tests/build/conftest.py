"""A small program packed exactly as gpuq is: tests of the start need no second of gpuq's own imports."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyz import gather, pack

TARGET = f"{sys.implementation.cache_tag}{sys.abiflags}-{sys.platform}-{platform.machine()}"
PROGRAM = """
import json, os, sys
import click

def main():
    bootstrap = sys.modules["gpuq_bootstrap"]
    print(json.dumps({
        "argv": sys.argv[1:],
        "json": json.__file__,
        "click": click.__file__,
        "customised": [name for name in ("sitecustomize", "usercustomize") if name in sys.modules],
        "path": sys.path,
        "environment": dict(os.environ),
        "pyz": bootstrap.PYZ,
        "site": bootstrap.SITE,
        "targets": bootstrap.TARGETS,
        "command": bootstrap.command(),
    }))
    return int(os.environ.get("EXIT", "0"))
"""


@dataclass
class Started:
    """How one start of the program ended."""

    status: int
    output: str
    errors: str

    def __getitem__(self, name: str) -> object:
        assert self.status == 0, self.errors
        return json.loads(self.output)[name]


@dataclass
class Program:
    """The packed program, a home of its own, and ways to start it."""

    file: Path
    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "gpuq"

    @property
    def temporary(self) -> Path:
        """Where it goes when its cache is of no use: never to /var/tmp, where the next test would find it."""
        return self.home / "temporary"

    @property
    def site(self) -> Path:
        """The one directory that it was unpacked to."""
        (site,) = (path for path in self.cache.iterdir() if not path.name.startswith("."))
        return site

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        # This Python first in PATH: the file's own first line looks for `python3` there.
        path = f"{self.home / 'bin'}:{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.home), "TMPDIR": str(self.temporary), "LC_ALL": "C.UTF-8"}
        return {**own, **self.variables, **extra}

    def launch(self, command: list[str | Path], cwd: Path | None = None, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=cwd, env=self.environment(extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def start(self, *arguments: str, by: list[str] | None = None, cwd: Path | None = None, **extra: str) -> Started:
        """Starts the file itself, or, with `by`, a Python with the file as its argument."""
        process = self.launch([*(by or []), self.file, *arguments], cwd, **extra)
        output, errors = process.communicate(timeout=60)
        return Started(process.returncode, output, errors)


def make_program(folder: Path, source: str = PROGRAM) -> Path:
    """Packs `source` with a package named click beside it; returns the file."""
    sources = folder / "sources"
    (sources / "gpuq" / "cli").mkdir(parents=True)
    (sources / "gpuq" / "__init__.py").touch()
    (sources / "gpuq" / "cli" / "__init__.py").touch()
    (sources / "gpuq" / "cli" / "main.py").write_text(source)
    (sources / "click").mkdir()
    (sources / "click" / "__init__.py").touch()
    stock = gather(Path(sys.executable), folder / "stock.pyz", "gpuq.cli.main:main", sources)
    pack(stock, folder / "program.pyz", "gpuq.cli.main:main", [TARGET])
    return folder / "program.pyz"


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_program(tmp_path_factory.mktemp("program"))


@pytest.fixture
def program(packed: Path, tmp_path: Path) -> Program:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    (home / "temporary").mkdir()
    (home / "bin" / "python3").symlink_to(sys.executable)
    return Program(packed, home)
