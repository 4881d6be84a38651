"""The building's plan: which file may import what. Edit the tables here when the plan changes, never to silence a test.

Imports go down. A file imports its own layer and layers on lower floors; siblings on one floor do not know each other,
the floor above joins them. Each outside library has one door: the files that may import it.
"""

from __future__ import annotations

import ast
import fnmatch
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLANNED = ("gpuq", "agent", "tui", "bench")

# floor -> layer -> its modules (with all that is below them)
FLOORS: list[dict[str, Sequence[str]]] = [
    {
        "vocabulary": [
            f"gpuq.{name}"
            for name in (
                "accounts",
                "arrays",
                "changes",
                "codec",
                "constraint",
                "document",
                "enforced",
                "errors",
                "gpu_use",
                "holes",
                "model",
                "node",
                "outfiles",
                "ownlog",
                "predict",
                "protocol",
                "reasons",
                "settings",
                "spec",
                "spent",
                "states",
                "units",
                "version",
                "view",
                "wire",
            )
        ]
    },
    {
        "scheduler": ["gpuq.scheduler"],
        "cluster": ["gpuq.cluster", "gpuq.lanes"],
        "store": ["gpuq.store"],
        "client": ["gpuq.client"],
        "config": ["gpuq.config"],
    },
    {"service": ["gpuq.service"]},
    {"api": ["gpuq.api"], "simulate": ["gpuq.simulate"]},
    {"cli": ["gpuq.cli", "gpuq.__main__"], "tui": ["tui"], "agent": ["agent"], "bench": ["bench"]},
]

# layer -> the only other layers it may import, where that is not "all lower floors"
NARROWER = {
    "agent": {"vocabulary", "client", "config"},  # runs on nodes: what the controller decides with stays away from them
    "tui": {"vocabulary", "client", "config"},  # sees what any client sees
}
WIDER = {
    "cli": {"agent", "tui"},  # `gpuq agent` and `gpuq tui` start them
    "bench": {"cli", "tui", "agent"},  # measures everything
}

# library -> (files that may import it, why only they)
DOORS: dict[str, tuple[Sequence[str], str]] = {
    "sqlite3": (["gpuq/store/*"], "all SQL is in the store"),
    "fastapi": (["gpuq/api/*"], "the web framework is the API's own matter"),
    "starlette": (["gpuq/api/*"], "the web framework is the API's own matter"),
    "pydantic": (
        ["gpuq/api/*", "gpuq/config.py"],
        "what comes from outside is validated where it enters; 90 ms to import",
    ),
    "uvicorn": (
        ["gpuq/api/serve.py", "gpuq/api/connections.py", "gpuq/cli/controller.py"],
        "the server starts in one place; connections.py bounds what it lets a stranger cost",
    ),
    "httpx": (["gpuq/client.py", "gpuq/client/*"], "one client; 90 ms to import"),
    "textual": (["tui/*"], "only the dashboard draws"),
    "rich": (["tui/*", "gpuq/cli/*"], "only what a person looks at is coloured"),
    "click": (["gpuq/cli/*"], "the command line"),
    "pynvml": (["agent/nvml.py"], "one reader of GPUs"),
    "cryptography": (["gpuq/api/*"], "the CA and certificates"),
    "tomli": (["gpuq/config.py"], "tomllib for Python 3.10"),
    "tomllib": (["gpuq/config.py"], "one reader of the config"),
    "subprocess": (
        [
            "agent/login*.py",
            "agent/supervisor.py",
            "agent/launcher*.py",
            "agent/output_files.py",
            "agent/process_tree.py",
            "agent/program.py",
            "agent/driver.py",
            "agent/nvidia_smi.py",
            "agent/shutdown.py",
            "gpuq/cli/daemons.py",
            "gpuq/cli/systemd.py",
            "bench/*",
        ],
        "processes are started where they are also ended; nvidia_smi, shutdown and systemd ask another program",
    ),
    "multiprocessing": ([], "it forks grown processes: 85 a second; the launcher spawns"),
    "signal": (
        [
            "agent/login*.py",
            "agent/supervisor.py",
            "agent/launcher*.py",
            "agent/output_files.py",
            "agent/process_tree.py",
            "agent/program.py",
            "agent/shutdown.py",
            "agent/survivors.py",
            "agent/daemon.py",
            "gpuq/api/serve.py",
            "gpuq/cli/*",
            "bench/*",
        ],
        "signals are sent by what runs jobs and met by what is a process's top",
    ),
}

# os.NAME that makes processes or signals them; the same files as subprocess, and why, as there
PROCESS_CALLS = {
    "fork",
    "forkpty",
    "posix_spawn",
    "posix_spawnp",
    "kill",
    "killpg",
    "system",
    "popen",
    "waitpid",
    "wait4",
}

