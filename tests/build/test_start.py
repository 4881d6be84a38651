"""How the one file starts: on which Pythons, out of which cache, and deaf to whose modules."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import pyz as pyz_module

from tests.build.conftest import PROGRAM, Program, make_program

ROOT = Path(__file__).resolve().parent.parent.parent
ISOLATED = [sys.executable, "-I", "-S"]
PLAIN = [sys.executable]


def python(version: str) -> str:
    """A Python of that version on this machine; skips the test where there is none."""
    for found in [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]:
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(found)
    pytest.skip(f"no Python {version} on this machine")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8", "3.9"])
def test_a_python_too_old_gets_one_line(program: Program, version: str) -> None:
    old = python(version)
    started = program.start("submit", by=[old])
    assert started.status == 2
    assert started.errors.startswith(f"gpuq: needs Python 3.10 or newer; this is {version}.")
    assert started.errors.count("\n") == 1

    build = subprocess.run([old, ROOT / "build.py"], capture_output=True, text=True, check=False)
    assert build.returncode == 2
    assert build.stderr.startswith(f"build.py: needs Python 3.10 or newer; this is {version}.")
    assert build.stderr.count("\n") == 1


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_a_python_the_file_has_no_modules_for_gets_one_line(program: Program, version: str) -> None:
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("the Python this file is built for")
    started = program.start(by=[python(version)])
    assert started.status == 2
    assert started.errors.startswith(f"gpuq: cannot run on CPython {version} on Linux ")
    assert started.errors.count("\n") == 1


# How a Python or machine looks that this one is not, and what of it the line is to name.
STRANGERS = {
    "pypy": ("sys.implementation.name, sys.implementation.cache_tag = 'pypy', 'pypy311'", "PyPy 3."),
    "free-threaded": ("sys.abiflags = 't'", "a free-threaded CPython 3."),
    "newer": ("sys.version_info, sys.implementation.cache_tag = (3, 99), 'cpython-399'", "CPython 3.99 on Linux"),
    "32-bit": ("sys.maxsize = 2**31 - 1", "32-bit CPython 3."),
    "armv7l": ("os.uname = lambda: types.SimpleNamespace(machine='armv7l')", "on Linux armv7l"),
    "macos": ("sys.platform = 'darwin'", "on macOS "),
    "windows": ("del os.uname; del sys.abiflags; sys.platform = 'win32'", "Windows"),
    "musl": ("os.confstr = lambda name: None", "a Linux without glibc"),
    "glibc": ("os.confstr = lambda name: 'glibc 2.17'", "glibc 2.17"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_the_file_does_not_run_on_gets_one_line_that_says_what_it_runs_on(program: Program, stranger: str) -> None:
    disguise, named = STRANGERS[stranger]
    code = f"import os, runpy, sys, types; sys.argv.pop(0); {disguise}; runpy.run_path(sys.argv[0], None, '__main__')"
    started = program.start(by=[*ISOLATED, "-c", code])
    assert started.status == 2
    assert started.errors.startswith("gpuq: cannot run on ")
    assert named in started.errors.partition(";")[0]
    here = f"CPython 3.{sys.version_info.minor} to 3.{sys.version_info.minor} on Linux"
    assert f"; it runs on {here} " in started.errors
    assert started.errors.count("\n") == 1
    assert not program.cache.exists()


def test_no_python_in_path_gets_one_line(program: Program, tmp_path: Path) -> None:
    started = program.start(PATH=str(tmp_path))
    assert started.status == 2
    assert started.errors == "gpuq: needs Python 3.10 or newer; there is no python3 in PATH\n"


@pytest.mark.parametrize("by", [None, PLAIN, [sys.executable, "-I"], ISOLATED], ids=["itself", "python", "-I", "-I -S"])
def test_arguments_and_exit_status_pass_unchanged(program: Program, by: list[str] | None) -> None:
    arguments = ["run", "--", "", "a b", "$HOME", "-x", "*"]
    assert program.start(*arguments, by=by)["argv"] == arguments
    assert program.start(by=by, EXIT="7").status == 7


def plant(folder: Path) -> Path:
    """Modules with names that gpuq imports, of a stranger."""
    folder.mkdir(parents=True)
    for name in ("json.py", "click.py", "zipfile.py", "sitecustomize.py", "usercustomize.py"):
        (folder / name).touch()
    (folder / "gpuq").mkdir()
    (folder / "gpuq" / "__init__.py").touch()
    (folder / "evil.pth").write_text("import sitecustomize\n")
    return folder


@pytest.mark.parametrize("by", [None, PLAIN], ids=["itself", "python"])
def test_no_module_comes_from_outside(program: Program, tmp_path: Path, by: list[str] | None) -> None:
    foreign = plant(tmp_path / "foreign")
    user_site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    plant(program.home / ".local" / user_site)
    plant(tmp_path / "base" / user_site)
    variables = {
        "PYTHONPATH": f"{foreign}:",
        "PYTHONUSERBASE": str(tmp_path / "base"),
        "PYTHONSTARTUP": str(foreign / "json.py"),
        "PYTHONSAFEPATH": "",
        "CONDA_PREFIX": str(tmp_path / "base"),
        "VIRTUAL_ENV": str(tmp_path / "base"),
    }
    for _ in ("first start", "from the cache"):
        started = program.start(by=by, cwd=foreign, **variables)
        assert started["json"] == str(Path(os.__file__).with_name("json") / "__init__.py")
        assert started["click"] == f"{started['site']}/click/__init__.py"
        assert started["customised"] == []
        assert not [entry for entry in started["path"] if str(tmp_path) in entry and entry != started["site"]]  # type: ignore[attr-defined]
        # Jobs are given the environment as the user has it.
        assert variables.items() <= started["environment"].items()  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", [None, PLAIN], ids=["itself", "python"])
@pytest.mark.parametrize("variables", [{}, {"LANG": "C"}, {"LC_CTYPE": "C.UTF-8"}], ids=str)
def test_the_environment_stays_the_users(program: Program, by: list[str] | None, variables: dict[str, str]) -> None:
    given = {"PATH": program.environment({})["PATH"], "HOME": str(program.home), "PWD": str(program.home), **variables}
    process = subprocess.run(
        [*(by or []), program.file], cwd=program.home, env=given, capture_output=True, text=True, check=True
    )
    seen = json.loads(process.stdout)["environment"]
    # /bin/sh, which the file's first lines are for, may leave marks of its own.
    assert {name: seen[name] for name in seen if name not in ("_", "SHLVL", "OLDPWD")} == given


def test_pythonhome_of_another_python_does_not_matter(program: Program, tmp_path: Path) -> None:
    assert program.start("x", PYTHONHOME=str(tmp_path))["argv"] == ["x"]


def test_it_can_start_itself_again(program: Program) -> None:
    command = program.start()["command"]
    assert isinstance(command, list)
    assert subprocess.run(command, env={"HOME": str(program.home)}, capture_output=True, check=False).returncode == 0


def test_it_knows_where_it_is_under_a_relative_name(program: Program) -> None:
    process = program.launch([*ISOLATED, program.file.name], cwd=program.file.parent)
    assert f'"pyz": "{program.file}"' in process.communicate()[0]


def test_the_cache_is_private_and_used_again(program: Program) -> None:
    program.start()
    made = program.site.stat()
    program.start()
    assert program.site.stat().st_ino == made.st_ino
    assert made.st_mode & 0o777 == 0o700
    assert program.cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg"),
        ({"GPUQ_CACHE": "{}/mine", "XDG_CACHE_HOME": "{}/xdg"}, "mine"),
        ({"XDG_CACHE_HOME": "not/absolute"}, ".cache"),
    ],
)
def test_the_cache_is_where_the_variables_say(program: Program, variables: dict[str, str], place: str) -> None:
    program.variables = {name: value.format(program.home) for name, value in variables.items()}
    started = program.start()
    assert str(started["site"]).startswith(f"{program.home / place}/gpuq/")


def test_an_emptied_cache_is_filled_again(program: Program) -> None:
    program.start()
    shutil.rmtree(program.cache)
    assert program.start("x")["argv"] == ["x"]


@pytest.mark.parametrize("lost", ["click", "click/__init__.py", "gpuq/cli/main.py", ".complete"])
def test_a_cache_with_a_part_missing_is_made_anew(program: Program, lost: str) -> None:
    program.start()
    gone = program.site / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    started = program.start("x")
    assert started["argv"] == ["x"]
    assert started.errors == ""
    assert gone.exists()


def test_files_that_a_power_cut_left_empty_are_found_within_a_day(program: Program) -> None:
    program.start()
    (program.site / "click" / "__init__.py").write_text("x" * 9)
    yesterday = time.time() - 90_000
    os.utime(program.site / ".complete", (yesterday, yesterday))
    program.start()
    assert (program.site / "click" / "__init__.py").read_text() == ""


def test_a_cache_that_others_could_write_to_is_not_trusted(program: Program) -> None:
    program.start()
    before = program.site.stat().st_ino
    program.site.chmod(0o770)
    assert program.start("x")["argv"] == ["x"]
    assert program.site.stat().st_ino != before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's cache")
def test_a_cache_of_another_user_is_not_used(program: Program) -> None:
    program.cache.mkdir(parents=True)
    os.chown(program.cache, 12345, 12345)
    started = program.start("x")
    assert started["argv"] == ["x"]
    assert "belongs to user 12345" in started.errors
    assert list(program.cache.iterdir()) == []


@pytest.mark.parametrize("cache", ["/proc/nowhere", "a file"])
def test_a_cache_that_cannot_be_written_costs_one_line_once(program: Program, tmp_path: Path, cache: str) -> None:
    (tmp_path / "a file").touch()
    started = program.start("x", cwd=tmp_path, GPUQ_CACHE=cache)
    assert started["argv"] == ["x"]
    assert started.errors.startswith("gpuq: cannot use the cache ")
    assert started.errors.count("\n") == 1
    instead = program.temporary / f"gpuq-{os.geteuid()}"
    assert instead.stat().st_mode & 0o777 == 0o700
    assert Path(str(started["site"])).parent == instead
    again = program.start("x", cwd=tmp_path, GPUQ_CACHE=cache)
    assert (again["site"], again.errors) == (started["site"], "")


MOUNTS = {"full": "size=4k", "read-only": "ro", "noexec": "noexec"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("kind", MOUNTS)
def test_a_home_that_is_of_no_use_is_passed_over(program: Program, kind: str) -> None:
    (program.home / ".cache").mkdir()
    mount = f'mount -t tmpfs -o {MOUNTS[kind]} gpuq-test {program.home}/.cache && exec {" ".join(ISOLATED)} "$@"'
    inside = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    started = program.start("x", by=inside)
    assert started["argv"] == ["x"]
    assert started.errors.startswith(f"gpuq: cannot use the cache {program.cache}: ")
    assert started.errors.count("\n") == 1
    again = program.start("x", by=inside)
    assert (again["site"], again.errors) == (started["site"], "")
    assert Path(str(again["site"])).parent.parent == program.temporary


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_where_everything_is_noexec_the_cache_is_used_all_the_same(program: Program) -> None:
    (program.home / ".cache").mkdir()
    mount = "mount -t tmpfs -o noexec gpuq-test {}"
    mounts = " && ".join(mount.format(path) for path in (program.home / ".cache", program.temporary))
    started = program.start(by=["unshare", "--mount", "sh", "-c", f"{mounts} && exec {' '.join(ISOLATED)} $1", "sh"])
    assert str(started["site"]).startswith(f"{program.cache}/")


def test_a_temporary_place_that_others_can_write_to_is_not_used(program: Program) -> None:
    planted = program.temporary / f"gpuq-{os.geteuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    started = program.start("x", GPUQ_CACHE="/proc/nowhere")
    assert started["argv"] == ["x"]
    assert started.errors.endswith("unpacking to a temporary directory (set GPUQ_CACHE)\n")
    assert list(program.temporary.rglob("*")) == [planted]


def test_a_start_that_hangs_while_it_unpacks_holds_up_no_other_for_ever(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = Path(shutil.copytree(pyz_module.BOOTSTRAP, tmp_path / "bootstrap")) / "gpuq_install.py"
    source = impatient.read_text()
    assert "PATIENCE_SECONDS = 20.0" in source
    impatient.write_text(source.replace("PATIENCE_SECONDS = 20.0", "PATIENCE_SECONDS = 0.1"))
    monkeypatch.setattr(pyz_module, "BOOTSTRAP", impatient.parent)
    program.file = make_program(tmp_path / "impatient")
    program.cache.mkdir(parents=True, mode=0o700)
    with (program.cache / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert program.start("x")["argv"] == ["x"]


def test_a_damaged_file_gets_one_line_and_fills_no_cache(program: Program, tmp_path: Path) -> None:
    with zipfile.ZipFile(program.file) as archive:
        payload = archive.read("common.zip")
    program.file = Path(shutil.copy(program.file, tmp_path))
    whole = program.file.read_bytes()
    program.file.write_bytes(whole.replace(payload, payload[:-9] + bytes(9)))
    started = program.start()
    assert started.status == 2
    assert "is damaged" in started.errors
    assert started.errors.count("\n") == 1
    assert not program.cache.exists()


def test_first_starts_at_the_same_moment_all_succeed(program: Program) -> None:
    processes = [program.launch([*ISOLATED, program.file]) for _ in range(6)]
    assert [process.communicate()[1] for process in processes] == [""] * 6
    assert [process.returncode for process in processes] == [0] * 6
    assert program.site.is_dir()
    assert not list(program.cache.glob(".new-*"))


def test_starts_that_find_the_same_broken_cache_all_succeed(program: Program) -> None:
    program.start()
    (program.site / "gpuq" / "cli" / "main.py").unlink()
    processes = [program.launch([*ISOLATED, program.file]) for _ in range(6)]
    assert [process.communicate()[1] for process in processes] == [""] * 6
    assert not list(program.cache.glob(".old-*"))


def test_what_a_killed_first_start_left_is_swept(program: Program) -> None:
    left = program.cache / ".new-abandoned"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    program.start()
    assert not left.exists()


def test_versions_that_nobody_started_for_months_are_swept(program: Program) -> None:
    for name, days in (("old", 61), ("recent", 59)):
        (program.cache / name).mkdir(parents=True, mode=0o700)
        (program.cache / name / ".complete").touch()
        os.utime(program.cache / name / ".complete", (time.time() - days * 86400,) * 2)
    program.cache.chmod(0o700)
    program.start()
    assert not (program.cache / "old").exists()
    assert (program.cache / "recent").exists()


def test_two_versions_are_unpacked_side_by_side(program: Program, tmp_path: Path) -> None:
    other = make_program(tmp_path / "other", PROGRAM + "\n")
    sites = []
    for file in (program.file, other, program.file, other):
        program.file = file
        sites.append(program.start()["site"])
    assert sites[:2] == sites[2:]
    assert sites[0] != sites[1]


def test_what_was_unpacked_starts_by_itself(program: Program, tmp_path: Path) -> None:
    """So do daemons, from copies of it."""
    program.start()
    program.file = Path(shutil.copytree(program.site, tmp_path / "copy"))
    shutil.rmtree(program.cache)
    started = program.start("x", by=ISOLATED)
    assert started["argv"] == ["x"]
    assert started["site"] == started["pyz"] == str(program.file)
    assert started["click"] == f"{program.file}/click/__init__.py"
    assert started["json"] == str(Path(os.__file__).with_name("json") / "__init__.py")
    assert started["command"] == [*ISOLATED, str(program.file)]
    assert not program.cache.exists()


def test_the_outer_archive_stays_small_enough_to_start_fast(program: Program) -> None:
    with zipfile.ZipFile(program.file) as archive:
        assert len(archive.namelist()) <= 5
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
