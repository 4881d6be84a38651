"""Decisions on nodes: what a report changes, which orders follow from what is known, and what admins ask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpuq import arrays
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import (
    Attempt,
    AttemptUid,
    Cause,
    CauseCode,
    EndReason,
    Job,
    JobId,
    NodeName,
    OnLost,
    Rank,
    RankPhase,
    StopKind,
)
from gpuq.node import Node
from gpuq.protocol import MAX_GPUS, UNKNOWN_RANK, GpuPardon, RankReport, RunOrder, StopOrder, StreamOrder, SyncRequest
from gpuq.service import execution, gpus
from gpuq.service.commands import Cordon, Drain, EnrolNode, RemoveNode, Report, Silence, Uncordon
from gpuq.service.draft import Draft
from gpuq.service.users import revoke_all
from gpuq.states import JobState, NodeState
from gpuq.units import plural
from gpuq.view import ClusterView

GIVEN_UP_GRACE_SECONDS = 10  # others may be granted its GPUs already


# ---------------------------------------------------------------- the exchange


def rank_of(attempt: Attempt, name: NodeName) -> int | None:
    """The index of the one rank an attempt has on a node, None without one."""
    return next((index for index, rank in enumerate(attempt.ranks) if rank.node == name), None)


def report(draft: Draft, command: Report) -> None:
    """Takes one sync's word. Only what it says counts; what it leaves out means nothing, with one exception.

    The exception is the agent's own memory: an attempt it had accepted and no longer names, on the same boot, is
    asked to stop, which makes the agent look for survivors and say what it found.
    """
    request = command.request
    node = draft.node(request.node)
    if node is None:
        raise NotFound(f"node {request.node} is not part of this cluster")
    _note_node(draft, node, request)
    rebooted = node.boot_id is not None and node.boot_id != request.boot_id
    holds = set(request.holds)
    for word in request.reports:
        attempt = draft.attempt(word.uid)
        if attempt is not None and attempt.live:
            mine = rank_of(attempt, node.name)
            if mine is not None and word.rank in (mine, UNKNOWN_RANK):
                execution.report(draft, attempt, replace(word, rank=mine))
        elif word.order is not None and word.uid not in command.ended:
            adopted = _adopt(draft, node.name, word, word.order)
            if adopted is not None:
                execution.report(draft, adopted, word)
    for held in list(draft.view.attempts_on(node.name)):
        _compare(draft, held.uid, node.name, holds, rebooted)


def _note_node(draft: Draft, node: Node, request: SyncRequest) -> None:
    inventory = node.inventory if request.inventory is None else request.inventory
    indices = [] if inventory is None else [gpu.index for gpu in inventory.gpus]
    if len(set(indices)) < len(indices) or not _is_text(request.boot_id):
        raise InvalidRequest(f"the report of node {node.name} contradicts itself")
    if inventory is not None and inventory != node.inventory:
        inventory = gpus.taken(draft, node.name, node.inventory, inventory)
    if (inventory, request.boot_id) != (node.inventory, node.boot_id):
        draft.put_node(replace(node, inventory=inventory, boot_id=request.boot_id))
    if draft.view.node_state(node.name) is NodeState.LOST or node.boot_id is None:
        draft.event("node.up", "reports", node=node.name)


def _compare(draft: Draft, uid: AttemptUid, name: NodeName, holds: set[AttemptUid], rebooted: bool) -> None:
    """Holds one attempt of the node against what the agent says it has."""
    attempt = draft.attempt(uid)
    job = None if attempt is None else draft.job(attempt.job)
    if attempt is None or job is None or not attempt.live:
        return
    index = rank_of(attempt, name)
    assert index is not None
    mine = attempt.ranks[index]
    # A gang's ranks begin together: one that its agent does not know, while others run, was forgotten after a restore.
    known = mine.phase is not RankPhase.ORDERED or any(rank.started_at is not None for rank in attempt.ranks)
    if uid not in holds and known and mine.phase is not RankPhase.ENDED:
        if rebooted:
            execution.end_on(draft, attempt, job, name, EndReason.NODE_LOST, f"node {name} was restarted")
            return
        if attempt.stop is None:
            job = execution.stop(draft, attempt, job, StopKind.VANISHED, "gpuq", "its agent no longer knows it")
            attempt = draft.attempt(uid) or attempt
    if job.state is JobState.LOST:
        execution.found(draft, attempt, job, name)


def _adopt(draft: Draft, name: NodeName, word: RankReport, order: RunOrder) -> Attempt | None:
    """An attempt this controller has no record of (it was restored from a backup): taken over as the agent has it.

    None while that would give a GPU two holders or a job two attempts: `orders` says what the agent is told then.
    """
    job = order.job
    if not _is_sound(draft, name, word, order):
        return None
    rival = draft.attempt_of(job.id)
    if rival is not None and rival.number >= order.number:
        return None
    for rank in order.ranks:
        others = (other for held in draft.attempts_on(rank.node) if held != rival for other in held.ranks)
        if any(other.node == rank.node and _clash(rank, other) for other in others):
            return None  # the holder is gone by the node's word, or is about to be; this one is asked for again
    if rival is not None:  # a later attempt was granted, so this one had ended
        text = f"ended before attempt {order.number} began, which is all that is known"
        cause = Cause(CauseCode.SUPERVISOR_LOST, text)
        draft.put_attempt(replace(rival, ended_at=draft.now.wall, cause=cause))
    row = None if job.index is None else draft.job(job.array_id)
    if row is not None and row.array is not None and job.index is not None:
        draft.put_job(replace(row, array=replace(row.array, waiting=arrays.without(row.array.waiting, job.index))))
    draft.put_job(job)
    draft.put_spec(job.array_id, order.spec)
    draft.event("attempt.adopted", "reported by its node, not on record here", job=job, attempt=order.number)
    return draft.put_attempt(
        Attempt(order.uid, job.id, order.number, order.ranks, order.granted_at, job.on_lost, order.port)
    )


def _clash(rank: Rank, other: Rank) -> bool:
    """Whether both cannot hold what they were granted of one node. Shares are taken as they are: what is too much for
    a GPU then runs there already.
    """
    shared = rank.gpu_share_bytes is not None and other.gpu_share_bytes is not None
    return not shared and not set(rank.gpus).isdisjoint(other.gpus)


def _is_sound(draft: Draft, name: NodeName, word: RankReport, order: RunOrder) -> bool:
    """Whether an order is one that a controller could have given this node: what it holds goes on record."""
    job, index = order.job, order.job.index
    return (
        order.uid == word.uid
        and order.rank == word.rank
        and 0 <= order.rank < len(order.ranks)
        and order.ranks[order.rank].node == name
        and len({rank.node for rank in order.ranks}) == len(order.ranks)
        and all(rank.node in draft.view.nodes and len(set(rank.gpus)) == len(rank.gpus) for rank in order.ranks)
        and all(rank.phase is RankPhase.ORDERED for rank in order.ranks)
        and all(0 <= gpu < MAX_GPUS for rank in order.ranks for gpu in rank.gpus)
        and all(rank.cpus >= 0 and rank.memory_bytes >= 0 for rank in order.ranks)
        and all(rank.gpu_share_bytes is None or rank.gpu_share_bytes > 0 for rank in order.ranks)
        and job.state is JobState.ALLOCATED
        and job.attempt == order.number > 0
        and job.array is None
        and 0 < job.number <= arrays.MAX_INDEX
        and (index is None or 0 <= index <= arrays.MAX_INDEX)
        and job.id == (str(job.number) if index is None else f"{job.number}_{index}")
        and all(_is_text(text) for text in (order.uid, job.user, job.held_by or ""))
    )


def _is_text(text: str) -> bool:
    """Whether the store can hold it as it stands."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Orders:
    """What a node is to be told. run lists (attempt, rank); the job's spec is fetched when the answer is written."""

    run: tuple[tuple[Attempt, int], ...] = ()
    stop: tuple[StopOrder, ...] = ()
    go: tuple[AttemptUid, ...] = ()
    extend: tuple[AttemptUid, ...] = ()
    forget: tuple[AttemptUid, ...] = ()
    describe: tuple[AttemptUid, ...] = ()
    pardon: tuple[GpuPardon, ...] = ()
    streams: tuple[StreamOrder, ...] = ()
    unexplained: tuple[AttemptUid, ...] = ()  # what the node may have running beside the records: it gets no new work

    def urgent(self) -> frozenset[tuple[str, str]]:
        """Orders worth answering at once; the others ride along with the next answer."""
        runs = {("run", attempt.uid) for attempt, _ in self.run}
        stops = {(f"stop {order.kind.value}", order.uid) for order in self.stop}
        pardons = {(f"pardon {order.fault}", order.uuid) for order in self.pardon}
        steps = {("go", uid) for uid in self.go} | {("describe", uid) for uid in self.describe}
        streams = {("stream", order.id) for order in self.streams}
        return frozenset(runs | stops | pardons | steps | streams)


