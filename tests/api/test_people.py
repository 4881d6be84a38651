"""Tokens, users and joining over the wire, as clients meet them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpuq.units import parse_duration
from tests.api.server import Agent, Running, start, until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A controller of its own: here users come and go."""
    controller = start(tmp_path_factory.mktemp("home") / "controller")
    yield controller
    assert controller.stop() == 0


def token(running: Running, by: str = "root", **asked: Any) -> dict[str, Any]:
    answer = running.ask("POST", "/tokens", by, asked)
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json
    return made


def user(running: Running, name: str, role: str = "user") -> str:
    """A new user's token."""
    assert running.ask("POST", "/users", "root", {"name": name, "role": role}).status == 201
    return str(token(running, user=name)["token"])


def test_a_token_is_made_for_a_user_with_the_users_own_role(running: Running) -> None:
    carol = user(running, "carol")
    assert running.get("/whoami", carol) == {"user": "carol", "role": "user"}
    viewer = token(running, user="carol", role="viewer")
    assert running.get("/whoami", viewer["token"]) == {"user": "carol", "role": "viewer"}
    assert (viewer["role"], viewer["expires_at"], viewer["url"]) == ("viewer", None, running.url)


def test_a_token_asked_for_twice_under_one_request_id_is_one_token(running: Running) -> None:
    asked = {"role": "viewer", "expires_seconds": 3600}
    first, second = (running.ask("POST", "/tokens", "root", asked, request_id="twice-the-same") for _ in range(2))
    assert first.json == second.json
    assert [t["id"] for t in running.get("/tokens")["items"]].count(first.json["id"]) == 1


def test_an_expired_token_is_no_token_any_more_and_listed_only_on_request(running: Running) -> None:
    made = token(running, expires_seconds=1)
    until(lambda: running.ask("GET", "/whoami", made["token"]).status == 401)
    assert "expired" in running.ask("GET", "/whoami", made["token"]).refused(401)
    assert made["id"] not in {t["id"] for t in running.get("/tokens")["items"]}
    states = {t["id"]: t["state"] for t in running.get("/tokens?all=true")["items"]}
    assert states[made["id"]] == "expired"


def test_a_revoked_token_opens_nothing_from_that_answer_on(running: Running) -> None:
    made = token(running)
    assert running.ask("POST", f"/tokens/{made['id']}/revoke", "root", {}).json == {"id": made["id"]}
    assert "revoked" in running.ask("GET", "/whoami", made["token"]).refused(401)
    assert "no token" in running.ask("POST", f"/tokens/{made['id']}/revoke", "root", {}).refused(404)


def test_people_see_and_revoke_their_own_tokens_only(running: Running) -> None:
    dave, other = user(running, "dave"), token(running, user="ann")
    mine = running.get("/tokens", dave)["items"]
    assert [t["user"] for t in mine] == ["dave"]
    running.ask("POST", f"/tokens/{other['id']}/revoke", dave, {}).refused(404)
    assert running.ask("POST", f"/tokens/{mine[0]['id']}/revoke", dave, {}).status == 200
    running.ask("GET", "/whoami", dave).refused(401)


