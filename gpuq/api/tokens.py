"""Tokens: make, list, revoke."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Path, Query
from starlette.responses import Response

from gpuq.api.answers import answer
from gpuq.api.auth import derived_secret, new_token
from gpuq.api.calls import By, Call
from gpuq.api.schemas import NewToken, Nothing, parse
from gpuq.changes import PutToken
from gpuq.errors import InvalidRequest, NotFound
from gpuq.model import NodeName
from gpuq.service.commands import RevokeToken, StoreToken
from gpuq.service.users import JOIN_SECONDS
from gpuq.store import tokens as stored
from gpuq.units import format_time


async def create_token(call: By) -> Response:
    """Make a token; its text is in the answer and nowhere else."""
    asked = parse(NewToken, call.body)
    role, user = _role_and_user(call, asked)
    if (role == "node") != (asked.node is not None):
        raise InvalidRequest("node: is for tokens of role node, which need it")
    if role == "node" and asked.expires_seconds is not None:
        raise InvalidRequest("expires_seconds: a node's token does not expire")
    site, now = call.site, time.time()
    seconds = asked.expires_seconds or (JOIN_SECONDS if role == "join" else None)
    text, record = new_token(
        role,
        user,
        site.ca_sha256,
        now,
        node=None if asked.node is None else NodeName(asked.node),
        secret=derived_secret(site.ca_key, f"token {call.actor.user}", call.request_id),
        expires_at=None if seconds is None else now + seconds,
    )
    reply = await call.execute(StoreToken(call.actor, record))
    shown = {"id": reply["id"], "role": role, "user": user, "node": asked.node, "expires_at": reply["expires_at"]}
    return answer({**shown, "token": text, "url": site.url}, 201)


def _role_and_user(call: Call, asked: NewToken) -> tuple[str, str]:
    """Raises where one is asked for that does not go with the other."""
    if asked.role in ("node", "join"):
        if asked.user is not None:
            raise InvalidRequest(f"user: a {asked.role} token belongs to nobody")
        return asked.role, call.actor.user
    name = asked.user or call.actor.user
    user = call.controller.view.users.get(name)
    if user is None:
        raise NotFound(f"there is no user {name}", f"gpuq user add {name}")
    return asked.role or user.role, name


async def list_tokens(
    call: By, all: Annotated[bool, Query(description="those that were revoked or have expired too")] = False
) -> Response:
    """Tokens, oldest first: an admin sees everyone's, others their own. What they are is shown, never their text."""
    found = [token for token in stored.every(call.controller.store.reader) if _may_see(call, token)]
    now = time.time()
    shown = [_show(token, now) for token in found]
    await call.controller.settled()
    return answer({"items": [token for token in shown if all or token["state"] == "good"], "next": None})


def _may_see(call: Call, token: PutToken) -> bool:
    return call.actor.admin or (token.user == call.actor.user and token.node is None)


def _show(token: PutToken, now: float) -> dict[str, Any]:
    expired = token.expires_at is not None and token.expires_at <= now
    return {
        "id": token.id,
        "role": token.role,
        "user": token.user,
        "node": token.node,
        "state": "revoked" if token.revoked_at is not None else "expired" if expired else "good",
        "created_at": format_time(token.created_at),
        "expires_at": format_time(token.expires_at),
        "revoked_at": format_time(token.revoked_at),
    }


async def revoke_token(call: By, id: Annotated[str, Path(description="the token's id, as lists show it")]) -> Response:
    """Revoke a token, at once. Everyone may revoke their own."""
    parse(Nothing, call.body)
    return answer(await call.execute(RevokeToken(call.actor, id)))
