"""Users, their tokens, and nodes that leave: who may do what to whom, and what becomes of what they had."""

from __future__ import annotations

from typing import Any

import pytest

from gpuq.changes import PutToken
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import NodeName
from gpuq.protocol import Selection
from gpuq.service.commands import (
    Actor,
    AddUser,
    Command,
    DisableUser,
    EnableUser,
    EnrolNode,
    Hold,
    Release,
    RemoveNode,
    RevokeToken,
    SetRole,
    StoreOwnersToken,
    StoreToken,
)
from gpuq.service.users import JOIN_SECONDS
from gpuq.states import JobState
from tests.service.builders import ADA, BOB, ROOT, WALL, Desk, a_node, exited

FROM = Actor("root", "admin", address="192.0.2.7")
N1 = NodeName("n1")


def a_token(id: str, role: str = "user", user: str = "ada", **fields: Any) -> PutToken:
    given = {"node": None, "created_at": WALL, "expires_at": None, **fields}
    return PutToken(id, id * 2, role, user, **given)


@pytest.fixture
def desk() -> Desk:
    """Users ada and bob, and a node with four GPUs."""
    desk = Desk(a_node())
    for user in ("ada", "bob"):
        desk.do(AddUser(ROOT, user, "user"))
    return desk


def good(desk: Desk) -> set[str]:
    return set(desk.cluster.tokens)


def test_only_an_admin_adds_changes_or_disables_users_or_makes_tokens(desk: Desk) -> None:
    commands: list[Command] = [
        AddUser(ADA, "eve", "viewer"),
        SetRole(ADA, "ada", "admin"),
        DisableUser(ADA, "bob"),
        EnableUser(ADA, "bob"),
        StoreToken(ADA, a_token("t")),
        RemoveNode(ADA, N1),
        EnrolNode(ADA, NodeName("n2"), a_token("n", "node", node=NodeName("n2"))),
    ]
    for command in commands:
        with pytest.raises(NotAuthorised):
            desk.do(command)


def test_who_did_what_from_where_is_on_record(desk: Desk) -> None:
    desk.events.clear()
    desk.do(AddUser(FROM, "eve", "viewer"))
    desk.do(StoreToken(FROM, a_token("t", "viewer", "eve", expires_at=WALL + 60)))
    desk.do(RevokeToken(FROM, "t"))
    desk.do(SetRole(FROM, "eve", "user"))
    desk.do(DisableUser(FROM, "eve"))
    desk.do(EnableUser(FROM, "eve"))
    desk.do(EnrolNode(FROM, NodeName("n2"), a_token("n", "node", node=NodeName("n2"))))
    desk.do(RemoveNode(FROM, NodeName("n2")))
    kinds = ["user.added", "token.created", "token.revoked", "user.role", "user.disabled", "user.enabled"]
    assert [event.kind for event in desk.events] == [*kinds, "node.enrolled", "token.revoked", "node.removed"]
    assert {(event.user, event.address) for event in desk.events} == {("root", "192.0.2.7")}
    assert desk.events[0].text == "eve, with role viewer"
    assert desk.events[1].text == "viewer token t of eve, until 2023-11-14T22:14:20.000Z"
    assert desk.events[3].text == "eve, from viewer to user"


def test_a_token_needs_a_user_who_may_as_much(desk: Desk) -> None:
    with pytest.raises(NotFound, match="no user eve"):
        desk.do(StoreToken(ROOT, a_token("t", user="eve")))
    with pytest.raises(Conflict, match="role user, which a token of role admin would exceed"):
        desk.do(StoreToken(ROOT, a_token("t", "admin")))
    desk.do(DisableUser(ROOT, "ada"))
    with pytest.raises(Conflict, match="ada is disabled"):
        desk.do(StoreToken(ROOT, a_token("t")))
    assert good(desk) == set()


def test_a_user_is_added_once(desk: Desk) -> None:
    with pytest.raises(Conflict, match="a user ada already, with role user"):
        desk.do(AddUser(ROOT, "ada", "viewer"))
    desk.do(DisableUser(ROOT, "ada"))
    with pytest.raises(Conflict, match="ada already, and is disabled"):
        desk.do(AddUser(ROOT, "ada", "viewer"))
    with pytest.raises(InvalidRequest, match="'node' is not a user's role"):
        desk.do(AddUser(ROOT, "eve", "node"))


def test_a_join_token_lives_an_hour_at_most(desk: Desk) -> None:
    for expires in (None, WALL + 2 * JOIN_SECONDS):
        with pytest.raises(InvalidRequest, match="one hour at most"):
            desk.do(StoreToken(ROOT, a_token("j", "join", "root", expires_at=expires)))
    desk.do(StoreToken(ROOT, a_token("j", "join", "root", expires_at=WALL + JOIN_SECONDS)))
    assert good(desk) == {"j"}