def test_no_list_holds_what_a_token_proves_itself_by(running: Running) -> None:
    made = token(running)
    secret = made["token"].split("_", 2)[2].rpartition("_")[0]
    for path in ("/tokens?all=true", "/users", "/events", "/nodes"):
        assert secret not in running.ask("GET", path).body.decode()


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"role": "node"}, 400, "node: is for tokens of role node"),
        ({"role": "user", "node": "n1"}, 400, "node: is for tokens of role node"),
        ({"role": "node", "node": "n1", "expires_seconds": 60}, 400, "does not expire"),
        ({"role": "node", "node": "nowhere"}, 404, "no node nowhere"),
        ({"role": "join", "user": "ann"}, 400, "belongs to nobody"),
        ({"role": "join", "expires_seconds": parse_duration("1d")}, 400, "one hour at most"),
        ({"role": "admin", "user": "bob"}, 409, "would exceed"),
        ({"user": "nobody"}, 404, "no user nobody: gpuq user add nobody"),
        ({"role": "god"}, 400, "role: must be"),
        ({"expires_seconds": 0}, 400, "expires_seconds: must be at least 1"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused_in_one_line(
    running: Running, asked: dict[str, Any], status: int, said: str
) -> None:
    assert said in running.ask("POST", "/tokens", "root", asked).refused(status)


def test_a_lower_role_holds_at_once_for_tokens_there_are(running: Running) -> None:
    frank = user(running, "frank")
    assert running.ask("POST", "/jobs", frank, {"command": ["true"], "hold": True}).status == 201
    running.ask("POST", "/users/frank/role", "root", {"role": "viewer"})
    assert "role viewer may not" in running.ask("POST", "/jobs", frank, {"command": ["true"]}).refused(403)
    assert running.get("/whoami", frank) == {"user": "frank", "role": "viewer"}


def test_who_is_disabled_is_out_and_their_history_stays(running: Running) -> None:
    grace = user(running, "grace")
    job = running.ask("POST", "/jobs", grace, {"command": ["true"], "hold": True}).json["id"]
    said = running.ask("POST", "/users/grace/disable", "root", {}).refused(409)
    assert "grace has 1 job that has not ended: say --cancel-jobs or --give-jobs-to" in said
    answer = running.ask("POST", "/users/grace/disable", "root", {"give_jobs_to": "ann"})
    assert answer.json["disabled_at"] is not None
    running.ask("GET", "/whoami", grace).refused(401)
    assert running.get(f"/jobs/{job}")["user"] == "ann"
    assert running.get(f"/jobs?user=ann&ids={job}")["items"][0]["id"] == job
    (item,) = running.ask("POST", "/jobs/cancel", "ann", {"ids": [job]}).json["items"]
    assert item["outcome"] == "done"
    assert [e["text"] for e in running.get("/events?kind=user.disabled")["items"]] == ["grace, jobs given to ann"]
    assert running.ask("POST", "/users/grace/enable", "root", {}).json["disabled_at"] is None


def test_who_is_disabled_while_submitting_leaves_no_job_behind(running: Running) -> None:
    hasty = user(running, "hasty")
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(running.ask, "POST", "/jobs", hasty, {"command": ["true"], "hold": True}) for _ in range(24)
        ]
        assert running.ask("POST", "/users/hasty/disable", "root", {"cancel_jobs": True}).status == 200
        statuses = [one.result().status for one in asked]
    assert set(statuses) <= {201, 401}
    states = [job["state"] for job in running.get("/jobs?user=hasty&all=true")["items"]]
    assert states == ["CANCELED"] * statuses.count(201)


def test_users_given_jobs_and_roles_are_the_same_after_a_restart(tmp_path: Path) -> None:
    before = start(tmp_path / "controller")
    job = before.submit("bob", hold=True)
    gone = user(before, "henry", "admin")
    before.ask("POST", "/users/bob/disable", "root", {"give_jobs_to": "ann"})
    before.ask("POST", "/users/henry/role", "root", {"role": "viewer"})
    users, tokens = before.get("/users"), before.get("/tokens?all=true")
    before.stop()
    after = start(tmp_path / "controller", before.tokens)
    assert (after.get("/users"), after.get("/tokens?all=true")) == (users, tokens)
    assert after.get(f"/jobs/{job}")["user"] == "ann"
    assert after.get("/whoami", gone)["role"] == "viewer"
    after.ask("GET", "/whoami", "bob").refused(401)
    after.stop()


# ---------------------------------------------------------------- nodes


def test_a_join_token_makes_nodes_until_it_expires_and_nothing_else(running: Running) -> None:
    join = token(running, role="join")
    assert 3590 < _seconds_until(join["expires_at"]) <= 3600
    for name in ("j1", "j2"):
        answer = running.ask("POST", "/join", join["token"], {"name": name})
        assert answer.status == 201, answer.body
        assert answer.json["token"].startswith("gpuq_node_")
        running.ask("POST", "/agent/sync", join["token"], {}).refused(403)
    for method, path in (("GET", "/nodes"), ("POST", "/jobs"), ("POST", "/nodes"), ("GET", "/whoami")):
        assert "a token of role join may not do this" in running.ask(method, path, join["token"], {}).refused(403)