def as_ordered(attempt: Attempt, job: Job) -> tuple[Attempt, Job] | None:
    """Both as they were when granted, which is what a run order says of them; None if none may be given any more.

    The first rank to accept moves the job on, the orders of the others may still have to leave.
    """
    if not _may_be_ordered(attempt, job):
        return None
    ranks = tuple(replace(rank, phase=RankPhase.ORDERED, started_at=None, exit=None) for rank in attempt.ranks)
    return replace(attempt, ranks=ranks), replace(job, state=JobState.ALLOCATED)


def _may_be_ordered(attempt: Attempt, job: Job) -> bool:
    return attempt.stop is None and job.state in (JobState.ALLOCATED, JobState.STARTING)


# What an agent does for these is the same, and agents and supervisors of older versions know no other word.
_TOLD = {StopKind.DRAIN: StopKind.REQUEUE, StopKind.PREEMPT: StopKind.REQUEUE}


def orders(view: ClusterView, name: NodeName, request: SyncRequest, ended: frozenset[AttemptUid]) -> Orders:
    """Every order that is not carried out yet, as far as the request shows; repeated until it is."""
    holds = set(request.holds)
    run: list[tuple[Attempt, int]] = []
    stop, go, extend, forget, describe, given_up = [], [], [], [], [], []
    known = set()
    for attempt in view.attempts_on(name):
        known.add(attempt.uid)
        index = rank_of(attempt, name)
        assert index is not None
        rank = attempt.ranks[index]
        if rank.phase is RankPhase.ENDED:
            if attempt.uid in holds:
                forget.append(attempt.uid)
            continue
        job = view.job(attempt.job)
        assert job is not None
        if attempt.stop is not None:
            stop.append(StopOrder(attempt.uid, _TOLD.get(attempt.stop.kind, attempt.stop.kind), job.grace_seconds))
        elif rank.phase is RankPhase.ORDERED and attempt.uid not in holds and _may_be_ordered(attempt, job):
            run.append((attempt, index))
        elif rank.phase is RankPhase.READY and attempt.may_go:
            go.append(attempt.uid)
        if attempt.on_lost is OnLost.FENCE:
            extend.append(attempt.uid)
    words = {word.uid: word for word in request.reports}
    for uid in request.holds:
        if uid in known:
            continue
        word = words.get(uid)
        if word is None or not (uid in ended or _is_needless(view, word)):
            describe.append(uid)
        elif word.phase is RankPhase.ENDED:
            forget.append(uid)
        else:  # given up without proof (--force), or overtaken: its GPUs count as free, so it must not go on
            stop.append(StopOrder(uid, StopKind.CANCEL, GIVEN_UP_GRACE_SECONDS))
            given_up.append(uid)
    known_node = view.nodes.get(name)
    return Orders(
        tuple(run),
        tuple(stop),
        tuple(go),
        tuple(extend),
        tuple(forget),
        tuple(describe),
        gpus.pardons(None if known_node is None else known_node.inventory),
        unexplained=(*describe, *given_up),
    )