# Files that import the standard library and each other, nothing else.
_SMALL = "it is copied out of the build and outlives upgrades, and every job pays for its memory"
STANDARD_LIBRARY_ONLY = {
    f"agent/{name}.py": _SMALL
    for name in (
        "supervisor",
        "supervisor_socket",
        "channel",
        "channels",
        "launcher",
        "limits",
        "output_files",
        "process_tree",
        "program",
        "run_cgroup",
        "run_folder",
        "setup_line",
        "shutdown",
        "spool",
        "tree_end",
    )
}

# Two layers -> the one file that may import both.
JOINED_ONLY_IN = {("store", "cluster"): "gpuq/service/commit.py"}

# Tables of the store that lag behind memory -> who may read them, since he lays what is unwritten over what he finds
_OVERLAID = ["gpuq/store/*", "gpuq/service/live.py", "gpuq/api/lookup.py"]
BEHIND_MEMORY = {"gpuq.store.attempts": _OVERLAID, "gpuq.store.specs": _OVERLAID}

# Imports inside functions elsewhere hide a circle. Here they make `gpuq submit` start fast.
LAZY = ["gpuq/cli/*", "gpuq/config.py", "gpuq/__main__.py", "agent/__main__.py", "agent/daemon.py"]

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
LONGEST_LINES = 500


class Import(NamedTuple):
    """One imported name; `target` is absolute and includes the name itself: gpuq.model.Job."""

    line: int
    target: str
    lazy: bool


def module_of(path: str) -> str:
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> tuple[int, str] | None:
    """(floor, layer) of a module or of a name in one."""
    for floor, layers in enumerate(FLOORS):
        for layer, prefixes in layers.items():
            if any(f"{module}.".startswith(f"{prefix}.") for prefix in prefixes):
                return floor, layer
    return None


def imports(tree: ast.Module, path: str) -> Iterator[Import]:
    lazy_nodes = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(outer)
    }
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, node in lazy_nodes)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                whole = ".".join([*base, *([node.module] if node.module else []), alias.name])
                yield Import(node.lineno, whole, node in lazy_nodes)


def may_import(importer: tuple[int, str], imported: tuple[int, str]) -> bool:
    (floor, layer), (target_floor, target) = importer, imported
    if target == layer or target in WIDER.get(layer, ()):
        return True
    return target in NARROWER[layer] if layer in NARROWER else target_floor < floor


def breaches_in(path: str, source: str) -> Iterator[str]:
    """What one file, named from the root, does against the plan."""
    tree = ast.parse(source)
    home = layer_of(module_of(path))
    if home is None and path != "gpuq/__init__.py":
        yield f"{path}: has no floor; give it one in FLOORS"
    joined = set()
    for line, target, lazy in imports(tree, path):
        where, top = f"{path}:{line}", target.partition(".")[0]
        layer = layer_of(target)
        if layer and home:
            joined.add(layer[1])
            if not may_import(home, layer):
                yield f"{where}: {home[1]} may not import {target} ({layer[1]})"
        for table, readers in BEHIND_MEMORY.items():
            if f"{target}.".startswith(f"{table}.") and not matches(path, readers):
                yield f"{where}: {table} lags behind memory: ask gpuq/api/lookup.py"
        if lazy and not matches(path, LAZY):
            yield f"{where}: import of {target} inside a function"
        if top in DOORS and not matches(path, DOORS[top][0]):
            yield f"{where}: {top} may be imported only by {', '.join(DOORS[top][0]) or 'nobody'}: {DOORS[top][1]}"
        elif top not in DOORS and top not in PLANNED and top not in sys.stdlib_module_names:
            yield f"{where}: {top} is a library without a door; give it one in DOORS"
        mates = any(target.startswith(module_of(mate) + ".") for mate in STANDARD_LIBRARY_ONLY)
        if path in STANDARD_LIBRARY_ONLY and top not in sys.stdlib_module_names and not mates:
            yield f"{where}: {target}, but this file imports the standard library only: {STANDARD_LIBRARY_ONLY[path]}"
        if top == "os" and target.removeprefix("os.") in PROCESS_CALLS and not matches(path, DOORS["subprocess"][0]):
            yield f"{where}: {target}: {DOORS['subprocess'][1]}"
    for pair, only in JOINED_ONLY_IN.items():
        if joined >= set(pair) and path != only:
            yield f"{path}: imports both {' and '.join(pair)}; only {only} may"
    for node in ast.walk(tree):
        if "TYPE_CHECKING" in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None)):
            yield f"{path}: TYPE_CHECKING hides an import"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id == "os" and node.attr in PROCESS_CALLS)
            and not matches(path, DOORS["subprocess"][0])
        ):
            yield f"{path}:{node.lineno}: os.{node.attr}: {DOORS['subprocess'][1]}"


def matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def python_files(root: Path, *folders: str) -> Iterator[tuple[str, str]]:
    """(path from the root, source) of each file, in order."""
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            yield file.relative_to(root).as_posix(), file.read_text()


def breaches(root: Path) -> list[str]:
    return [breach for path, source in python_files(root, *PLANNED) for breach in breaches_in(path, source)]


def shape_faults(root: Path) -> list[str]:
    """Files whose name says nothing, or that are too long to hold one idea."""
    faults = []
    for path, source in python_files(root, *PLANNED, "tests", "packaging"):
        if VAGUE_NAMES & set(path.removesuffix(".py").split("/")):
            faults.append(f"{path}: name it for what it knows or does")
        if (lines := source.count("\n")) > LONGEST_LINES:
            faults.append(f"{path}: {lines} lines; past {LONGEST_LINES}, split it by decision")
    return faults


def test_every_import_keeps_to_the_plan() -> None:
    assert breaches(ROOT) == []


def test_every_file_is_short_and_named_for_what_it_does() -> None:
    assert shape_faults(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("gpuq/units.py", "from gpuq.store import jobs", "vocabulary may not import gpuq.store.jobs"),
        ("gpuq/cluster.py", "import gpuq.scheduler.fit", "cluster may not import gpuq.scheduler.fit"),
        ("gpuq/scheduler/fit.py", "from gpuq import cluster", "scheduler may not import gpuq.cluster"),
        ("gpuq/service/tick.py", "from gpuq.api.app import app", "service may not import gpuq.api"),
        ("gpuq/service/tick.py", "from ..api import app", "service may not import gpuq.api.app"),
        ("gpuq/service/jobs.py", "import gpuq.cluster\nimport gpuq.store", "only gpuq/service/commit.py may"),
        ("gpuq/api/jobs.py", "from gpuq.store import specs as stored", "gpuq.store.specs lags behind memory"),
        ("agent/sync.py", "from gpuq.scheduler import plan", "agent may not import gpuq.scheduler.plan"),
        ("agent/supervisor.py", "from agent import executor", "standard library only"),
        ("agent/supervisor.py", "from gpuq.states import State", "standard library only"),
        ("tui/app.py", "import agent.nvml", "tui may not import agent.nvml"),
        ("gpuq/service/jobs.py", "import sqlite3", "sqlite3 may be imported only by gpuq/store/*"),
        ("gpuq/cli/nodes.py", "import httpx", "httpx may be imported only by"),
        ("gpuq/store/db.py", "import requests", "requests is a library without a door"),
        ("agent/monitor.py", "import os\nos.fork()", "agent/monitor.py:2: os.fork"),
        ("agent/monitor.py", "from os import kill", "agent/monitor.py:1: os.kill"),
        ("gpuq/store/db.py", "def f():\n    import json", "gpuq/store/db.py:2: import of json inside a function"),
        ("gpuq/store/db.py", "from typing import TYPE_CHECKING", "TYPE_CHECKING"),
        ("gpuq/store/db.py", "import typing\nif typing.TYPE_CHECKING: pass", "TYPE_CHECKING"),
        ("gpuq/newcomer.py", "", "gpuq/newcomer.py: has no floor"),
    ],
)
def test_a_planted_breach_is_caught(tmp_path: Path, path: str, source: str, said: str) -> None:
    plant(tmp_path, path, source)
    found = breaches(tmp_path)
    assert any(said in breach for breach in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("gpuq/scheduler/fit.py", "import math\nfrom gpuq.model import Job\nfrom . import order"),
        ("gpuq/service/commit.py", "import gpuq.store\nimport gpuq.cluster"),
        ("gpuq/cli/agent.py", "def run():\n    from agent import daemon"),
        ("agent/sync.py", "from gpuq.client import Client\nfrom agent import journal"),
        ("agent/launcher_link.py", "import os, subprocess, signal\nos.kill(1, 0)"),
        ("gpuq/config.py", "try:\n    import tomllib\nexcept ImportError:\n    import tomli as tomllib"),
    ],
)
def test_what_the_plan_allows_passes(tmp_path: Path, path: str, source: str) -> None:
    plant(tmp_path, path, source)
    assert breaches(tmp_path) == []


def test_vague_names_and_long_files_are_caught(tmp_path: Path) -> None:
    plant(tmp_path, "gpuq/utils.py", "")
    plant(tmp_path, "gpuq/common/fit.py", "")
    plant(tmp_path, "agent/sync.py", "x = 1\n" * 501)
    assert len(shape_faults(tmp_path)) == 3


def plant(root: Path, path: str, source: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source)
