"""Decisions on who may do what: users, and the tokens they and nodes have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpuq.changes import PutToken
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import ROLES, Job, User
from gpuq.protocol import Selection
from gpuq.service import jobs
from gpuq.service.commands import (
    Actor,
    AddUser,
    Cancel,
    DisableUser,
    EnableUser,
    RevokeToken,
    SetRole,
    StoreOwnersToken,
    StoreToken,
)
from gpuq.service.draft import Draft
from gpuq.units import format_time, plural

JOIN_SECONDS = 3600.0  # a join token lives so long: it is pasted into terminals, and says nothing of who uses it
_CLOCK_SECONDS = 60.0  # what the clock may have moved on since the token was made


# ---------------------------------------------------------------- tokens


def store_token(draft: Draft, command: StoreToken) -> dict[str, Any]:
    actor, token = command.actor, command.token
    if not actor.admin:
        raise NotAuthorised("only an admin may create tokens")
    if token.role == "node":
        _replace_nodes_token(draft, actor, token)
    elif token.role == "join":
        if token.expires_at is None or token.expires_at > draft.now.wall + JOIN_SECONDS + _CLOCK_SECONDS:
            raise InvalidRequest("a join token lives one hour at most", "make another when it is over")
    else:
        user = _user(draft, token.user)
        if user.disabled_at is not None:
            raise Conflict(f"user {user.name} is disabled", f"first: gpuq user enable {user.name}")
        if user.capped(token.role) != token.role:
            raise Conflict(
                f"user {user.name} has role {user.role}, which a token of role {token.role} would exceed",
                f"first: gpuq user role {user.name} {token.role}",
            )
    _put_new(draft, actor, token)
    return {"id": token.id, "expires_at": format_time(token.expires_at)}


def store_owners_token(draft: Draft, command: StoreOwnersToken) -> dict[str, Any]:
    """Nobody is above who can read the controller's home: its user is made, enabled and raised as need be."""
    token = command.token
    known = draft.view.users.get(token.user) or User(token.user, token.role, draft.now.wall)
    user = replace(known, role=token.role, disabled_at=None)
    if user != draft.view.users.get(token.user):
        draft.put_user(user)
        text = f"{user.name}, with role {user.role}, since the controller runs as this account"
        draft.event("user.added", text, user=user.name)
    _put_new(draft, command.actor, token)
    return {"id": token.id}


def _replace_nodes_token(draft: Draft, actor: Actor, token: PutToken) -> None:
    """A node whose token was lost gets another, and whoever found the old one gets nothing."""
    if token.node is None or draft.node(token.node) is None:
        raise NotFound(f"there is no node {token.node}", "a new node joins with a join token")
    revoke_all(draft, actor, lambda other: other.node == token.node and other.id != token.id)


def _put_new(draft: Draft, actor: Actor, token: PutToken) -> None:
    draft.put_token(token)
    until = "" if token.expires_at is None else f", until {format_time(token.expires_at)}"
    _note(draft, actor, "token.created", f"{_called(token)}{until}")


def revoke_token(draft: Draft, command: RevokeToken) -> dict[str, Any]:
    """By an admin, or by who it belongs to. A node's is its removal's matter, or that of another in its place."""
    actor, token = command.actor, draft.view.tokens.get(command.id)
    if token is None or not (actor.admin or _is_own(actor, token)):
        raise NotFound(f"there is no token {command.id} in use", "gpuq token list shows those there are")
    revoke_all(draft, actor, lambda other: other.id == token.id)
    return {"id": token.id}


def _is_own(actor: Actor, token: PutToken) -> bool:
    return token.user == actor.user and token.node is None


def revoke_all(draft: Draft, actor: Actor, meant: Callable[[PutToken], bool]) -> None:
    """Revokes every token that is meant; their holders are strangers from now on."""
    for token in list(draft.view.tokens.values()):
        if meant(token):
            draft.put_token(replace(token, revoked_at=draft.now.wall))
            _note(draft, actor, "token.revoked", _called(token))


def _called(token: PutToken) -> str:
    whose = f"of node {token.node}" if token.node else f"of {token.user}"
    return f"{token.role} token {token.id} {whose}"