def _is_needless(view: ClusterView, word: RankReport) -> bool:
    """Whether an attempt that is not on record need not come on it: it never ran, or a later one has its place."""
    if word.exit is not None and word.exit.reason is EndReason.NEVER_STARTED:
        return True
    rival = None if word.order is None else view.attempt_of(word.order.job.id)
    return rival is not None and word.order is not None and rival.number >= word.order.number


def silence(draft: Draft, command: Silence) -> None:
    """A node has gone silent: its jobs are LOST, and ended where their lease makes the silence a proof."""
    attempts = list(draft.view.attempts_on(command.name))
    draft.event("node.lost", f"silent for {draft.policy.lost_after:.0f} s", node=command.name)
    for attempt in attempts:
        job = draft.job(attempt.job)
        if job is not None:
            execution.lose(draft, attempt, job, command.name)


# ---------------------------------------------------------------- what admins ask


def enrol(draft: Draft, command: EnrolNode) -> dict[str, Any]:
    """A new node with its token. Asked for again with the very same token it is answered again, whoever asks."""
    actor, name, known = command.actor, command.name, draft.view.tokens.get(command.token.id)
    if actor.role not in ("admin", "join"):
        raise NotAuthorised("only an admin, or a join token of an admin's, may add a node")
    if draft.node(name) is None:
        draft.put_node(Node(name, enrolled_at=draft.now.wall))
        draft.put_token(command.token)
        draft.event("node.enrolled", f"by {actor.user}", node=name, user=actor.user, address=actor.address)
    elif known is None or (known.node, known.secret_sha256) != (name, command.token.secret_sha256):
        raise Conflict(
            f"a node named {name} exists already",
            f"give the agent another --name; if this is {name} and its token is lost, an admin makes it another: "
            f"gpuq token create --role node --node {name}",
        )
    return {"name": name}


