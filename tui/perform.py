"""Actions on jobs and nodes, carried out: what would happen is asked, looked at again, sent once, and said.

A request that was not answered is repeated under its request id, which the controller does at most once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuq.errors import Conflict, NoSpace, Unavailable
from tui import actions
from tui.actions import Proposal, Request, Verb
from tui.client import Client
from tui.pane import Dashboard, Question
from tui.store import JobRow, Store

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # seconds: a controller is back from a restart well within their sum


def on_jobs(dashboard: Dashboard, verb: Verb, ids: Sequence[str], priority: int | None = None) -> None:
    """Do this to these jobs, after a question where something may be lost."""
    dashboard.work(_on_jobs(dashboard, verb, ids, priority))


def on_nodes(dashboard: Dashboard, verb: Verb, names: Sequence[str], text: str = "") -> None:
    """Do this to these nodes. text: why, shown beside them."""
    store = dashboard.store
    if unknown := [name for name in names if name not in store.nodes]:
        dashboard.say(f"there is no node {unknown[0]}", bad=True)
        return
    _ask(dashboard, lambda: actions.on_nodes(verb, _present(store, names), store.you, text))


def hold_or_release(dashboard: Dashboard, ids: Sequence[str]) -> None:
    rows = [dashboard.store.jobs[id] for id in ids if id in dashboard.store.jobs]
    on_jobs(dashboard, actions.hold_or_release(rows), ids)


def ask_priority(dashboard: Dashboard, ids: Sequence[str]) -> None:
    """Has the number typed behind the jobs on the `:` line, if any of them may still be given one."""
    store = dashboard.store
    rows = [store.jobs[id] for id in ids if id in store.jobs]
    proposal = actions.on_jobs(Verb.PRIORITY, rows, store.you, store.now())
    if rows and not proposal.ids:
        dashboard.say(proposal.left_out[0], bad=True)
    else:
        dashboard.ask_command(f"priority {' '.join(ids)} ")


def cordon_or_uncordon(dashboard: Dashboard, names: Sequence[str]) -> None:
    on_nodes(dashboard, actions.cordon_or_uncordon(_present(dashboard.store, names)), names)


async def carry_out(client: Client, proposal: Proposal, key: str) -> str:
    """Sends what the proposal says and gives what came of it, in one line. Raises Conflict if any of it was refused.

    key: the request ids are made from it, so that doing it again does nothing twice.
    """
    answers = [await sent(client, request, f"{key}-{number}") for number, request in enumerate(proposal.requests)]
    text, refused = actions.outcome(proposal, answers)
    if refused:
        raise Conflict(text)
    return text


async def sent(client: Client, request: Request, request_id: str) -> Any:
    """The answer to a request, which is repeated while nobody knows what came of it; raises GpuqError."""
    for pause in PAUSES:
        try:
            return await client.post(request.path, request.body, request_id, method=request.method)
        except NoSpace:  # surely nothing was done
            raise
        except Unavailable:
            await asyncio.sleep(pause)
    return await client.post(request.path, request.body, request_id, method=request.method)


async def _on_jobs(dashboard: Dashboard, verb: Verb, ids: Sequence[str], priority: int | None) -> None:
    store = dashboard.store
    asked = {id: store.jobs.get(id) or await _fetched(dashboard.client, id) for id in ids}

    def look() -> Proposal:
        rows = [store.jobs.get(id, row) for id, row in asked.items()]
        return actions.on_jobs(verb, rows, store.you, store.now(), priority)

    _ask(dashboard, look)


async def _fetched(client: Client, id: str) -> JobRow:
    """A job that the lists do not have: an element of an array, or one that ended long ago. Raises NotFound."""
    job: Mapping[str, Any] = await client.get(f"/jobs/{id}")
    return JobRow._make(job.get(field) for field in JobRow._fields)


def _present(store: Store, names: Sequence[str]) -> list[Mapping[str, Any]]:
    return [store.nodes[name] for name in names if name in store.nodes]


def _ask(dashboard: Dashboard, look: Callable[[], Proposal]) -> None:
    """look: the proposal as things are now; what it was when asked and what it is when answered may differ."""
    proposal = look()
    if not proposal.ids:
        dashboard.say(proposal.left_out[0] if proposal.left_out else "nothing is chosen", bad=True)
        return
    key = os.urandom(8).hex()
    question = _question(dashboard, look, proposal, key)
    if proposal.asks:
        dashboard.confirm(question)
    else:
        dashboard.work(_done_and_said(dashboard, question))


async def _done_and_said(dashboard: Dashboard, question: Question) -> None:
    dashboard.say(await question.act())


def _question(dashboard: Dashboard, look: Callable[[], Proposal], proposal: Proposal, key: str) -> Question:
    def again() -> Question | None:
        present = look()
        return _question(dashboard, look, present, key) if present.ids else None

    return Question(
        title=proposal.title,
        lines=proposal.lines,
        yes=proposal.yes,
        act=lambda: carry_out(dashboard.client, look(), key),
        harmful=proposal.harmful,
        typed=proposal.typed,
        again=again,
    )
