"""gpuq token, gpuq user and gpuq nodes remove: what they send, and what people and programs read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuq.cli.token import how_to_use
from tests.cli.conftest import Gpuq
from tests.cli.fake_api import FakeApi, error

MADE = {
    "id": "3f2a9c01d4e5",
    "role": "user",
    "user": "ann",
    "node": None,
    "expires_at": None,
    "token": "gpuq_user_secret_ca",
    "url": "https://head:7443",
}
LISTED = {**MADE, "state": "good", "created_at": "2026-11-21T05:53:12.042Z", "revoked_at": None}


def test_a_token_for_a_program_is_printed_alone(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/tokens", (201, MADE))
    done = gpuq("token", "create", "--user", "ann", "--role", "viewer", "--expires", "30d")
    assert (done.status, done.out, done.err) == (0, "gpuq_user_secret_ca\n", "")
    (call,) = api.sent("POST", "/tokens")
    assert call.body == {"user": "ann", "role": "viewer", "expires_seconds": 30 * 86_400}
    assert json.loads(gpuq("token", "create", "--json").out) == MADE
    assert api.sent("POST", "/tokens")[1].body == {}


def test_a_token_for_a_person_or_a_machine_comes_with_the_line_to_use_it_in() -> None:
    person = how_to_use(MADE)
    assert "For ann (role user, token 3f2a9c01d4e5):" in person
    assert "  gpuq login https://head:7443\n" in person
    assert "  gpuq_user_secret_ca\n" in person
    until: dict[str, Any] = {**MADE, "role": "join", "expires_at": "2026-11-21T05:53:12.042Z"}
    joining = how_to_use(until)
    assert "good until 2026-11-21" in joining
    assert "\n  echo gpuq_user_secret_ca | ./gpuq.pyz agent --controller https://head:7443 --token -\n" in joining
    again = how_to_use({**MADE, "role": "node", "node": "n3"})
    assert "On n3 " in again
    assert "--controller https://head:7443 --name n3 --token -" in again


def test_a_join_token_of_a_controller_nobody_else_reaches_is_said_to_be_that(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/tokens", (201, {**MADE, "role": "join", "url": "https://127.0.0.1:7443"}))
    done = gpuq("token", "create", "--role", "join")
    assert done.out == "gpuq_user_secret_ca\n"
    assert "answers on its own machine only; for others: gpuq up --listen" in done.err


def test_tokens_are_listed_without_their_text(api: FakeApi, gpuq: Gpuq) -> None:
    node = {**LISTED, "id": "0123456789ab", "role": "node", "node": "n3", "expires_at": "2026-11-21T05:53:12.042Z"}
    items = [{name: value for name, value in item.items() if name not in ("token", "url")} for item in (LISTED, node)]
    api.on("GET", "/tokens", {"items": items, "next": None})
    lines = gpuq("token", "list").out.splitlines()
    assert lines[0].split() == ["ID", "ROLE", "OF", "STATE", "CREATED", "EXPIRES"]
    assert lines[1].split()[:4] == ["3f2a9c01d4e5", "user", "ann", "good"]
    assert lines[1].endswith(" -")
    assert lines[2].split()[:5] == ["0123456789ab", "node", "node", "n3", "good"]
    assert json.loads(gpuq("token", "list", "--all", "--json").out)["items"] == items
    assert [call.params for call in api.sent("GET", "/tokens")] == [{"all": ["0"]}, {"all": ["1"]}]


def test_a_token_is_revoked_by_its_id(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/tokens/3f2a9c01d4e5/revoke", {"id": "3f2a9c01d4e5"})
    assert gpuq("token", "revoke", "3f2a9c01d4e5").out == "token 3f2a9c01d4e5 is revoked\n"
    assert gpuq("token", "revoke", "../users").status == 3


def test_users_are_added_listed_changed_and_disabled(api: FakeApi, gpuq: Gpuq) -> None:
    ann = {"name": "ann", "role": "user", "created_at": "2026-11-21T05:53:12.042Z", "disabled_at": None}
    api.on("POST", "/users", (201, ann))
    for verb in ("role", "disable", "enable"):
        api.on("POST", f"/users/ann/{verb}", ann)
    api.on("GET", "/users", {"items": [ann, {**ann, "name": "bob", "disabled_at": ann["created_at"]}], "next": None})
    added = gpuq("user", "add", "ann")
    assert added.out == "user ann has role user; to let them in: gpuq token create --user ann\n"
    assert [line.split()[:3] for line in gpuq("user", "list").out.splitlines()[1:]] == [
        ["ann", "user", "enabled"],
        ["bob", "user", "disabled"],
    ]
    assert gpuq("user", "role", "ann", "admin").out == "user ann has role admin\n"
    assert gpuq("user", "disable", "ann", "--give-jobs-to", "bob").status == 0
    assert json.loads(gpuq("user", "enable", "ann", "--json").out) == ann
    sent = {call.path: call.body for call in api.calls if call.method == "POST"}
    assert sent["/users"] == {"name": "ann", "role": "user"}
    assert sent["/users/ann/role"] == {"role": "admin"}
    assert sent["/users/ann/disable"] == {"cancel_jobs": False, "give_jobs_to": "bob"}


@pytest.mark.parametrize(
    "words",
    [
        ["user"],
        ["user", "add"],
        ["user", "add", "ann", "--role", "god"],
        ["user", "disable", "ann", "--cancel-jobs", "--give-jobs-to", "bob"],
        ["token", "create", "--expires", "soon"],
        ["token", "revoke"],
        ["nodes", "remove"],
        ["nodes", "delete", "n1"],
    ],
)
def test_wrong_usage_asks_nothing_of_the_controller(api: FakeApi, gpuq: Gpuq, words: list[str]) -> None:
    done = gpuq(*words)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert [call for call in api.calls if call.path != "/whoami"] == []


def test_a_node_is_removed_and_the_list_of_nodes_is_still_there(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/nodes/n1/remove", {"name": "n1"})
    api.on("GET", "/nodes", {"items": [], "next": None})
    assert gpuq("nodes", "remove", "n1", "--force").out == "node n1 is no longer part of the cluster\n"
    assert json.loads(gpuq("nodes", "remove", "n1", "--json").out) == {"name": "n1"}
    assert [call.body for call in api.sent("POST", "/nodes/n1/remove")] == [{"force": True}, {"force": False}]
    assert api.sent("GET", "/nodes") == []
    assert gpuq("nodes", "--json").out == '{"items": [], "next": null}\n'


def test_the_options_before_and_behind_remove_mean_the_same(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/nodes/n1/remove", {"name": "n1"})
    assert gpuq("nodes", "--controller", api.server.url, "remove", "n1").status == 0
    assert gpuq("nodes", "remove", "n1", "--controller", api.server.url).status == 0
    assert len(api.sent("POST", "/nodes/n1/remove")) == 2


def test_a_refusal_is_one_line_with_its_status(api: FakeApi, gpuq: Gpuq) -> None:
    said = "user ann has 1 job that has not ended"
    api.on("POST", "/users/ann/disable", (409, error("conflict", said, "say --cancel-jobs or --give-jobs-to USER")))
    done = gpuq("user", "disable", "ann")
    assert (done.status, done.err) == (1, f"gpuq: {said}: say --cancel-jobs or --give-jobs-to USER\n")


def test_too_many_failures_are_said_and_not_repeated(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/nodes", (429, error("too_many_failures", "too many tokens", "try again in 4 s")))
    done = gpuq("nodes")
    assert (done.status, done.err) == (4, "gpuq: too many tokens: try again in 4 s\n")
    assert len(api.sent("GET", "/nodes")) == 1