def remove(draft: Draft, command: RemoveNode) -> dict[str, Any]:
    """Takes a node out of the cluster, which is proof of death for what runs there: so that needs force."""
    actor, name = command.actor, command.name
    if not actor.admin:
        raise NotAuthorised("only an admin may remove a node")
    if draft.node(name) is None:
        raise NotFound(f"there is no node {name}")
    held = draft.attempts_on(name)
    if held and not command.force:
        count = len(held)
        raise Conflict(
            f"{count} {plural(count, 'job')} of node {name} {'has' if count == 1 else 'have'} not ended",
            "drain it first; if the machine is gone for good, --force ends them here",
        )
    for attempt in held:
        job = draft.job(attempt.job)
        if job is not None:
            text = f"node {name} was removed by {actor.user}"
            execution.end_on(draft, attempt, job, name, EndReason.NODE_LOST, text)
    draft.drop_node(name)
    revoke_all(draft, actor, lambda token: token.node == name)
    draft.event("node.removed", f"by {actor.user}", node=name, user=actor.user, address=actor.address)
    return {"name": name}


def cordon(draft: Draft, command: Cordon | Drain | Uncordon) -> dict[str, Any]:
    """Cordon, drain (cordon, and say when the last job has ended), or back to work; the ids of jobs that are moved."""
    if not command.actor.admin:
        raise NotAuthorised("only an admin may cordon or drain a node")
    node = draft.node(command.name)
    if node is None:
        raise NotFound(f"there is no node {command.name}")
    by = command.actor.user
    if isinstance(command, Uncordon) and command.gpu is not None:
        return gpus.pardon(draft, node, command)
    if isinstance(command, Uncordon):
        changed = replace(node, cordoned=False, draining=False, cordon_text="")
        verb = "uncordoned"
    else:
        drain = isinstance(command, Drain)
        text = f"by {by}" + (f": {command.text}" if command.text else "")
        changed = replace(node, cordoned=True, draining=drain or node.draining, cordon_text=text)
        verb = "draining" if drain else "cordoned"
    if changed != node:
        draft.put_node(changed)
        text = changed.cordon_text or f"by {by}"
        draft.event(f"node.{verb}", text, node=node.name, user=by, address=command.actor.address)
        execution.note_drained(draft, node.name)
    moved = _move_away(draft, node.name, by) if isinstance(command, Drain) and command.requeue else []
    return {"name": node.name, "requeued": moved}


def _move_away(draft: Draft, name: NodeName, by: str) -> list[JobId]:
    """Has what may run again end on a node, to be queued again; the others come to their own end."""
    moved = []
    for attempt in draft.attempts_on(name):
        job = draft.job(attempt.job)
        if job is not None and job.requeue and attempt.stop is None:
            execution.stop(draft, attempt, job, StopKind.DRAIN, by, f"node {name} was drained by {by}")
            moved.append(job.id)
    return moved
