from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq.cli.agent import agent
from gpuq.cli.controller import controller
from gpuq.cli.service import given_options
from gpuq.cli.systemd import Systemd, unit_text
from gpuq.config import read_text
from gpuq.errors import Conflict
from tests.cli.gpuq_process import gpuq

without_systemd = pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine")
COMMAND = [sys.executable, "-I", "-S", "/usr/local/lib/gpuq/gpuq.pyz", "agent", "--home", "/var/lib/gpuq"]


MACHINE = (read_text("/etc/machine-id") or "").strip()


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def read_back(line: str) -> list[str]:
    """ExecStart as systemd.syntax(7) and systemd.service(5) say it is read; here every word is in double quotes."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    unescaped = [re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), word) for word in words]
    unescaped = [word.replace("%%", "%") for word in unescaped]
    return [unescaped[0], *(word.replace("$$", "$") for word in unescaped[1:])]


def test_jobs_outlive_the_service_of_the_agent() -> None:
    found = settings(unit_text("agent", COMMAND, None))
    wanted = {
        "KillMode": "process",
        "Delegate": "yes",
        "OOMPolicy": "continue",
        "LimitMEMLOCK": "infinity",
        "Restart": "always",
    }
    assert wanted.items() <= found.items()


def test_services_of_the_system_start_at_boot_when_the_network_is_there() -> None:
    found = settings(unit_text("controller", COMMAND, None))
    assert (found["After"], found["WantedBy"]) == ("network-online.target", "multi-user.target")


def test_services_of_an_account_wait_for_no_target_that_its_systemd_has_not() -> None:
    found = settings(unit_text("agent", COMMAND, MACHINE))
    assert "After" not in found
    assert found["WantedBy"] == "default.target"


@given(st.lists(st.text(st.characters(min_codepoint=10, max_codepoint=0x2FF, exclude_characters="\r")), min_size=1))
def test_every_word_of_the_command_is_read_back_as_it_was(words: list[str]) -> None:
    command = ["/usr/bin/python3", *words]
    assert read_back(settings_line(unit_text("agent", command, None))) == command


def settings_line(text: str) -> str:
    return next(line for line in text.split("\n") if line.startswith("ExecStart="))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("kind", ["controller", "agent"])
def test_systemd_finds_nothing_to_complain_about(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"gpuq-{kind}.service"
    path.write_text(unit_text(kind, [*COMMAND, "50% of $HOME, \"quoted\" \\ 'so'"], None))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_unit_is_for_one_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    systemd = Systemd(user=True)
    assert not systemd.installed("agent", "/var/lib/gpuq")
    systemd.unit_path("agent").parent.mkdir(parents=True)
    systemd.unit_path("agent").write_text(unit_text("agent", COMMAND, MACHINE))
    assert systemd.installed("agent", "/var/lib/gpuq")
    assert not systemd.installed("agent", "/var/lib")
    assert not systemd.installed("controller", "/var/lib/gpuq")


def test_a_unit_in_a_shared_home_is_another_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    systemd = Systemd(user=True)
    path = systemd.unit_path("agent")
    path.parent.mkdir(parents=True)
    path.write_text(theirs := unit_text("agent", COMMAND, "0123456789abcdef0123456789abcdef"))
    assert settings(theirs)["ConditionHost"] == "0123456789abcdef0123456789abcdef"
    assert not systemd.has("agent")
    assert not systemd.installed("agent", "/var/lib/gpuq")
    with pytest.raises(Conflict, match="another machine with this home"):
        systemd.write("agent", COMMAND)
    assert path.read_text() == theirs


def test_the_copy_that_services_run_is_in_no_folder_that_gets_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert Systemd(user=False).program == Path("/usr/local/lib/gpuq/gpuq.pyz")
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    assert Systemd(user=True).program == home / ".local/share/gpuq/gpuq.pyz"


def test_a_service_is_given_the_options_of_its_verb_and_no_token() -> None:
    words = ["--controller", "https://head:7443", "--gpus", "1-3", "--shared-account", "--name", "n1", "--service"]
    with agent.make_context("gpuq agent", words):
        assert given_options("name", "home") == ["--gpus", "1-3", "--shared-account"]
    with controller.make_context("gpuq controller", ["--listen", "127.0.0.1:7000", "--service"]):
        assert given_options("home", "ready_fd") == ["--listen", "127.0.0.1:7000"]
    with controller.make_context("gpuq controller", ["--home", "/srv/gpuq", "--service"]):
        assert given_options("home", "ready_fd") == []


@without_systemd
@pytest.mark.parametrize("words", [("install",), ("install", "agent", "--token", "-"), ("uninstall",), ("status",)])
def test_without_systemd_one_line_says_what_to_do_instead(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = gpuq(tmp_path, "service", *words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "systemd does not run this machine" in done.stderr
    assert "gpuq up --detach" in done.stderr


@without_systemd
def test_up_with_service_goes_on_as_plain_processes_where_there_is_no_systemd(tmp_path: Path) -> None:
    try:
        done = gpuq(tmp_path, "up", "--service", "--detach", "--simulate-gpus", "1xH100-80GB")
        assert done.returncode == 0, done.stderr
        assert "--service: systemd does not run this machine" in done.stdout
        assert "node " in done.stdout
    finally:
        assert gpuq(tmp_path, "down", "--stop-jobs").returncode == 0
