"""Nodes that run only some users' jobs: where jobs go, and what the others are told."""

from __future__ import annotations

from dataclasses import replace

from gpuq.accounts import Accounts, JobsOf, Refusal
from gpuq.changes import PutNode
from gpuq.codec import decode, encode
from gpuq.model import EndReason, ExitRecord, JobId, Request
from gpuq.node import Inventory, Node
from gpuq.scheduler import by_node
from gpuq.scheduler.fit import fits, rooms
from gpuq.service.commands import Actor
from gpuq.states import JobState, NodeState
from tests.service.builders import ADA, BOB, WALL, Desk, a_node, an_inventory

ADAS = Accounts(JobsOf.OWNER, "ada")
NO_BOB = Accounts(JobsOf.EACH, refused=(Refusal("bob", "has no account bob"),))


def node(name: str, accounts: Accounts, gpus: int = 4) -> Node:
    return a_node(name, inventory=replace(an_inventory(gpus), accounts=accounts))


def say(desk: Desk, id: str) -> str:
    reason = desk.reason(id)
    assert reason is not None
    return f"{reason.code.value}: {reason.text}"


def test_a_job_goes_only_where_its_users_jobs_run() -> None:
    desk = Desk(node("n1", ADAS, gpus=1), node("n2", NO_BOB, gpus=2), node("n3", Accounts(), gpus=4))
    bobs, adas = desk.submit(BOB, gpus=1), desk.submit(ADA, gpus=1)
    desk.plan()
    assert [desk.attempt(id).ranks[0].node for id in (bobs, adas)] == ["n3", "n1"]


def test_who_is_known_nowhere_is_told_by_name_what_each_node_runs() -> None:
    desk = Desk(node("n1", ADAS), node("n2", NO_BOB))
    job = desk.submit(BOB, gpus=1)
    assert say(desk, job) == "account: no node runs jobs of bob: n1 runs only jobs of ada, n2 has no account bob"
    assert [
        (said.node, not said.short, said.short) for said in by_node(desk.cluster, desk.job(job), desk.now, desk.policy)
    ] == [
        ("n1", False, "runs only jobs of ada"),
        ("n2", False, "has no account bob"),
    ]
    desk.plan()
    assert desk.state(job) is JobState.QUEUED
    second = desk.submit(BOB, gpus=1)
    assert say(desk, second) == say(desk, job), "and not: behind the first"
    desk.cluster.apply([PutNode(node("n3", NO_BOB)), PutNode(node("n4", NO_BOB))])
    assert say(desk, job).endswith("n3 has no account bob and 1 more")
    only = desk.submit(BOB, only_nodes=("n1",))
    assert say(desk, only) == "account: no node it may run on runs jobs of bob: n1 runs only jobs of ada"


def test_the_size_that_counts_is_that_of_nodes_that_run_its_users_jobs() -> None:
    desk = Desk(node("n1", ADAS, gpus=8), node("n2", Accounts(JobsOf.EACH), gpus=2))
    job = desk.submit(BOB, gpus=4)
    assert say(desk, job) == "too_large: needs 4 GPUs on one node, the largest has 2"
    small = desk.submit(BOB, gpus=1)
    desk.states[a_node("n2").name] = NodeState.SUSPECT
    assert say(desk, small) == "no_nodes: no node that could run it takes work: n2 is suspect"


def test_finding_out_that_an_account_is_missing_costs_no_budget_and_no_pause() -> None:
    names = [f"n{i:02}" for i in range(20)]
    desk = Desk(*(node(name, Accounts(JobsOf.EACH)) for name in names))
    job = desk.submit(BOB, gpus=1)
    tried = []
    for _ in names:
        desk.plan()
        attempt = desk.attempt(job)
        tried.append(attempt.ranks[0].node)
        desk.cluster.apply([PutNode(node(tried[-1], NO_BOB))])  # it rides along with the report, and is taken first
        desk.end(job, ExitRecord(EndReason.NEVER_STARTED, WALL, text=f"{tried[-1]} has no account bob"))
        found = desk.job(job)
        assert (found.state, found.losses_used, found.eligible_at) == (JobState.QUEUED, 0, None)
    assert sorted(tried) == names, "each was tried once"
    assert desk.reason(job).code.value == "account"  # type: ignore[union-attr]
    desk.cluster.apply([PutNode(node("n07", Accounts(JobsOf.EACH)))])
    desk.plan()
    assert desk.attempt(job).ranks[0].node == "n07"


def test_a_node_that_turns_a_user_down_without_saying_so_costs_a_loss_as_any_other() -> None:
    desk = Desk(node("n1", Accounts(JobsOf.EACH)))
    job = desk.submit(BOB, gpus=1)
    desk.plan()
    desk.end(job, ExitRecord(EndReason.NEVER_STARTED, WALL, text="n1 has no account bob"))
    assert (desk.job(job).losses_used, desk.job(job).eligible_at) == (1, WALL + 5)


def test_equal_wishes_of_two_users_are_placed_in_the_order_of_submitting() -> None:
    desk = Desk(node("n1", Accounts(), gpus=1))
    first, second = desk.submit(Actor("zoe", "user"), gpus=1), desk.submit(ADA, gpus=1)
    desk.plan()
    assert (desk.state(first), desk.state(second)) == (JobState.ALLOCATED, JobState.QUEUED)
    assert desk.job(JobId(second)).request.account == "ada"


def test_who_says_nothing_of_accounts_is_trusted_as_before() -> None:
    old = {name: value for name, value in encode(an_inventory()).items() if name != "accounts"}
    desk = Desk(a_node("n1", inventory=decode(Inventory, old)), node("n2", NO_BOB, gpus=1))
    job = desk.submit(BOB, gpus=1)
    desk.plan()
    assert desk.attempt(job).ranks[0].node == "n1"
    stored = replace(desk.job(desk.submit(BOB, gpus=1)), request=decode(Request, {"gpus_per_node": 1}))
    assert fits(rooms(desk.cluster, desk.policy)[1], stored.request), "it is seen when it arrives there"
