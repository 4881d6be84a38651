"""gpuq login: a token asked for, tried, and kept where every later command finds it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gpuq import config
from tests.cli.conftest import Gpuq
from tests.cli.fake_api import FakeApi, Raw, error
from tests.cli.gpuq_process import environment, gpuq


@pytest.fixture
def fake(tmp_path: Path):
    api = a_cluster(tmp_path / "cluster")
    yield api
    api.server.close()


def a_cluster(home: Path) -> FakeApi:
    home.mkdir()
    api = FakeApi(home)
    api.on("GET", "/ca", Raw(api.server.ca_pem.encode(), {}))
    api.on("GET", "/nodes", {"items": [], "next": None})
    return api


@pytest.fixture
def person(tmp_path: Path) -> Path:
    (tmp_path / "person").mkdir()
    return tmp_path / "person"


def test_who_has_logged_in_needs_neither_address_nor_token_any_more(fake: FakeApi, person: Path) -> None:
    token = fake.server.token
    done = gpuq(person, "login", fake.server.url, stdin=f"{token}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"logged in to {fake.server.url} as ann (role user); context 127-0-0-1 is in use\n"
    assert (person / "127-0-0-1.token").read_text().strip() == token
    assert (person / "127-0-0-1.token").stat().st_mode & 0o777 == 0o600
    assert token not in (person / "config.toml").read_text()
    assert gpuq(person, "nodes").returncode == 0
    assert len(fake.sent("GET", "/nodes")) == 1


def test_a_token_that_does_not_work_is_not_kept(fake: FakeApi, person: Path) -> None:
    fake.on("GET", "/whoami", (401, error("not_authenticated", "the token has expired")))
    done = gpuq(person, "login", fake.server.url, stdin=fake.server.token)
    assert (done.returncode, done.stderr) == (4, "gpuq: the token has expired\n")
    assert not (person / "config.toml").exists()
    assert not list(person.glob("*.token"))


def test_a_token_of_another_cluster_is_not_sent(fake: FakeApi, person: Path) -> None:
    foreign = f"gpuq_user_{'x' * 32}_{'0' * 64}"
    done = gpuq(person, "login", fake.server.url, stdin=foreign)
    assert done.returncode == 5
    assert "is not the controller this token is for" in done.stderr
    assert fake.sent("GET", "/whoami") == []
    assert not (person / "config.toml").exists()


@pytest.mark.parametrize("kept", ["another's", "damaged"])
def test_a_token_goes_to_no_other_ca_whatever_is_kept_here(
    fake: FakeApi, person: Path, tmp_path: Path, kept: str
) -> None:
    other = a_cluster(tmp_path / "other")
    try:
        assert gpuq(person, "login", fake.server.url, stdin=fake.server.token).returncode == 0
        (file,) = (person / "ca").iterdir()
        file.write_text(other.server.ca_pem if kept == "another's" else "-----BEGIN")
        asked = gpuq(person, "nodes", "--controller", other.server.url, "--token", fake.server.token)
        assert (asked.returncode, "is not the controller this token is for" in asked.stderr) == (5, True)
        assert other.sent("GET", "/nodes") == []
        assert gpuq(person, "nodes").returncode == 0  # what is kept is mended
        assert file.read_text() == fake.server.ca_pem
    finally:
        other.server.close()


@pytest.mark.parametrize("role", ["join", "node"])
def test_a_machines_token_is_no_persons(fake: FakeApi, person: Path, role: str) -> None:
    done = gpuq(person, "login", fake.server.url, stdin=fake.server.token.replace("admin", role))
    assert done.returncode == 4
    assert "gpuq agent" in done.stderr
    assert fake.sent("GET", "/whoami") == []


def test_a_token_typed_at_a_terminal_is_not_shown(fake: FakeApi, person: Path) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "gpuq", "login", fake.server.url]
    with subprocess.Popen(
        command, env=environment(person), stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as login:
        os.close(its)
        shown = b""
        while b"token: " not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, f"{fake.server.token}\n".encode())
        while True:
            try:
                piece = os.read(ours, 1000)
            except OSError:
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    assert login.returncode == 0
    assert b"logged in to" in shown
    assert fake.server.token.encode() not in shown


def test_several_clusters_are_contexts_to_choose_from(fake: FakeApi, person: Path, tmp_path: Path) -> None:
    second = a_cluster(tmp_path / "second")
    try:
        assert gpuq(person, "login", fake.server.url, "--context", "lab", stdin=fake.server.token).returncode == 0
        clash = gpuq(person, "login", second.server.url, "--context", "-x", stdin=second.server.token)
        assert (clash.returncode, "cannot name a context" in clash.stderr) == (2, True)
        assert gpuq(person, "login", second.server.url, "--context", "two", stdin=second.server.token).returncode == 0
        listed = gpuq(person, "login").stdout.splitlines()
        assert [line.split()[:2] for line in listed] == [
            ["CONTEXT", "CONTROLLER"],
            ["lab", fake.server.url],
            ["*", "two"],
        ]
        gpuq(person, "nodes")
        gpuq(person, "nodes", "--context", "lab")
        gpuq(person, "nodes", GPUQ_CONTEXT="lab")
        assert (len(second.sent("GET", "/nodes")), len(fake.sent("GET", "/nodes"))) == (1, 2)
        assert gpuq(person, "login", "--use", "lab").stdout == "context lab is in use\n"
        gpuq(person, "nodes")
        assert len(fake.sent("GET", "/nodes")) == 3
        for words in (["login", "--use", "three"], ["nodes", "--context", "three"]):
            missing = gpuq(person, *words)
            assert (missing.returncode, "known: lab, two" in missing.stderr) == (2, True)
    finally:
        second.server.close()


def test_a_context_is_not_silently_taken_over_by_another_cluster(fake: FakeApi, person: Path) -> None:
    (person / "config.toml").write_text('# mine\n[contexts.127-0-0-1]\nurl = "https://127.0.0.1:1"\ntoken_file = "t"\n')
    before = (person / "config.toml").read_text()
    done = gpuq(person, "login", fake.server.url, stdin=fake.server.token)
    assert done.returncode == 1
    assert "there is a context 127-0-0-1 already, for https://127.0.0.1:1: give --context NAME" in done.stderr
    assert (person / "config.toml").read_text() == before
    moved = gpuq(person, "login", fake.server.url, "--context", "127-0-0-1", stdin=fake.server.token)
    assert moved.returncode == 0
    assert "# mine\n" in (person / "config.toml").read_text()


def test_a_config_that_is_a_link_stays_one(fake: FakeApi, person: Path) -> None:
    (person / "dotfiles").mkdir()
    (person / "dotfiles" / "gpuq.toml").write_text("# kept in git\n")
    (person / "config.toml").symlink_to("dotfiles/gpuq.toml")
    assert gpuq(person, "login", fake.server.url, stdin=fake.server.token).returncode == 0
    assert (person / "config.toml").is_symlink()
    assert "# kept in git" in (person / "dotfiles" / "gpuq.toml").read_text()


def test_a_config_that_cannot_be_read_is_not_written_anew(fake: FakeApi, person: Path) -> None:
    theirs = b'# Gru\xdf in Latin-1\n[paths]\n"/data" = "/mnt/data"\n'
    (person / "config.toml").write_bytes(theirs)
    done = gpuq(person, "login", fake.server.url, stdin=fake.server.token)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gpuq: {person / 'config.toml'} cannot be read: is it yours, and text in UTF-8?\n"
    assert (person / "config.toml").read_bytes() == theirs


def test_logged_in_nowhere_is_said(home: Path, gpuq: Gpuq) -> None:
    assert gpuq("login").err == "gpuq: logged in nowhere; gpuq login URL does that\n"
    assert gpuq("login", "--json").out == '{"items": [], "next": null}\n'
    assert gpuq("login", "--use", "x").status == 2
    assert gpuq("login", "--context", "x").status == 2
    assert not Path(config.config_home(), "config.toml").exists()