def _seconds_until(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp() - time.time()


def test_a_join_that_was_interrupted_gets_the_same_node_under_another_join_token_too(running: Running) -> None:
    first, second = token(running, role="join")["token"], token(running, role="join")["token"]
    given = [
        running.ask("POST", "/join", by, {"name": "cut-off"}, request_id="kept-on-disk").json["token"]
        for by in (first, first, second)
    ]
    assert len(set(given)) == 1
    said = running.ask("POST", "/join", first, {"name": "cut-off"}, request_id="someone-else").refused(409)
    assert "a node named cut-off exists already: give the agent another --name" in said


def test_of_many_machines_that_take_one_name_at_once_one_gets_it(running: Running) -> None:
    joins = [token(running, role="join")["token"] for _ in range(2)]

    def join(number: int) -> int:
        return running.ask("POST", "/join", joins[number % 2], {"name": "wanted"}).status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(join, range(8))) == [201] + [409] * 7


def test_a_join_whose_answer_the_controller_took_to_its_grave_is_answered_by_the_next(tmp_path: Path) -> None:
    before = start(tmp_path / "controller")
    join = token(before, role="join")["token"]
    lost = before.ask("POST", "/join", join, {"name": "n1"}, request_id="kept-on-disk")
    before.process.kill()
    before.wait()
    after = start(tmp_path / "controller", before.tokens)
    again = after.ask("POST", "/join", join, {"name": "n1"}, request_id="kept-on-disk")
    assert again.json == lost.json
    assert after.ask("POST", "/agent/sync", again.json["token"], {}, request_id=None).status == 400  # it is let in
    assert after.stop() == 0


def test_a_removed_node_is_told_so_and_others_are_not(running: Running) -> None:
    agent, other = Agent(running, "leaves"), Agent(running, "stays")
    agent.sync()
    other.sync()
    job = running.submit("ann", only_nodes=["leaves"])
    agent.run(job)
    assert "1 job of node leaves has not ended" in running.ask("POST", "/nodes/leaves/remove", "root", {}).refused(409)
    heard = running.get("/nodes/leaves")["last_seen_at"]
    with ThreadPoolExecutor(1) as pool:  # its poll is held meanwhile: it hears at once what to do with its job
        held = pool.submit(agent.sync, wait_seconds=5.0)
        until(lambda: running.get("/nodes/leaves")["last_seen_at"] != heard)
        assert running.ask("POST", "/nodes/leaves/remove", "root", {"force": True}).json == {"name": "leaves"}
        assert [order.kind.value for order in held.result().stop] == ["cancel"]
    said = agent.post("/agent/sync", json.dumps({}).encode()).refused(401)
    assert "the token of node leaves was revoked: the node was removed" in said
    assert "leaves" not in {node["name"] for node in running.get("/nodes")["items"]}
    assert running.get(f"/jobs/{job}")["state"] == "QUEUED"
    other.sync()


def test_a_lost_nodes_token_is_replaced_and_the_old_one_is_out(running: Running) -> None:
    agent = Agent(running, "forgetful")
    new = token(running, role="node", node="forgetful")["token"]
    agent.post("/agent/sync", b"{}").refused(401)
    agent.token = new
    agent.sync()


# ---------------------------------------------------------------- on record


def test_only_an_admin_reads_from_which_address_something_was_done(running: Running) -> None:
    user(running, "iris")
    (event,) = running.get("/events?kind=user.added&limit=1")["items"]
    assert (event["user"], event["text"], event["address"]) == ("root", "iris, with role user", "127.0.0.1")
    (event,) = running.get("/events?kind=user.added&limit=1", "ann")["items"]
    assert event["address"] is None


def test_a_forwarding_header_changes_nothing_about_who_asked(running: Running) -> None:
    headers = {"x-forwarded-for": "198.51.100.1", "forwarded": "for=198.51.100.1"}
    assert running.ask("POST", "/users", "root", {"name": "jane"}, headers=headers).status == 201
    (event,) = running.get("/events?kind=user.added&limit=1")["items"]
    assert event["address"] == "127.0.0.1"
