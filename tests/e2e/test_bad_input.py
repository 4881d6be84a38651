"""Bad input costs whoever sent it one clear line, and nobody else anything: a job runs through all of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster

UNKNOWN = "987654"
MEBIBYTE = 1 << 20
_MAKE_JOBS = (
    "test_variables_that_are_not_utf8_are_left_out_with_a_word",
    "test_names_that_steer_terminals_are_shown_harmlessly",
)


@pytest.fixture(scope="module", autouse=True)
def sentinel(cluster: Cluster) -> Iterator[str]:
    """A job that runs while everything here goes wrong, on a controller and an agent that stay the same."""
    over = cluster.folder / "over"
    pids = cluster.pid("controller"), cluster.pid("agent")
    line = f"i=0; until [ -e {over} ]; do echo line $i; i=$((i+1)); sleep 0.05; done; echo end; exit 3"
    id = cluster.sh(line, "-G", "1", "-J", "sentinel")
    cluster.says(id, b"line 2\n")
    yield id
    over.touch()
    job = cluster.ended(id)
    assert (job["exit_code"], job["attempt"]) == (3, 1)
    *lines, end = cluster.log(id).decode().splitlines()
    assert (lines, end) == ([f"line {i}" for i in range(len(lines))], "end")
    assert (cluster.pid("controller"), cluster.pid("agent")) == pids


@pytest.fixture(autouse=True)
def _nothing_else_is_made(cluster: Cluster, sentinel: str, request: pytest.FixtureRequest) -> Iterator[None]:
    before = cluster.call("GET", "/cluster").json()["jobs"]
    yield
    if request.function.__name__ not in _MAKE_JOBS:
        assert cluster.call("GET", "/cluster").json()["jobs"] == before
    assert cluster.job(sentinel)["state"] == "RUNNING"


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["submit", "--no-such", "true"], 2, "--no-such"),
        (["submit", "--gpu", "1", "true"], 2, "--gpu"),
        (["submit"], 2, "command"),
        (["submit", "-G", "-1", "true"], 2, "-1"),
        (["submit", "-G", "many", "true"], 2, "many"),
        (["submit", "-G", "99999999999999999999", "true"], 2, "9999"),
        (["submit", "-G", "3", "--gpus-per-node", "2", "true"], 2, "3"),
        (["submit", "-a", "0-9999999999", "true"], 2, ""),
        (["submit", "-a", "9-0", "true"], 2, "9-0"),
        (["submit", "-a", "0-9%0", "true"], 2, "%0"),
        (["submit", "-t", "soon", "true"], 2, "soon"),
        (["submit", "-t", "-5", "true"], 2, "-5"),
        (["submit", "-c", "-1", "true"], 2, "-1"),
        (["submit", "--mem", "lots", "true"], 2, "lots"),
        (["submit", "-d", "afterok:x", "true"], 2, "x"),
        (["submit", "-d", f"afterok:{UNKNOWN}", "true"], 3, UNKNOWN),
        (["submit", "-b", "never", "true"], 2, "never"),
        (["submit", "-p", "nowhere", "true"], 2, "nowhere"),
        (["submit", "--env", "=x", "true"], 2, "--env"),
        (["submit", "--priority", "x", "true"], 2, "x"),
        (["submit", "-J", "n" * 100_000, "true"], 2, "name"),
        (["submit", "--comment", "c" * 120_000, "true"], 2, "comment"),
        (["submit", "--max-retries", str(10**30), "true"], 2, ""),
        (["run", "-a", "0-3", "true"], 2, "array"),
        (["frobnicate"], 2, "frobnicate"),
        (["sumbit", "true"], 2, "submit"),
        (["queue", "-t", "ASLEEP"], 2, "ASLEEP"),
        (["show", "not-an-id"], 2, "not-an-id"),
        (["show", "1_99999999999"], 2, "1_99999999999"),
        (["cancel"], 2, ""),
        (["logs", "1", "--rank", "x"], 2, "x"),
        (["nodes", "--no-such"], 2, "--no-such"),
        (["cordon", "no-such-node"], 3, "no-such-node"),
        (["up", "--simulate-gpus", "banana"], 2, "banana"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_one_clear_line(cluster: Cluster, arguments: list[str], status: int, word: str) -> None:
    done = cluster.gpuq(*arguments)
    assert (done.status, done.out) == (status, b""), done
    assert word in done.line
    assert len(done.line) < 500


@pytest.mark.parametrize("verb", ["show", "logs", "wait", "why", "cancel", "hold", "release", "requeue", "update"])
def test_every_verb_says_that_a_job_is_unknown(cluster: Cluster, verb: str) -> None:
    done = cluster.gpuq(verb, UNKNOWN, *(["--comment", "x"] if verb == "update" else []))
    assert done.status == 3, done
    assert UNKNOWN in done.line
    if verb == "logs":
        assert cluster.gpuq("logs", "-f", UNKNOWN).status == 3


def test_logs_that_do_not_exist(cluster: Cluster, sentinel: str) -> None:
    for options in (["--rank", "7"], ["--attempt", "9"]):
        done = cluster.gpuq("logs", sentinel, *options)
        assert (done.status, options[1] in done.line) == (3, True)
        assert cluster.gpuq("logs", "-f", sentinel, *options).status == 3


def test_a_script_or_command_that_no_kernel_would_take_is_refused(cluster: Cluster) -> None:
    script = cluster.folder / "huge.sh"
    script.write_text("#!/bin/sh\n: " + "x" * (2 * MEBIBYTE) + "\n")
    words = ["submit", "true", *["y" * 100_000] * 12]
    for arguments in (["submit", str(script)], words):
        done = cluster.gpuq(*arguments)
        assert (done.status, done.out) == (2, b""), done
        assert len(done.line) < 500


def test_an_environment_too_large_is_refused(cluster: Cluster) -> None:
    done = cluster.gpuq("submit", "true", variables={f"BIG{i}": "z" * 100_000 for i in range(15)})
    assert (done.status, done.out) == (2, b""), done
    assert "environment" in done.line


def test_words_that_are_not_utf8(cluster: Cluster) -> None:
    for arguments in (
        [b"submit", b"a\xff"],
        [b"submit", b"-J", b"\xff", b"true"],
        [b"submit", b"-D", b"/\xff", b"true"],
    ):
        done = cluster.gpuq(*arguments)
        assert (done.status, done.out) == (2, b"")
        assert "UTF-8" in done.line


def test_a_folder_that_is_not_utf8(cluster: Cluster) -> None:
    folder = cluster.folder / "caf\udce9"
    folder.mkdir(exist_ok=True)
    done = cluster.gpuq("submit", "true", cwd=folder)
    assert (done.status, done.out) == (2, b"")
    assert done.line


def test_a_folder_that_was_removed(cluster: Cluster) -> None:
    command = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh", *cluster.command("submit", "true")]
    done = subprocess.run(command, env=cluster.environment(), cwd=cluster.folder, capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done


def test_variables_that_are_not_utf8_are_left_out_with_a_word(cluster: Cluster) -> None:
    done = cluster.gpuq("submit", "--parsable", "env", ODD_ONE="caf\udce9", EVEN_ONE="2")
    assert done.status == 0
    assert "ODD_ONE" in done.line
    id = done.text.strip()
    cluster.ended(id)
    log = cluster.log(id)
    assert b"EVEN_ONE=2\n" in log
    assert b"ODD_ONE" not in log


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "command"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"changes":' * 50_000, ""),
        (b'{"command":["true"],"gpus":' + b"9" * 5000 + b"}", "JSON"),
        (b'{"command":["true"],"gpus":NaN}', ""),
        (b'{"command":["true"],"gpus":1.5}', "gpus"),
        (b'{"command":["true"],"gpus":true}', "gpus"),
        (b'{"command":["true"],"gpus":-1}', "gpus"),
        (b'{"command":["true"],"begin_at":1e400}', "begin_at"),
        (b'{"command":["true"],"nope":1}', "nope"),
        (b'{"command":"true"}', "command"),
        (b'{"command":[]}', "command"),
        (b'{"command":["a\\u0000b"]}', "command"),
        (b'{"command":["true"],"cwd":"/a\\u0000b"}', "cwd"),
        (b'{"command":["true"],"name":"a\\u0000b"}', "name"),
        (b'{"command":["true"],"name":"a\\nb"}', "name"),
        (b'{"command":["true"],"name":"\\ud800"}', ""),
        (b'{"command":["true"],"environment":{"A\\u0000":"b"}}', "environment"),
        (b'{"command":["true"],"environment":{"A":"b\\u0000"}}', "environment"),
        (b'{"command":["true"],"environment":{"A=B":"c"}}', "environment"),
        (b'{"command":["true"],"changes":{"":"c"}}', "changes"),
        (b'{"command":["true"],"cwd":"relative"}', "cwd"),
        (b'{"command":["true"],"array":"0-9999999999"}', ""),
        (b'{"command":["true"],"time_limit_seconds":0}', "time_limit_seconds"),
        (b'{"command":["true"],"setup":["a\\u0000"]}', "setup"),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_bodies_are_refused_in_one_shape(cluster: Cluster, body: bytes, word: str) -> None:
    answer = cluster.call("POST", "/jobs", body, content_type="application/json")
    assert answer.status == 400, answer
    assert word in answer.error
    assert len(answer.body) < 1000
    assert "\n" not in answer.error


def test_requests_that_are_no_requests(cluster: Cluster) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("PUT", "/jobs", 405),
        ("GET", "/jobs/%00", 404),
        ("GET", "/jobs/..%2f..%2fetc", 404),
        ("GET", f"/jobs/{'9' * 5000}", 404),
        ("GET", "/jobs?limit=-1", 400),
        ("GET", "/jobs?limit=999999999999999999999", 400),
        ("GET", "/jobs?nope=1", 400),
        ("GET", "/jobs?after=zzz", 400),
        ("GET", "/jobs?fields=id,secret", 400),
        ("GET", "/events?after=x", 400),
        ("GET", "/events?after=99999999999999999999999", 400),
        ("GET", "/history?since=banana", 400),
        ("GET", f"/jobs/{UNKNOWN}/log?offset=-1", 400),
        ("DELETE", "/jobs/1", 405),
    ):
        answer = cluster.call(method, path)
        assert answer.status in (status, 404 if status == 400 and "log" in path else status), (path, answer)
        assert answer.error
    assert cluster.call("GET", "/jobs", authorization="Bearer nonsense").status == 401
    assert cluster.call("GET", "/jobs", authorization="").status == 401
    assert cluster.call("GET", "/jobs", gpuq_protocol="99").status == 426
    assert cluster.call("POST", "/jobs", {"command": ["true"]}, gpuq_request_id="no spaces allowed").status == 400
    assert cluster.call("POST", "/agent/sync", {}).status == 403
    assert cluster.call("GET", "/version", authorization="").status == 200


def test_a_body_without_end_is_cut_off(cluster: Cluster) -> None:
    answer = cluster.call("POST", "/jobs", b" " * (5 * MEBIBYTE))
    assert (answer.status, "larger" in answer.error) == (400, True)


def test_an_unknown_verb_suggests_the_near_one(cluster: Cluster) -> None:
    assert "Did you mean submit?" in cluster.gpuq("submti").line
    assert "Did you mean queue?" in cluster.gpuq("qeue").line


def test_no_controller_is_status_5_and_one_line(cluster: Cluster) -> None:
    nothing = str(cluster.root / "nothing")
    for arguments in (
        ["queue"],
        ["submit", "true"],
        ["show", "1"],
        ["nodes"],
        ["cancel", "1"],
        ["events"],
        ["history"],
    ):
        done = cluster.gpuq(*arguments, GPUQ_HOME=nothing)
        assert (done.status, done.out) == (5, b"")
        assert "gpuq up" in done.line
        elsewhere = cluster.gpuq(*arguments, GPUQ_URL="https://127.0.0.1:1", GPUQ_TOKEN=cluster.wire.token)
        assert (elsewhere.status, "127.0.0.1:1" in elsewhere.line) == (5, True)


def test_a_wrong_token_is_status_4_and_is_not_shown(cluster: Cluster) -> None:
    authority = cluster.wire.token.rpartition("_")[2]
    forged = "gpuq_admin_" + "x" * 32 + "_" + authority
    for given in ({"GPUQ_TOKEN": forged},):
        done = cluster.gpuq("queue", variables=given)
        assert (done.status, forged in done.line) == (4, False)
    done = cluster.gpuq("queue", "--token", forged)
    assert (done.status, forged in done.line) == (4, False)
    done = cluster.gpuq("queue", "--token", "-", stdin=forged.encode())
    assert (done.status, forged in done.line) == (4, False)
    assert cluster.gpuq("queue", GPUQ_TOKEN="nonsense").status in (2, 4)
    assert cluster.gpuq("queue", "--token", cluster.wire.token).status == 0


def test_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    events = cluster.call("GET", "/events?limit=1").json()["next"]
    said = cluster.ok("submit", "--dry-run", "-G", "2", "true")
    assert "would start now" in said
    document = json.loads(cluster.ok("submit", "--dry-run", "--json", "-G", "80", "true"))
    assert document["starts_now"] is False
    assert document["reason"]["code"] == "too_large"
    assert cluster.call("GET", "/events?limit=1").json()["next"] == events


def test_names_that_steer_terminals_are_shown_harmlessly(cluster: Cluster) -> None:
    id = cluster.submit("-H", "-J", "a ü", "--comment", "x\u202ey", "printf", "\u202e", "\x1b[31m", "\n", "\x7f")
    for verb in (["queue"], ["show", id], ["events"], ["why", id]):
        text = cluster.ok(*verb)
        assert not set(text) & {"\x1b", "\x7f", "\u202e", "\x07"}, verb
        assert json.loads(cluster.gpuq(*verb, "--json").out.splitlines()[0])
    cluster.ok("cancel", id)


@pytest.mark.parametrize(
    "arguments",
    [["queue"], ["queue", "--all"], ["history"], ["nodes"], ["gpus"], ["status"], ["events"], ["version"]],
    ids=" ".join,
)
def test_json_is_one_document(cluster: Cluster, arguments: list[str]) -> None:
    done = cluster.gpuq(*arguments, "--json")
    assert (done.status, done.err) == (0, "")
    assert done.text.endswith("\n")
    lines = done.text.splitlines()
    assert len(lines) == 1
    json.loads(lines[0])
