"""What is in the built file: for every target the right compiled modules, for no target another's."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from pyz import LARGEST_BYTES
from targets import CLIENTS, COMPILED, GLIBC, TARGETS, Target

ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
BINARIES = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"MZ")  # ELF, Mach-O, Mach-O for several, Windows


class Contents:
    """The parts of the file, opened once."""

    def __init__(self, pyz: Path) -> None:
        with zipfile.ZipFile(pyz) as archive:
            self.built = json.loads(archive.read("build.json"))
            self.members = archive.namelist()
            self.zips = {name: zipfile.ZipFile(BytesIO(archive.read(name))) for name in self.built["parts"]}

    def names(self, target: Target) -> list[str]:
        """What the target unpacks; a name that two parts have is there twice."""
        return [name for part in self._parts(target) for name in part.namelist()]

    def read(self, target: Target, name: str) -> bytes:
        (data,) = (part.read(name) for part in self._parts(target) if name in part.namelist())
        return data

    def extract(self, target: Target, folder: Path) -> None:
        for part in self._parts(target):
            part.extractall(folder)

    def _parts(self, target: Target) -> list[zipfile.ZipFile]:
        return [self.zips[name] for name, targets in self.built["parts"].items() if str(target) in targets]


@pytest.fixture(scope="module")
def contents(pyz: Path) -> Contents:
    return Contents(pyz)


def compiled(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".so", ".dylib", ".pyd"))]


def test_every_target_is_there_and_the_file_is_small_enough(pyz: Path, contents: Contents) -> None:
    assert contents.built["parts"]["common.zip"] == [str(target) for target in TARGETS]
    assert {target.python for target in TARGETS} == {"3.10", "3.11", "3.12", "3.13", "3.14"}
    assert pyz.stat().st_size <= LARGEST_BYTES
    assert len(contents.members) <= 30  # Python reads this index at every start


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_no_two_parts_of_a_target_have_the_same_file(contents: Contents, target: Target) -> None:
    assert [name for name, count in Counter(contents.names(target)).items() if count > 1] == []


@pytest.mark.parametrize("target", COMPILED, ids=str)
def test_a_target_has_its_own_compiled_modules_and_no_others(contents: Contents, target: Target) -> None:
    modules = compiled(contents.names(target))
    abi = f"cpython-{target.python.replace('.', '')}-{target.machine}-linux-gnu"
    assert {name.partition(".")[2] for name in modules} == {f"{abi}.so", "abi3.so"}
    assert sorted(name.partition(".")[0] for name in modules) == [
        "_cffi_backend",
        "cryptography/hazmat/bindings/_rust",
        "httptools/parser/parser",
        "httptools/parser/url_parser",
        "pydantic_core/_pydantic_core",
    ]
    for name in modules:
        data = contents.read(target, name)
        assert data[:6] == b"\x7fELF\x02\x01", name  # 64 bits, little-endian
        assert struct.unpack_from("<H", data, 18) == (ELF_MACHINES[target.machine],), name
        # The versions of the C library's symbols that a module asks for are strings of its own.
        asked = {tuple(map(int, version.split(b"."))) for version in re.findall(rb"\0GLIBC_([0-9.]+)(?=\0)", data)}
        assert asked, name
        assert max(asked) <= tuple(map(int, GLIBC.split("_"))), name


@pytest.mark.parametrize("target", CLIENTS, ids=str)
def test_a_client_has_nothing_compiled_and_misses_no_module(contents: Contents, target: Target) -> None:
    names = set(contents.names(target))
    like = next(other for other in COMPILED if other.python == target.python)
    assert not [name for name in names if contents.read(target, name).startswith(BINARIES)]
    assert {name for name in contents.names(like) if name.endswith(".py")} <= names


@pytest.mark.parametrize("package", ["tomli", "exceptiongroup"])
def test_what_only_an_old_python_lacks_is_only_there(contents: Contents, package: str) -> None:
    having = [target for target in TARGETS if f"{package}/__init__.py" in contents.names(target)]
    assert having == [target for target in TARGETS if target.python == "3.10"]


def test_a_client_needs_nothing_compiled(contents: Contents, tmp_path: Path) -> None:
    """Every verb but the daemons', and the dashboard, import from what macOS unpacks."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    contents.extract(next(target for target in CLIENTS if target.python == version), tmp_path)
    script = f"""
import importlib, sys
from pathlib import Path
sys.path.append({str(tmp_path)!r})
from gpuq.cli.main import VERBS
for verb in VERBS.values():
    importlib.import_module(verb.command.partition(":")[0])
for file in sorted(Path({str(tmp_path)!r}, "tui").glob("*.py")):
    importlib.import_module(f"tui.{{file.stem}}")
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_file_holds_licences_and_no_tests_or_leftovers(contents: Contents) -> None:
    names = contents.names(TARGETS[0])
    assert {"gpuq/__init__.py", "agent/__init__.py", "tui/__init__.py", "textual/__init__.py"} <= set(names)
    assert [name for name in names if re.search(r"dist-info/.*LICEN[CS]E", name)]
    assert not [name for name in names if re.search(r"(^|/)tests?/|__pycache__|/RECORD$|^bin/|\.lock$", name)]


def test_the_start_asks_for_the_c_library_that_the_wheels_were_chosen_for(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        assert f"GLIBC = ({GLIBC.replace('_', ', ')})" in archive.read("__main__.py").decode()
