"""Bugs planted one by one: the simulation must catch each, or its silence elsewhere would mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.actions import Accept, Action
from agent.directives import Directives
from agent.shares import Shares
from agent.tenants import Tenancy
from gpuq.changes import PutJob
from gpuq.model import Attempt, AttemptUid, EndReason, Job, NodeName, OnLost, RankPhase, StopKind
from gpuq.protocol import Overuse
from gpuq.scheduler import fit
from gpuq.service import commit, execution, tick
from gpuq.service.draft import Draft
from gpuq.service.unwritten import Unwritten
from gpuq.states import JobState
from tests.simulation.agents import GPU_BYTES
from tests.simulation.invariants import run
from tests.simulation.world import Broken

SEEDS = 60  # the rarest of the bugs below shows in one history of fifteen

Patch = pytest.MonkeyPatch


def gpu_freed_on_the_cancel_request(patch: Patch) -> None:
    stop = execution.stop

    def bug(draft: Draft, attempt: Attempt, job: Job, kind: StopKind, by: str, text: str = "") -> Job:
        job = stop(draft, attempt, job, kind, by, text)
        held = draft.attempt(attempt.uid)
        if kind is StopKind.CANCEL and held is not None and held.live:
            job = execution.end_all(draft, held, job, EndReason.NODE_LOST, "assumed")
        return job

    patch.setattr(execution, "stop", bug)


def a_stale_attempts_report_accepted(patch: Patch) -> None:
    jobs: dict[AttemptUid, Attempt] = {}
    put, look = Draft.put_attempt, Draft.attempt

    def remember(self: Draft, attempt: Attempt) -> Attempt:
        jobs[attempt.uid] = attempt
        return put(self, attempt)

    def bug(self: Draft, uid: AttemptUid) -> Attempt | None:
        found = look(self, uid)
        if (found is None or not found.live) and uid in jobs:  # "it is the same job, after all"
            live = self.view.attempt_of(jobs[uid].job)
            return None if live is None else look(self, live.uid)
        return found

    patch.setattr(Draft, "put_attempt", remember)
    patch.setattr(Draft, "attempt", bug)


def an_unacknowledged_exit_record_dropped(patch: Patch) -> None:
    request = Directives.request

    def bug(self: Directives, *args: Any, **kwargs: Any) -> Any:
        message = request(self, *args, **kwargs)
        for report in message.reports:
            if report.phase is RankPhase.ENDED:  # "it was sent, so it is known"
                self._entries.pop(report.uid, None)
        return message

    patch.setattr(Directives, "request", bug)


def an_older_sync_answer_applied_after_a_newer(patch: Patch) -> None:
    def bug(self: Directives, reply: Any) -> bool:
        return not reply.superseded and reply.incarnation == self.incarnation

    patch.setattr(Directives, "_is_next", bug)


def an_orders_start_time_out_requeued_without_the_agents_word(patch: Patch) -> None:
    plain = tick.tick

    def bug(draft: Draft) -> None:
        plain(draft)
        for job in draft.view.live_jobs():
            attempt = draft.attempt_of(job.id)
            if job.state is JobState.ALLOCATED and attempt is not None and draft.now.wall > attempt.granted_at + 10:
                execution.end_all(draft, attempt, job, EndReason.NEVER_STARTED, "took too long")

    patch.setattr(tick, "tick", bug)


def a_reply_sent_before_its_commit(patch: Patch) -> None:
    patch.setattr(commit.Commit, "when_durable", lambda self, number, then: then(None))


def a_run_launched_again_for_a_repeated_order(patch: Patch) -> None:
    take = Directives._run

    def bug(self: Directives, order: Any, deadline: float, wall: float) -> list[Action]:
        held = self._entries.get(order.uid)
        if held is not None and held.order is not None:
            return [Accept(order, None)]
        return take(self, order, deadline, wall)

    patch.setattr(Directives, "_run", bug)


def a_fenced_job_requeued_before_its_lease_has_run_out(patch: Patch) -> None:
    lose = execution.lose

    def bug(draft: Draft, attempt: Attempt, job: Job, name: NodeName) -> None:
        lose(draft, replace(attempt, on_lost=OnLost.FENCE), job, name)  # "every job may be run elsewhere"

    patch.setattr(execution, "lose", bug)


def an_ended_job_forgotten_when_an_earlier_record_of_it_lands(patch: Patch) -> None:
    landed = Unwritten.landed

    def bug(self: Unwritten, changes: Any) -> None:
        landed(self, changes)
        for change in changes:
            if isinstance(change, PutJob):
                self.jobs.pop(change.job.id, None)

    patch.setattr(Unwritten, "landed", bug)


def a_job_blamed_for_what_its_gpu_did(patch: Patch) -> None:
    def blind(self: Directives, fatal: Mapping[int, str]) -> list[Action]:
        del self, fatal
        return []

    patch.setattr(Directives, "gpus_failed", blind)


def freed_gpus_given_to_whoever_comes(patch: Patch) -> None:
    patch.setattr(fit.Room, "keep", lambda self, rank: None)


def neighbours_stopped_with_whoever_is_beyond_its_share(patch: Patch) -> None:
    observe = Shares.observe

    def bug(self: Shares, now: float, held: Mapping[AttemptUid, Tenancy], samples: Any) -> tuple[Overuse, ...]:
        told = observe(self, now, held, samples)  # "whoever is on that GPU"
        many = [
            replace(over, uid=uid, used_bytes=GPU_BYTES)
            for over in told
            for uid, tenancy in held.items()
            if over.gpu in tenancy.gpus
        ]
        return tuple({over.uid: over for over in many}.values())

    patch.setattr(Shares, "observe", bug)


PLANTED: list[tuple[Callable[[Patch], None], str]] = [
    (gpu_freed_on_the_cancel_request, "46"),
    (a_stale_attempts_report_accepted, "46"),
    (an_unacknowledged_exit_record_dropped, "4"),
    (an_older_sync_answer_applied_after_a_newer, "1346"),
    (an_orders_start_time_out_requeued_without_the_agents_word, "36"),
    (a_reply_sent_before_its_commit, "28"),
    (a_run_launched_again_for_a_repeated_order, "1346"),
    (a_fenced_job_requeued_before_its_lease_has_run_out, "36"),
    (an_ended_job_forgotten_when_an_earlier_record_of_it_lands, "2"),
    (a_job_blamed_for_what_its_gpu_did, "4"),
    (freed_gpus_given_to_whoever_comes, "17"),
    (neighbours_stopped_with_whoever_is_beyond_its_share, "4"),
]


@pytest.mark.parametrize(("plant", "invariants"), PLANTED, ids=lambda p: getattr(p, "__name__", ""))
def test_the_simulation_catches(plant: Callable[[Patch], None], invariants: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    caught = next(filter(None, map(breach_of, range(SEEDS))), None)
    assert caught is not None, f"{SEEDS} histories went by without a breach"
    assert caught[0] in invariants, f"caught as something else: {caught}"


def breach_of(seed: int) -> str | None:
    try:
        run(seed)
    except Broken as broken:
        return str(broken)
    return None