def test_a_users_tokens_go_when_the_user_does_and_do_not_come_back(desk: Desk) -> None:
    for token in (a_token("a1"), a_token("a2", "viewer"), a_token("b", user="bob")):
        desk.do(StoreToken(ROOT, token))
    desk.do(DisableUser(ROOT, "ada"))
    assert good(desk) == {"b"}
    desk.do(EnableUser(ROOT, "ada"))
    assert good(desk) == {"b"}


def test_the_nodes_an_admin_added_stay_when_that_admin_goes(desk: Desk) -> None:
    desk.do(AddUser(ROOT, "eve", "admin"))
    desk.do(EnrolNode(Actor("eve", "admin"), NodeName("n2"), a_token("n", "node", "eve", node=NodeName("n2"))))
    desk.do(StoreToken(ROOT, a_token("j", "join", "eve", expires_at=WALL + 60)))
    desk.do(DisableUser(ROOT, "eve"))
    assert good(desk) == {"n"}


def test_who_is_an_admin_no_more_has_no_join_tokens_either(desk: Desk) -> None:
    desk.do(AddUser(ROOT, "eve", "admin"))
    for token in (a_token("j", "join", "eve", expires_at=WALL + 60), a_token("e", "viewer", "eve")):
        desk.do(StoreToken(ROOT, token))
    desk.do(StoreToken(ROOT, a_token("k", "join", "root", expires_at=WALL + 60)))
    desk.do(SetRole(ROOT, "eve", "user"))
    assert good(desk) == {"e", "k"}


def test_everyone_revokes_their_own_tokens_and_nobody_elses(desk: Desk) -> None:
    desk.do(EnrolNode(ROOT, NodeName("n2"), a_token("n", "node", "ada", node=NodeName("n2"))))
    for token in (a_token("a"), a_token("b", user="bob")):
        desk.do(StoreToken(ROOT, token))
    for id in ("b", "n", "x"):
        with pytest.raises(NotFound, match=f"no token {id} in use"):
            desk.do(RevokeToken(ADA, id))
    desk.do(RevokeToken(ADA, "a"))
    desk.do(RevokeToken(ROOT, "b"))
    assert good(desk) == {"n"}


def test_nobody_locks_themselves_out(desk: Desk) -> None:
    desk.do(AddUser(ROOT, "root", "admin"))
    with pytest.raises(Conflict, match="cannot disable yourself"):
        desk.do(DisableUser(ROOT, "root"))
    with pytest.raises(Conflict, match="your own rights"):
        desk.do(SetRole(ROOT, "root", "user"))


def test_who_owns_the_home_is_an_admin_whatever_others_did(desk: Desk) -> None:
    for prepare in ([], [SetRole(ROOT, "op", "viewer")], [DisableUser(ROOT, "op")]):
        for command in prepare:
            desk.do(command)
        desk.do(StoreOwnersToken(a_token(f"o{len(desk.events)}", "admin", "op")))
        user = desk.cluster.users["op"]
        assert (user.role, user.disabled_at) == ("admin", None)
    assert len(good(desk)) == 1  # the two before went with the user


# ---------------------------------------------------------------- what becomes of jobs


def test_who_has_jobs_is_not_disabled_before_it_is_said_what_becomes_of_them(desk: Desk) -> None:
    desk.do(StoreToken(ROOT, a_token("a")))
    job = desk.submit(gpus=1)
    desk.submit(array="0-3")
    with pytest.raises(Conflict, match="ada has 2 jobs that have not ended") as refused:
        desk.do(DisableUser(ROOT, "ada"))
    assert "--cancel-jobs or --give-jobs-to" in refused.value.hint
    assert desk.state(job) is JobState.QUEUED
    assert good(desk) == {"a"}


def test_the_jobs_of_who_is_disabled_are_canceled(desk: Desk) -> None:
    running, waiting, array = desk.submit(gpus=1), desk.submit(gpus=9), desk.submit(array="0-3", gpus=9)
    desk.run(running)
    others = desk.submit(BOB, gpus=9)
    desk.do(DisableUser(ROOT, "ada", cancel_jobs=True))
    assert desk.state(running) is JobState.STOPPING
    assert desk.state(waiting) is desk.state(array) is JobState.CANCELED
    assert desk.state(others) is JobState.QUEUED
    assert desk.jobs[waiting].user == "ada"


def test_the_jobs_of_who_is_disabled_are_another_users_from_then_on(desk: Desk) -> None:
    running, array, done = desk.submit(gpus=1), desk.submit(array="0-3", gpus=4), desk.submit()
    for job in (running, done):
        desk.run(job)
    desk.end(done)
    desk.do(DisableUser(ROOT, "ada", give_jobs_to="bob"))
    assert desk.state(running) is JobState.RUNNING
    assert {(desk.jobs[job].user, desk.jobs[job].request.account) for job in (running, array)} == {("bob", "bob")}
    assert desk.jobs[done].user == "ada"
    assert desk.cancel(array, actor=BOB) == ["done"]
    desk.end(running, exited(0))
    assert desk.jobs[running].user == "bob"


