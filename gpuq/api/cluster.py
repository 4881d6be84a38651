"""The cluster as a whole, and who the caller is to it."""

from __future__ import annotations

from collections import Counter

from starlette.responses import PlainTextResponse, Response

from gpuq import arrays
from gpuq.api.answers import answer
from gpuq.api.calls import By, Call
from gpuq.protocol import PROTOCOL
from gpuq.states import JobState, NodeState
from gpuq.version import VERSION


async def version(call: By) -> Response:
    """What runs here. Needs no token."""
    return answer({"version": VERSION, "protocol": PROTOCOL, "cluster_id": call.site.cluster_id})


async def ca(call: By) -> Response:
    """The certificate authority of this controller, PEM. A token carries its SHA-256. Needs no token."""
    return PlainTextResponse(call.site.ca_pem, media_type="application/x-pem-file")


async def whoami(call: By) -> Response:
    """Whose token this is."""
    await call.controller.settled()
    return answer({"user": call.actor.user, "role": call.actor.role})


async def cluster(call: By) -> Response:
    """Counts of nodes, GPUs and jobs that have not ended; elements of arrays count one each."""
    body = {
        "cluster_id": call.site.cluster_id,
        "version": VERSION,
        "url": call.site.url,
        "nodes": _nodes(call),
        "gpus": _gpus(call),
        "jobs": _jobs(call),
        "logs": {"bytes": call.site.log_use.bytes, "limit_bytes": call.controller.view.settings.cluster.log_space},
    }
    await call.controller.settled()
    return answer(body)


def _nodes(call: Call) -> dict[str, int]:
    view = call.controller.view
    counts = Counter(view.node_state(name) for name in view.nodes)
    return {state.value: counts[state] for state in NodeState}


def _gpus(call: Call) -> dict[str, int]:
    view = call.controller.view
    inventories = [node.inventory for node in view.nodes.values() if node.inventory is not None]
    held = {
        (name, gpu)
        for name in view.nodes
        for attempt in view.attempts_on(name)
        for rank in attempt.ranks
        if rank.node == name
        for gpu in rank.gpus
    }
    return {
        "total": sum(len(inventory.gpus) for inventory in inventories),
        "busy": len(held),
        "simulated": sum(len(inventory.gpus) for inventory in inventories if inventory.simulated),
    }


def _jobs(call: Call) -> dict[str, int]:
    counts: Counter[JobState] = Counter()
    for job in call.controller.view.live_jobs():
        if job.array is None:
            counts[job.state] += 1
        else:
            counts[JobState.QUEUED] += arrays.count(job.array.waiting)
    return {state.value: n for state, n in counts.items() if n}
