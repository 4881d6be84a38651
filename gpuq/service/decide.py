"""decide(view, command, now, policy) -> changes and reply. Pure: reads no clock, store, network or log.

The same function runs in the controller and in the deterministic simulation. A decision is refused by raising one of
gpuq.errors; then nothing has changed.
"""

from __future__ import annotations

from typing import Any

from gpuq.model import Now
from gpuq.service import jobs, nodes, settings, streams, tick, users
from gpuq.service.commands import (
    AddUser,
    Cancel,
    ChangeSettings,
    Command,
    Cordon,
    DisableUser,
    Drain,
    EnableUser,
    EnrolNode,
    Hold,
    OpenStream,
    Release,
    Remark,
    RemoveNode,
    Report,
    Requeue,
    RevokeToken,
    Schedule,
    SetRole,
    Silence,
    StoreOwnersToken,
    StoreToken,
    Submit,
    Tick,
    Uncordon,
    Update,
)
from gpuq.service.draft import Decision, Draft
from gpuq.view import ClusterView, Policy


def decide(view: ClusterView, command: Command, now: Now, policy: Policy) -> Decision:
    draft = Draft(view, now, policy)
    return draft.done(_dispatch(draft, command))


def _dispatch(draft: Draft, command: Command) -> dict[str, Any] | None:
    match command:
        case Submit():
            return jobs.submit(draft, command)
        case Cancel():
            return jobs.cancel(draft, command)
        case Hold():
            return jobs.hold(draft, command)
        case Release():
            return jobs.release(draft, command)
        case Requeue():
            return jobs.requeue(draft, command)
        case Update():
            return jobs.update(draft, command)
        case OpenStream():
            return streams.allow(draft, command)
        case EnrolNode():
            return nodes.enrol(draft, command)
        case Cordon() | Drain() | Uncordon():
            return nodes.cordon(draft, command)
        case RemoveNode():
            return nodes.remove(draft, command)
        case StoreToken():
            return users.store_token(draft, command)
        case StoreOwnersToken():
            return users.store_owners_token(draft, command)
        case RevokeToken():
            return users.revoke_token(draft, command)
        case AddUser():
            return users.add(draft, command)
        case SetRole():
            return users.set_role(draft, command)
        case DisableUser():
            return users.disable(draft, command)
        case EnableUser():
            return users.enable(draft, command)
        case ChangeSettings():
            return settings.change(draft, command)
        case Remark(kind, text):
            draft.event(kind, text)
        case Report():
            nodes.report(draft, command)
        case Silence():
            nodes.silence(draft, command)
        case Tick():
            tick.tick(draft)
        case Schedule():
            return tick.schedule(draft, command)
    return None
