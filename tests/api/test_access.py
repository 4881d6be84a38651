"""Who gets in: every route, every role, every broken token, and what each sees of another's jobs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gpuq.api.app import ROUTES, describe
from gpuq.api.auth import MAY
from gpuq.api.cluster import version
from gpuq.api.gate import Route
from gpuq.protocol import API_PREFIX
from tests.api.server import Running

OPEN = {"/version", "/ca", "/openapi.json", "/docs"}
DOCUMENTED = [
    (method.upper(), path.removeprefix(API_PREFIX))
    for path, methods in describe()["paths"].items()
    for method in methods
]


def filled(path: str) -> str:
    return re.sub(r"{\w+}", "1", path)


def test_the_document_names_every_route() -> None:
    assert sorted(DOCUMENTED) == sorted((route.method, route.path) for route in ROUTES)


@pytest.mark.parametrize(("method", "path"), DOCUMENTED)
def test_without_a_token_only_open_routes_answer(running: Running, method: str, path: str) -> None:
    answer = running.ask(method, filled(path), None, {})
    if path in OPEN:
        assert answer.status == 200
    else:
        assert "this needs a token" in answer.refused(401)
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_role_may_call_what_the_table_says_and_nothing_else(running: Running, route: Route) -> None:
    for user, role in (("eve", "viewer"), ("bob", "user"), ("root", "admin")):
        if route.path == "/events/stream" or (route.role == "admin" and role == "admin"):
            continue  # never ends; changes the cluster
        answer = running.ask(route.method, filled(route.path), user, {"ids": ["999999"]} if route.mutates else None)
        allowed = route.role == "open" or role in MAY[route.role]
        refused_by_role = answer.status == 403 and f"a token of role {role} may not do this" in answer.refused(403)
        assert refused_by_role == (not allowed)


def test_a_nodes_token_opens_nothing_but_the_agents_routes(running: Running) -> None:
    token = running.ask("POST", "/nodes", "root", {"name": "outsider"}).json["token"]
    for route in ROUTES:
        if route.role not in ("open", "node"):
            assert running.ask(route.method, filled(route.path), token, {}).status == 403


def test_a_route_without_a_role_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="has no role"):
        Route("GET", "/secret", "", version)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("", "this needs a token"),
        ("Basic dXNlcjpwYXNz", "holds no gpuq token"),
        ("Bearer", "holds no gpuq token"),
        ("Bearer " + "x" * 600, "holds no gpuq token"),
        ("Bearer gpuq_admin_" + "A" * 32 + "_" + "0" * 64, "not known here"),
        ("Bearer \xff\xfe", "not known here"),
    ],
)
def test_a_broken_token_is_refused_in_one_line_that_does_not_repeat_it(
    running: Running, header: str, line: str
) -> None:
    answer = running.ask("GET", "/whoami", None, headers={"authorization": header})
    said = answer.refused(401)
    assert line in said
    assert "AAAA" not in said


def test_whoami_says_whose_token_it_is(running: Running) -> None:
    assert running.get("/whoami", "ann") == {"user": "ann", "role": "user"}
    assert running.get("/whoami", "ann-views") == {"user": "ann", "role": "viewer"}


def test_another_protocol_is_told_so_and_none_is_fine(running: Running) -> None:
    said = running.ask("GET", "/whoami", headers={"gpuq-protocol": "99"}).refused(426)
    assert "protocol 1" in said
    assert "99" in said
    assert running.ask("GET", "/whoami", headers={"gpuq-protocol": "1"}).status == 200
    assert running.ask("GET", "/version", None, headers={"gpuq-protocol": "99"}).status == 200


SECRET = {"command": ["secret-program"], "cwd": "/secret/place", "environment": {"PASSWORD": "hunter2"}}


@pytest.fixture(scope="module")
def secret_job(running: Running) -> str:
    return running.submit("ann", **SECRET, name="open-name", comment="secret comment", script="#!/bin/sh\nsecret\n")


def everything_seen(running: Running, user: str, id: str) -> str:
    paths = (f"/jobs/{id}", "/jobs", f"/jobs?ids={id}", f"/jobs?ids={id}&fields=id,command,cwd", f"/jobs/{id}/why",
             f"/events?job={id}", f"/jobs/{id}/script", f"/jobs/{id}/environment", f"/jobs/{id}/log")  # fmt: skip
    return "".join(running.ask("GET", path, user).body.decode() for path in paths)


@pytest.mark.parametrize("user", ["bob", "eve"])
def test_others_see_a_job_but_nothing_of_what_it_runs(running: Running, secret_job: str, user: str) -> None:
    seen = everything_seen(running, user, secret_job)
    assert "secret" not in seen
    assert "hunter2" not in seen
    assert "open-name" in seen
    job = running.get(f"/jobs/{secret_job}", user)
    assert job["command"] is None
    assert job["cwd"] is None
    assert (job["user"], job["gpus"], job["state"]) == ("ann", 0, "QUEUED")
    for part in ("script", "log", "environment"):
        assert "owner ann" in running.ask("GET", f"/jobs/{secret_job}/{part}", "bob").refused(403)


@pytest.mark.parametrize("user", ["ann", "ann-views", "root"])
def test_owner_and_admin_see_command_and_script(running: Running, secret_job: str, user: str) -> None:
    job = running.get(f"/jobs/{secret_job}", user)
    assert (job["command"], job["cwd"], job["script"]) == (["secret-program"], "/secret/place", True)
    assert running.ask("GET", f"/jobs/{secret_job}/script", user).body == b"#!/bin/sh\nsecret\n"


def test_not_even_an_admin_reads_the_environment(running: Running, secret_job: str) -> None:
    running.ask("GET", f"/jobs/{secret_job}/environment", "root").refused(403)
    own: Any = running.get(f"/jobs/{secret_job}/environment", "ann")
    assert own == {"environment": {"PASSWORD": "hunter2"}, "changes": {}}


def test_a_user_cannot_cancel_anothers_job(running: Running) -> None:
    id = running.submit("ann")
    (item,) = running.ask("POST", "/jobs/cancel", "bob", {"ids": [id]}).json["items"]
    assert item["outcome"] == "not_allowed"
    assert running.get(f"/jobs/{id}")["state"] == "QUEUED"