def test_who_is_given_a_job_may_release_what_its_owner_held_but_not_what_an_admin_held(desk: Desk) -> None:
    own, barred = desk.submit(hold=True), desk.submit()
    desk.do(Hold(ROOT, Selection(ids=(barred,))))
    desk.do(DisableUser(ROOT, "ada", give_jobs_to="bob"))
    (item,) = desk.do(Release(BOB, Selection(ids=(own,))))["items"]
    assert item["outcome"] == "done"
    (item,) = desk.do(Release(BOB, Selection(ids=(barred,))))["items"]
    assert "only an admin may release it" in item["text"]


@pytest.mark.parametrize(
    ("heir", "said"), [("eve", "no user eve"), ("ada", "cannot be given"), ("bob", "cannot be given")]
)
def test_jobs_are_given_only_to_somebody_who_can_act_on_them(desk: Desk, heir: str, said: str) -> None:
    job = desk.submit()
    desk.do(DisableUser(ROOT, "bob"))
    with pytest.raises((Conflict, NotFound), match=said):
        desk.do(DisableUser(ROOT, "ada", give_jobs_to=heir))
    assert desk.jobs[job].user == "ada"
    assert desk.cluster.users["ada"].disabled_at is None


# ---------------------------------------------------------------- nodes that come and go


def test_a_join_token_adds_nodes_and_does_nothing_else(desk: Desk) -> None:
    joining = Actor("root", "join")
    for name in ("n2", "n3"):
        desk.do(EnrolNode(joining, NodeName(name), a_token(name, "node", "root", node=NodeName(name))))
    with pytest.raises(Conflict, match="a node named n1 exists already") as refused:
        desk.do(EnrolNode(joining, N1, a_token("x", "node", "root", node=N1)))
    assert "--role node --node n1" in refused.value.hint
    commands: list[Command] = [
        RemoveNode(joining, N1),
        AddUser(joining, "x", "user"),
        StoreToken(joining, a_token("t")),
    ]
    for command in commands:
        with pytest.raises(NotAuthorised):
            desk.do(command)
    assert good(desk) == {"n2", "n3"}


def test_a_join_that_is_repeated_gets_the_same_answer_whoever_repeats_it(desk: Desk) -> None:
    token = a_token("n", "node", "root", node=NodeName("n2"))
    for actor in (Actor("root", "join"), Actor("eve", "join")):
        assert desk.do(EnrolNode(actor, NodeName("n2"), token)) == {"name": "n2"}
    assert desk.kinds("node.enrolled") == ["node.enrolled"]


def test_a_node_that_lost_its_token_gets_another_and_the_lost_one_opens_nothing(desk: Desk) -> None:
    desk.do(EnrolNode(ROOT, NodeName("n2"), a_token("old", "node", "root", node=NodeName("n2"))))
    desk.do(StoreToken(ROOT, a_token("new", "node", "root", node=NodeName("n2"))))
    assert good(desk) == {"new"}
    with pytest.raises(NotFound, match="no node n9"):
        desk.do(StoreToken(ROOT, a_token("x", "node", "root", node=NodeName("n9"))))


def test_a_node_with_jobs_is_removed_only_by_force_and_that_is_their_end_there(desk: Desk) -> None:
    desk.do(StoreToken(ROOT, a_token("n", "node", "root", node=N1)))
    again, never = desk.submit(gpus=1), desk.submit(gpus=1, requeue=False)
    for job in (again, never):
        desk.run(job)
    with pytest.raises(Conflict, match="2 jobs of node n1 have not ended"):
        desk.do(RemoveNode(ROOT, N1))
    assert (desk.state(again), good(desk)) == (JobState.RUNNING, {"n"})
    desk.do(RemoveNode(ROOT, N1, force=True))
    assert (desk.state(again), desk.state(never)) == (JobState.QUEUED, JobState.FAILED)
    assert desk.cause(never) == ("node_lost", "node n1 was removed by root")
    assert (good(desk), list(desk.cluster.nodes)) == (set(), [])
    with pytest.raises(NotFound):
        desk.do(RemoveNode(ROOT, N1))


def test_a_name_that_was_given_up_can_be_taken_again(desk: Desk) -> None:
    desk.do(RemoveNode(ROOT, N1))
    desk.do(EnrolNode(ROOT, N1, a_token("n", "node", "root", node=N1)))
    assert desk.cluster.nodes[N1].inventory is None
    assert desk.cluster.free_gpus(N1) == ()
