"""Submissions: what is taken, what is refused in one line that names the field, and what a repeat gets."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq import protocol
from gpuq.api import schemas
from gpuq.api.failures import refusal
from gpuq.codec import decode
from gpuq.errors import InvalidRequest
from gpuq.protocol import MAX_ARGUMENT_BYTES, MAX_BODY_BYTES
from tests.api.server import Running


def test_the_checked_fields_are_those_of_the_protocol_with_the_same_defaults() -> None:
    wire = {field.name: field for field in dataclasses.fields(protocol.Submission)}
    assert list(schemas.Submission.model_fields) == list(wire)
    checked = schemas.submission(b'{"command": ["true"]}')
    assert checked == protocol.Submission(command=("true",))


def test_a_whole_submission_arrives_as_it_was_sent() -> None:
    sent: dict[str, Any] = {
        "command": ["python", "a b", "ü", ""],
        "script": "#!/bin/sh\necho\n",
        "cwd": "/home/ann",
        "environment": {"PATH": "/bin", "BASH_FUNC_f%%": "() {\n}"},
        "changes": {"K": "v=w"},
        "setup": ["module load cuda"],
        "venv": "env",
        "conda_env": "torch",
        "name": "träin 1",
        "queue": "main",
        "priority": -5,
        "nodes": 1,
        "gpus": 4,
        "gpus_per_node": 4,
        "gpu_type": "h100",
        "gpu_memory_bytes": 1 << 34,
        "shared": True,
        "constraint": "nvlink&!rack=7",
        "exclusive": True,
        "cpus": 8,
        "memory_bytes": 1 << 35,
        "only_nodes": ["a1"],
        "not_nodes": ["b.2"],
        "time_limit_seconds": 60,
        "scheduling_timeout_seconds": 60,
        "grace_seconds": 0,
        "output": "o-%j.txt",
        "error": "/tmp/e",
        "append": True,
        "warning": {"number": 10, "seconds": 120, "main_only": True},
        "dependencies": [{"kind": "afterok", "job": "12_3"}],
        "singleton": True,
        "array": "0-9%2",
        "begin_at": 1.5e9,
        "hold": True,
        "max_retries": 3,
        "requeue": False,
        "on_lost": "fence",
        "comment": "two\nlines",
        "pty": "24x80",
    }
    assert set(sent) == {field.name for field in dataclasses.fields(protocol.Submission)}
    got = schemas.submission(json.dumps(sent).encode())
    assert got == decode(protocol.Submission, sent)


def body(**fields: Any) -> bytes:
    return json.dumps({"command": ["true"], **fields}).encode()


REFUSED: list[tuple[bytes, str]] = [
    (b"", "command: there is nothing to run"),
    (b"{}", "command: there is nothing to run"),
    (b"[]", "the body must be a JSON object"),
    (b"null", "the body must be a JSON object"),
    (b'{"command": ["true"]', "the body is not JSON: EOF while parsing an object"),
    (b"command=true", "the body is not JSON: "),
    (b'{"command": ["\xff\xfe"]}', "the body is not JSON: "),
    (b'{"command": ["\\ud800"]}', "the body is not JSON: "),
    (b"[" * 1_000_000, "the body is not JSON: recursion limit"),
    (b'{"command":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "the body is not JSON: recursion limit"),
    (b'{"command": ["a\\u0000b"]}', "command: holds a NUL character"),
    (body(environment={"A": "x\0"}), "environment: holds a NUL character"),
    (body(environment={"A\0B": "x"}), "environment: holds a NUL character"),
    (body(script="#!/bin/sh\0"), "script: holds a NUL character"),
    (body(cwd="/a\0"), "cwd: holds a NUL character"),
    (body(command="true"), "command: must be a valid array"),
    (body(command=[1]), "command[0]: must be a valid string, not 1"),
    (body(gpus=-1), "gpus: must be at least 0, not -1"),
    (body(gpus=10**30), "gpus: must be at most 1000000"),
    (body(gpus="4"), "gpus: must be a valid integer, not '4'"),
    (body(gpus=True), "gpus: must be a valid integer, not true"),
    (body(gpus=1.5), "gpus: must be a valid integer"),
    (body(nodes=0), "nodes: must be at least 1, not 0"),
    (body(cpus=-1), "cpus: must be at least 0, not -1"),
    (body(memory_bytes=-1), "memory_bytes: must be at least 0, not -1"),
    (body(gpu_memory_bytes=0), "gpu_memory_bytes: must be at least 1, not 0"),
    (body(time_limit_seconds=0), "time_limit_seconds: must be at least 1, not 0"),
    (body(grace_seconds=-1), "grace_seconds: must be at least 0"),
    (body(max_retries=-1), "max_retries: must be at least 0"),
    (body(priority=10**12), "priority: must be at most 1000000"),
    (b'{"command":["a"],"begin_at":NaN}', "begin_at: "),
    (b'{"command":["a"],"begin_at":1e400}', "begin_at: "),
    (body(begin_at=-1), "begin_at: must be at least 0"),
    (body(name=""), "name: "),
    (body(name="a\nb"), "name: 'a b' must be printable text"),
    (body(name="\x1b[31mred"), "must be printable text"),
    (body(name=" "), "must be printable text"),
    (body(name="\u202eevil"), "must be printable text"),
    (body(name="n" * 129), "name: must have at most 128 characters"),
    (body(queue="../x"), "queue: '../x' may hold letters, digits"),
    (body(only_nodes=["a b"]), "only_nodes[0]: 'a b' may hold letters, digits"),
    (body(cwd="relative"), "cwd: 'relative' must be an absolute path"),
    (body(environment={"": "x"}), "environment: '' is not a variable's name"),
    (body(changes={"A=B": "x"}), "changes: 'A=B' is not a variable's name"),
    (body(environment=["A=B"]), "environment: "),
    (body(dependencies=[{"kind": "after", "job": "1"}]), "dependencies[0].kind: "),
    (body(dependencies=[{"kind": "afterok", "job": "x"}]), "dependencies[0].job: 'x' is not a job id"),
    (body(dependencies=[{"kind": "afterok"}]), "dependencies[0].job: is missing"),
    (body(on_lost="burn"), "on_lost: must be 'keep' or 'fence', not 'burn'"),
    (body(hold="yes"), "hold: must be a valid boolean, not 'yes'"),
    (body(gpuz=1), "there is no field 'gpuz'"),
    (body(array="x" * 20_000), "array: must have at most 10000 characters"),
    (body(comment="c" * 1001), "comment: must have at most 1000 characters"),
    (body(command=["x" * (MAX_ARGUMENT_BYTES + 1)]), "command: its longest argument has 131,073 bytes"),
    (body(command=["x" * 100_000] * 11), "command: it has 1,100,000 bytes"),
    (body(script="x" * 1_100_000), "script: it has 1,100,000 bytes"),
    (body(environment={"A": "x" * 140_000}), "environment: its longest variable has 140,003 bytes"),
    (body(environment={f"A{i:02}": "é" * 50_000 for i in range(12)}), "environment: it has 1,200,060 bytes"),
]


@pytest.mark.parametrize(("sent", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_a_submission_that_cannot_be_is_refused_in_one_line_that_names_the_field(
    running: Running, sent: bytes, line: str
) -> None:
    said = running.ask("POST", "/jobs", "ann", raw=sent).refused(400)
    assert line in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"array": "0-9999999999"}, "'0-9999999999'"),
        ({"array": "0-2000000"}, "at most 1,000,000"),
        ({"array": "9-1"}, "not a range"),
        ({"nodes": 2, "gpus": 3}, "does not divide"),
        ({"shared": True, "gpus": 1}, "how much of its memory"),
        ({"constraint": "a&"}, "not a constraint"),
        ({"gpus": 3, "gpus_per_node": 2}, "disagree"),
        ({"queue": "nowhere"}, "there is no queue"),
    ],
)
def test_what_contradicts_itself_is_refused_by_the_service_in_the_same_shape(
    running: Running, asked: dict[str, Any], line: str
) -> None:
    assert line in running.ask("POST", "/jobs", "ann", {"command": ["true"], **asked}).refused(400)


def test_a_dependency_on_nothing_is_not_found(running: Running) -> None:
    asked = {"command": ["true"], "dependencies": [{"kind": "afterok", "job": "987654"}]}
    assert "987654" in running.ask("POST", "/jobs", "ann", asked).refused(404)


def test_priority_above_zero_takes_an_admin(running: Running) -> None:
    running.ask("POST", "/jobs", "ann", {"command": ["true"], "priority": 1}).refused(403)
    assert running.ask("POST", "/jobs", "root", {"command": ["true"], "priority": 1}).status == 201


def test_a_body_that_is_too_large_is_refused_and_the_next_request_works(running: Running) -> None:
    connection = running.connect()
    send = {"authorization": f"Bearer {running.tokens['ann']}", "gpuq-request-id": "too-large-1"}
    for length in (MAX_BODY_BYTES + 1, 20 << 20):
        connection.request("POST", "/api/v1/jobs", b"x" * length, send)
        answer = connection.getresponse()
        assert answer.status == 400
        assert "larger than 4,194,304 bytes" in json.loads(answer.read())["error"]["message"]
    connection.request("GET", "/api/v1/whoami", headers=send)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_body_of_two_megabytes_within_the_limits_is_taken(running: Running) -> None:
    environment = {f"VARIABLE_{i}": "v" * 100_000 for i in range(10)}
    asked = {"command": ["x" * 100_000] * 10, "environment": environment}
    id = running.submit("ann", **asked)
    assert running.get(f"/jobs/{id}/environment", "ann")["environment"] == environment


def test_a_submit_without_a_request_id_is_refused(running: Running) -> None:
    for request_id in (None, "short", "x" * 65, "with space"):
        said = running.ask("POST", "/jobs", "ann", {"command": ["true"]}, request_id=request_id).refused(400)
        assert "gpuq-request-id" in said


def test_a_repeated_request_id_gets_the_same_answer_and_makes_one_job(running: Running) -> None:
    asked = {"command": ["true"], "name": "only-once"}
    first = running.ask("POST", "/jobs", "ann", asked, request_id="repeated-1")
    again = running.ask("POST", "/jobs", "ann", asked, request_id="repeated-1")
    for path, other in (("/jobs", {**asked, "name": "another"}), ("/jobs/cancel", {"ids": ["1"]})):
        refused = running.ask("POST", path, "ann", other, request_id="repeated-1").refused(409)
        assert "repeated-1 was used for another request" in refused
    assert (first.status, first.body) == (again.status, again.body) == (201, first.body)
    assert len(running.get("/jobs?name=only-once")["items"]) == 1


def test_the_same_request_id_of_another_user_is_another_request(running: Running) -> None:
    ids = {
        running.ask("POST", "/jobs", u, {"command": ["true"]}, request_id="shared-id").json["id"]
        for u in ("ann", "bob")
    }
    assert len(ids) == 2


def test_many_submits_at_once_get_an_id_each(running: Running) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: running.submit("bob", name="many"), range(80)))
    assert len(set(ids)) == 80
    shown = running.get("/jobs?name=many&fields=id")
    assert {row[0] for row in shown["rows"]} == set(ids)


def test_a_dry_run_says_why_it_would_wait_and_submits_nothing(running: Running) -> None:
    answer = running.ask("POST", "/jobs?dry_run=1", "ann", {"command": ["true"], "name": "dry", "gpus": 1})
    assert answer.status == 200
    assert answer.json["starts_now"] is False
    assert answer.json["nodes"] == []
    assert answer.json["reason"]["code"] == "no_nodes"
    assert running.get("/jobs?name=dry")["items"] == []
    running.ask("POST", "/jobs?dry_run=1", "ann", {"command": []}).refused(400)


def test_an_array_is_one_item_with_counts(running: Running) -> None:
    answer = running.ask("POST", "/jobs", "ann", {"command": ["true"], "array": "0-99999%8", "name": "wide"})
    assert answer.json["elements"] == 100_000
    (item,) = running.get("/jobs?name=wide")["items"]
    assert item["elements"] == {"size": 100_000, "counts": {"QUEUED": 100_000}}
    detail = running.get(f"/jobs/{answer.json['id']}")
    assert detail["array"] == {"text": "0-99999", "size": 100_000, "max_running": 8, "counts": {"QUEUED": 100_000}}


def test_refusals_of_the_models_never_show_more_than_a_little_of_a_value() -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.submission(json.dumps({"command": ["a"], "queue": "!" * 100_000}).encode())
    assert len(caught.value.one_line()) < 300


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from(sorted(schemas.Submission.model_fields)) | st.text(max_size=8)


@given(st.dictionaries(_fields, _values, max_size=4), st.booleans())
def test_whatever_comes_is_a_submission_or_one_line(sent: dict[str, Any], with_command: bool) -> None:
    if with_command:
        sent["command"] = ["true"]
    assert _taken_or_one_line(json.dumps(sent).encode())


def _taken_or_one_line(sent: bytes) -> bool:
    try:
        taken = schemas.submission(sent)
    except InvalidRequest as error:
        said = json.loads(bytes(refusal(error).body))["error"]["message"]
        return said.isprintable() and 0 < len(said) < 300
    return bool(taken.command) or taken.script is not None
