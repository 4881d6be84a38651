"""The locked packages for every target, fetched once per change of packaging/runtime.lock and kept as parts.

Files that the same targets have in common, to the byte, are one part: what all share is a directory (common/), every
other part a zip as it goes into gpuq.pyz. So pure files are packed once, and a target unpacks few parts.

uv fetches, because pip evaluates the lock's markers for the Python it runs on, whatever --python-version says.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from archive import zipped
from targets import CLIENTS, COMPILED, Target
from toolchain import RUNTIME_LOCK, WORK, digest, index_environment, logged, say

KEPT = WORK / "parts"
LOG = WORK / "fetch.log"

# Not needed to run: pip's own book-keeping, command wrappers, tests, stubs, C headers. Licences and metadata stay.
_LEFT_OUT = re.compile(
    r"^bin/|^\.lock$|\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|uv_cache\.json|WHEEL)$"
    r"|(^|/)tests?/|(^|/)__pycache__/|\.(pyi|pyc|h|c)$"
)
_COMPILED_FILE = re.compile(r"\.(so|dylib)$|\.dist-info/sboms/")  # and the lists of what was compiled into it

_CODE = ("wheels.py", "targets.py", "archive.py")

Files = dict[str, bytes]  # names below site-packages


@dataclass(frozen=True, slots=True)
class Parts:
    """common: the directory every target has. zips: file name of a part -> the targets that unpack it."""

    common: Path
    zips: Mapping[Path, Sequence[str]]


def locked_parts(python: Path) -> Parts:
    """The parts of the locked packages; fetched if the lock or this code changed. Call it under toolchain.locked()."""
    table = KEPT / "parts.json"
    key = digest(RUNTIME_LOCK.read_bytes(), *(Path(__file__).with_name(name).read_bytes() for name in _CODE))
    try:
        kept = json.loads(table.read_text())
    except (OSError, ValueError):
        kept = {}
    if kept.get("key") != key:
        say(f"fetching the packages of {len(COMPILED)} targets (once per change of packaging/runtime.lock; a minute)")
        shutil.rmtree(KEPT, ignore_errors=True)
        KEPT.mkdir()
        kept = {"key": key, "parts": _keep(_trees(python))}
        table.write_text(json.dumps(kept, indent=1))
    return Parts(KEPT / "common", {KEPT / name: targets for name, targets in kept["parts"].items()})


def _trees(python: Path) -> dict[Target, Files]:
    """What each target is to find in its site-packages."""
    trees: dict[Target, Files] = {}
    known: dict[bytes, bytes] = {}  # equal files are one object: ten trees would fill 400 MB
    for target in COMPILED:
        with tempfile.TemporaryDirectory(prefix="gpuq-build-") as scratch:
            _install(python, target, Path(scratch))
            paths = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
            tree = {str(path.relative_to(scratch)): path.read_bytes() for path in paths}
        tree = {name: known.setdefault(data, data) for name, data in tree.items()}
        oldest = next((trees[other] for other in trees if other.machine == target.machine), tree)
        trees[target] = _with_stable_packages_of(oldest, tree)
    for target in CLIENTS:
        like = next(tree for other, tree in trees.items() if other.python == target.python)
        trees[target] = {name: data for name, data in like.items() if not _COMPILED_FILE.search(name)}
    return trees


def _install(python: Path, target: Target, folder: Path) -> None:
    """Wheels only, each with its hash: what is locked has them for every target, and a source package runs code."""
    say(f"fetching for {target.spoken}")
    command = [str(python), "-I", "-m", "uv", "pip", "install", "--no-config", "--no-progress", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", f"--target={folder}", f"--requirement={RUNTIME_LOCK}"]
    command += [f"--python-version={target.python}", f"--python-platform={target.wheels}"]
    logged(command, LOG, f"cannot fetch the packages for {target.spoken}", index_environment(python))


def _with_stable_packages_of(oldest: Files, tree: Files) -> Files:
    """The tree, its stable-ABI packages replaced by those of the oldest Python: they run on every newer one.

    cryptography has one wheel for Python 3.9 and one for 3.11 onwards; both of them would be 4.5 MB more a machine.
    """
    mixed = dict(tree)
    for package, files in _packages(tree).items():
        if any(file.endswith(".abi3.so") for file in files):
            mixed = {file: data for file, data in mixed.items() if file not in files}
            mixed |= {file: oldest[file] for file in _packages(oldest)[package]}
    return mixed


def _packages(tree: Files) -> dict[str, list[str]]:
    """The files that each package brought."""
    return {
        name: [row[0] for row in csv.reader(data.decode().splitlines()) if row[0] in tree]
        for name, data in tree.items()
        if name.endswith(".dist-info/RECORD")
    }


def _keep(trees: Mapping[Target, Files]) -> dict[str, list[str]]:
    """Writes the parts; returns their names, each with its targets."""
    owners: dict[tuple[str, bytes], list[str]] = defaultdict(list)
    for target, tree in trees.items():
        for name, data in tree.items():
            if not _LEFT_OUT.search(name):
                owners[name, data].append(str(target))
    groups: dict[tuple[str, ...], Files] = defaultdict(dict)
    for (name, data), targets in sorted(owners.items(), key=lambda owned: owned[0][0]):
        groups[tuple(targets)][name] = data
    for name, data in groups.pop(tuple(map(str, trees))).items():
        path = KEPT / "common" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    say("compressing them")
    named = {f"packages-{number:02}.zip": targets for number, targets in enumerate(sorted(groups), 1)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, data in zip(named, pool.map(lambda targets: zipped(groups[targets]), named.values()), strict=True):
            (KEPT / name).write_bytes(data)
    return {name: list(targets) for name, targets in named.items()}
