from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from gpuq import config
from gpuq.errors import Conflict, InvalidRequest, NotAuthenticated, Unreachable

TOKEN = "gpuq_user_" + "s" * 32 + "_" + "a" * 64
OTHER = "gpuq_user_" + "t" * 32 + "_" + "b" * 64


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"GPUQ_HOME": str(tmp_path)}


def write_local(environ: dict[str, str], url: str = "https://127.0.0.1:1") -> None:
    controller = Path(config.host_home(environ=environ), "controller")
    controller.mkdir(parents=True, exist_ok=True)
    (controller / "controller.json").write_text(json.dumps({"url": url, "pid": 1, "version": "0"}))
    (controller / "admin.token").write_text("gpuq_admin_local\n")
    (controller / "ca.pem").write_text("the local CA")


def write_config(environ: dict[str, str], text: str) -> None:
    Path(environ["GPUQ_HOME"], "config.toml").write_text(text)


def write_lab(environ: dict[str, str]) -> None:
    Path(environ["GPUQ_HOME"], "lab.token").write_text(f"{TOKEN}\n")
    write_config(environ, '[contexts.lab]\nurl = "https://lab:7443"\ntoken_file = "lab.token"\n')


def test_nothing_known_says_how_to_begin(environ: dict[str, str]) -> None:
    with pytest.raises(Unreachable, match="no controller known") as caught:
        config.resolve(environ=environ)
    assert caught.value.one_line() == "no controller known: start one with `gpuq up`, or log in to one: gpuq login URL"


def test_each_source_goes_before_the_next(environ: dict[str, str]) -> None:
    write_local(environ)
    assert config.resolve(environ=environ)[:3] == ("https://127.0.0.1:1", "gpuq_admin_local", "the local CA")
    write_lab(environ)
    assert config.resolve(environ=environ)[:3] == ("https://lab:7443", TOKEN, None)
    environ |= {"GPUQ_URL": "https://env:7443", "GPUQ_TOKEN": OTHER}
    assert config.resolve(environ=environ)[:3] == ("https://env:7443", OTHER, None)
    assert config.resolve("https://arg:7443", TOKEN, environ)[:3] == ("https://arg:7443", TOKEN, None)


def test_a_token_alone_goes_with_the_next_address(environ: dict[str, str]) -> None:
    write_local(environ)
    assert config.resolve(token=OTHER, environ=environ)[:2] == ("https://127.0.0.1:1", OTHER)
    environ["GPUQ_TOKEN"] = TOKEN
    assert config.resolve("https://arg:1", environ=environ)[:2] == ("https://arg:1", TOKEN)


def test_an_address_alone_takes_a_token_only_from_who_names_it(environ: dict[str, str]) -> None:
    write_local(environ)
    write_lab(environ)
    assert config.resolve("https://127.0.0.1:1/", environ=environ).token == "gpuq_admin_local"
    with pytest.raises(NotAuthenticated, match="no token for https://elsewhere"):
        config.resolve("https://elsewhere", environ=environ)


def test_a_fetched_ca_is_found_again_by_the_token(environ: dict[str, str]) -> None:
    config.keep_ca("PEM", "a" * 64, environ)
    assert config.resolve("https://arg", TOKEN, environ).ca_pem == "PEM"
    assert config.resolve("https://arg", OTHER, environ).ca_pem is None


