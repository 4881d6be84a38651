"""What build.py makes, and what it says when it cannot."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import pyz as pyz_module
import toolchain
import wheels

from tests.build.conftest import PROGRAM, make_program

ROOT = Path(__file__).resolve().parent.parent.parent


def build_py(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = make_program(tmp_path / "one"), make_program(tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()


def test_another_source_gives_another_build_id(tmp_path: Path) -> None:
    one, two = make_program(tmp_path / "one"), make_program(tmp_path / "two", PROGRAM + "\n")
    assert _build_json(one) != _build_json(two)


def _build_json(pyz: Path) -> bytes:
    with zipfile.ZipFile(pyz) as archive:
        return archive.read("build.json")


def test_a_build_happens_only_when_a_source_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (*pyz_module.PACKAGES, "packaging"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setattr(pyz_module, "ROOT", tmp_path)
    monkeypatch.setattr(pyz_module, "PYZ", tmp_path / "dist" / "gpuq.pyz")

    def built() -> int:
        with toolchain.locked():
            return pyz_module.build(toolchain.PYTHON).stat().st_mtime_ns

    first = built()
    (tmp_path / "gpuq" / "__pycache__" / "left.pyc").parent.mkdir(exist_ok=True)
    (tmp_path / "gpuq" / "__pycache__" / "left.pyc").touch()
    assert built() == first
    (tmp_path / "gpuq" / "__init__.py").write_text("# changed\n")
    assert built() != first


@pytest.mark.parametrize("arguments", [["tset"], ["lint", "now"], ["build", "it"]])
def test_a_mistyped_command_gets_one_line(arguments: list[str]) -> None:
    done = build_py(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert arguments[-1] in done.stderr


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying: NewConnectionError: Failed to establish a new connection", "no network"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "differs from its hash"),
        ("error: cause: dns error", "name cannot be resolved"),
        ("ERROR: something new", "status 1"),
    ],
)
def test_a_failed_installation_says_why_in_one_line(tmp_path: Path, said: str, meant: str) -> None:
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\necho '{said}'\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(toolchain.BuildError, match=meant) as caught:
        toolchain.pip_install(pip, "anything", log=tmp_path / "pip.log")
    assert "\n" not in str(caught.value)


def test_a_target_whose_wheels_cannot_be_fetched_fails_the_build_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DEFAULT_INDEX": "http://127.0.0.1:9/simple", "HTTP_RETRIES": "0"}.items():
        monkeypatch.setenv(f"UV_{name}", value)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "KEPT", tmp_path / "parts")
    monkeypatch.setattr(wheels, "LOG", tmp_path / "fetch.log")
    with pytest.raises(toolchain.BuildError, match=r"for CPython 3\.10 on linux x86_64: no network: ") as caught:
        wheels.locked_parts(toolchain.PYTHON)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "parts").iterdir())


def test_what_is_fetched_comes_from_the_index_that_pip_is_configured_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert toolchain.index_environment(toolchain.PYTHON) == {"UV_DEFAULT_INDEX": "https://mirror.example/simple"}
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example/simple")
    assert toolchain.index_environment(toolchain.PYTHON) == {}


def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(toolchain.BuildError, match=r"apt install python3\.\d+-venv"):
        toolchain.ensure_environment()


@pytest.mark.parametrize("lock", [toolchain.RUNTIME_LOCK, toolchain.DEV_LOCK], ids=lambda path: path.name)
def test_locks_pin_and_hash_everything_and_name_no_index(lock: Path) -> None:
    text = lock.read_text().replace("\\\n", " ")
    assert "://" not in text
    for line in text.splitlines():
        assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:", line), line


def test_tests_run_with_the_versions_that_are_packed() -> None:
    pins = [
        set(re.findall(r"^[a-z0-9-]+==\S+", lock.read_text(), re.MULTILINE))
        for lock in (toolchain.RUNTIME_LOCK, toolchain.DEV_LOCK)
    ]
    assert pins[0] <= pins[1]
