"""Decisions on who may do what: tokens."""

from __future__ import annotations

from typing import Any

from gpuq.errors import NotAuthorised
from gpuq.service.commands import StoreToken
from gpuq.service.draft import Draft


def store_token(draft: Draft, command: StoreToken) -> dict[str, Any]:
    if not command.actor.admin:
        raise NotAuthorised("only an admin may create or revoke tokens")
    draft.put_token(command.token)
    verb = "token.created" if command.token.revoked_at is None else "token.revoked"
    draft.event(verb, f"{command.token.role} token {command.token.id}", user=command.token.user)
    return {"id": command.token.id}