def test_a_named_context_is_used_with_its_ca(environ: dict[str, str]) -> None:
    write_lab(environ)
    Path(environ["GPUQ_HOME"], "ca.pem").write_text("lab CA")
    lines = ['context = "two"', '[contexts.one]\nurl = "u1"\ntoken_file = "lab.token"']
    lines += ['[contexts.two]\nurl = "u2"\ntoken_file = "lab.token"\nca_file = "ca.pem"']
    write_config(environ, "\n".join(lines))
    assert config.resolve(environ=environ)[:3] == ("u2", TOKEN, "lab CA")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("[contexts", InvalidRequest, "not valid TOML"),
        ('context = "c"\n[contexts.a]\nurl = "u"', InvalidRequest, "does not say which context"),
        ('[contexts.a]\nurl = "u"\n[contexts.b]\nurl = "u"', InvalidRequest, "does not say which context"),
        ('[contexts.a]\nurl = "u"', NotAuthenticated, "has no token_file"),
        ('[contexts.a]\nurl = "u"\ntoken_file = "gone"', NotAuthenticated, "cannot be read from"),
    ],
)
def test_a_config_that_cannot_be_used_says_why(
    environ: dict[str, str], text: str, error: type[Exception], says: str
) -> None:
    write_config(environ, text)
    with pytest.raises(error, match=says):
        config.resolve(environ=environ)


def test_homes_follow_xdg_unless_gpuq_home_is_set(tmp_path: Path) -> None:
    assert config.state_home({"GPUQ_HOME": "/g", "XDG_STATE_HOME": "/s"}) == "/g"
    assert config.state_home({"XDG_STATE_HOME": "/s"}) == "/s/gpuq"
    assert config.config_home({"XDG_CONFIG_HOME": "/c"}) == "/c/gpuq"
    assert config.state_home({"XDG_STATE_HOME": "relative"}).endswith("/.local/state/gpuq")


def test_the_home_of_the_last_up_is_remembered_until_the_usual_one_is_used_again(
    environ: dict[str, str], tmp_path: Path
) -> None:
    own = config.host_home(environ=environ)
    assert Path(own).parent == tmp_path / "hosts"
    config.remember_home("/local/gpuq", environ)
    assert config.host_home(environ=environ) == "/local/gpuq"
    assert config.host_home("/given", environ) == "/given"
    config.remember_home(own, environ)
    assert config.host_home(environ=environ) == own


def test_private_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    config.write_private(str(path), "one")
    config.write_private(str(path), "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def write_two(environ: dict[str, str]) -> None:
    write_lab(environ)
    lines = ['context = "lab"', "[contexts.lab]", 'url = "u1"', 'token_file = "lab.token"']
    write_config(environ, "\n".join([*lines, "[contexts.home]", 'url = "u2"', 'token_file = "lab.token"']))


def test_a_context_is_chosen_by_name_before_all_but_an_address(environ: dict[str, str]) -> None:
    write_two(environ)
    assert config.resolve(environ=environ).url == "u1"
    assert config.resolve(environ=environ | {"GPUQ_CONTEXT": "home"}).url == "u2"
    environ |= {"GPUQ_CONTEXT": "lab", "GPUQ_URL": "https://env:1", "GPUQ_TOKEN": OTHER}
    assert config.resolve(environ=environ).url == "https://env:1"
    assert config.resolve(environ=environ, context="home")[:2] == ("u2", TOKEN)
    assert config.resolve(token=OTHER, environ=environ, context="home")[:2] == ("u2", OTHER)


def test_a_context_that_is_not_there_is_named_with_those_that_are(environ: dict[str, str]) -> None:
    write_two(environ)
    for attempt in (
        lambda: config.resolve(environ=environ, context="x"),
        lambda: config.resolve(environ=environ | {"GPUQ_CONTEXT": "x"}),
    ):
        with pytest.raises(InvalidRequest, match="there is no context x") as caught:
            attempt()
        assert "known: home, lab" in caught.value.hint


def test_no_folder_that_is_made_on_the_way_is_open_to_others_whatever_the_umask(tmp_path: Path) -> None:
    """Who may write in one could put a controller's home of theirs in the place of ours."""
    before = os.umask(0)
    try:
        config.write_private(str(tmp_path / "state" / "hosts" / "m1" / "home"), "text")
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3


def test_root_is_root_whoever_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "zoe")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.running_as() == pwd.getpwuid(0).pw_name


def test_a_uid_that_is_no_accounts_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(Conflict, match=f"uid {os.geteuid()} is no account's on this machine"):
        config.running_as()