# ---------------------------------------------------------------- users


def add(draft: Draft, command: AddUser) -> dict[str, Any]:
    _check_admin(command.actor)
    known = draft.view.users.get(command.name)
    if known is not None:
        is_so = "and is disabled" if known.disabled_at is not None else f"with role {known.role}"
        verb = "enable" if known.disabled_at is not None else "role"
        raise Conflict(f"there is a user {known.name} already, {is_so}", f"see gpuq user {verb} --help")
    _check_role(command.role)
    draft.put_user(User(command.name, command.role, draft.now.wall))
    _note(draft, command.actor, "user.added", f"{command.name}, with role {command.role}")
    return {"name": command.name}


def set_role(draft: Draft, command: SetRole) -> dict[str, Any]:
    _check_admin(command.actor)
    user = _user(draft, command.name)
    _check_role(command.role)
    if user.name == command.actor.user and command.role != "admin":
        raise Conflict("this would take your own rights away", "have another admin do it")
    if user.role != command.role:
        draft.put_user(replace(user, role=command.role))
        _note(draft, command.actor, "user.role", f"{user.name}, from {user.role} to {command.role}")
        if user.role == "admin":  # a join token adds nodes by the right of who made it
            revoke_all(draft, command.actor, lambda token: token.user == user.name and token.role == "join")
    return {"name": user.name}


def disable(draft: Draft, command: DisableUser) -> dict[str, Any]:
    """Revokes what the user has of tokens, and ends or gives away what the user has of jobs. History stays."""
    actor = command.actor
    _check_admin(actor)
    user = _user(draft, command.name)
    if user.name == actor.user:
        raise Conflict("you cannot disable yourself", "have another admin do it")
    live = [job for job in draft.view.live_jobs() if job.user == user.name]
    if live and not command.cancel_jobs and command.give_jobs_to is None:
        count = len({job.number for job in live})
        raise Conflict(
            f"user {user.name} has {count} {plural(count, 'job')} that {'has' if count == 1 else 'have'} not ended",
            "say --cancel-jobs or --give-jobs-to USER",
        )
    if command.cancel_jobs and command.give_jobs_to is not None:
        raise InvalidRequest("cancel_jobs and give_jobs_to exclude each other")
    if command.cancel_jobs and live:
        jobs.cancel(draft, Cancel(actor, Selection(user=user.name)))
    elif command.give_jobs_to is not None:
        _give(draft, live, user, _user(draft, command.give_jobs_to))
    if user.disabled_at is None:
        draft.put_user(replace(user, disabled_at=draft.now.wall))
        became = "canceled" if command.cancel_jobs else f"given to {command.give_jobs_to}"
        _note(draft, actor, "user.disabled", user.name + (f", jobs {became}" if live else ""))
        revoke_all(draft, actor, lambda token: token.user == user.name and token.node is None)
    return {"name": user.name}


def _give(draft: Draft, live: list[Job], user: User, heir: User) -> None:
    if heir.disabled_at is not None or heir.name == user.name:
        raise Conflict(f"jobs of {user.name} cannot be given to {heir.name}", "name a user who is not disabled")
    for job in live:
        own_hold = job.held_by == user.name  # else nobody but an admin could release it any more
        draft.give_job(replace(job, held_by=heir.name) if own_hold else job, heir.name)


def enable(draft: Draft, command: EnableUser) -> dict[str, Any]:
    _check_admin(command.actor)
    user = _user(draft, command.name)
    if user.disabled_at is not None:
        draft.put_user(replace(user, disabled_at=None))
        _note(draft, command.actor, "user.enabled", user.name)
    return {"name": user.name}


def _user(draft: Draft, name: str) -> User:
    user = draft.view.users.get(name)
    if user is None:
        raise NotFound(f"there is no user {name}", f"gpuq user add {name}")
    return user


def _check_admin(actor: Actor) -> None:
    if not actor.admin:
        raise NotAuthorised("only an admin may add or change users")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidRequest(f"'{role}' is not a user's role", f"one of {', '.join(ROLES)}")


def _note(draft: Draft, actor: Actor, kind: str, text: str) -> None:
    draft.event(kind, text, user=actor.user, address=actor.address)
