"""Users: list, add, change what they may do, disable and enable."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from starlette.responses import Response

from gpuq.api.answers import answer
from gpuq.api.calls import By, Call
from gpuq.api.schemas import Leaving, NewUser, Nothing, Role, parse
from gpuq.model import User
from gpuq.service.commands import AddUser, DisableUser, EnableUser, SetRole, UserCommand
from gpuq.units import format_time

Name = Annotated[str, Path(description="the user's name")]


async def list_users(call: By) -> Response:
    """All users, by name."""
    users = sorted(call.controller.view.users.values(), key=lambda user: user.name)
    body = {"items": [_show(user) for user in users], "next": None}
    await call.controller.settled()
    return answer(body)


def _show(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role,
        "created_at": format_time(user.created_at),
        "disabled_at": format_time(user.disabled_at),
    }


async def add_user(call: By) -> Response:
    """Add a user, who then may be given tokens."""
    asked = parse(NewUser, call.body)
    return await _changed(call, asked.name, AddUser(call.actor, asked.name, asked.role), 201)


async def set_role(call: By, name: Name) -> Response:
    """Change the most that tokens of a user may do; it holds for those there are, at once."""
    return await _changed(call, name, SetRole(call.actor, name, parse(Role, call.body).role))


async def disable_user(call: By, name: Name) -> Response:
    """Revoke a user's tokens. With jobs that have not ended, say what becomes of them. History stays."""
    asked = parse(Leaving, call.body)
    return await _changed(call, name, DisableUser(call.actor, name, asked.cancel_jobs, asked.give_jobs_to))


async def enable_user(call: By, name: Name) -> Response:
    """Let a disabled user have tokens again; those that were revoked stay so."""
    parse(Nothing, call.body)
    return await _changed(call, name, EnableUser(call.actor, name))


async def _changed(call: Call, name: str, command: UserCommand, status: int = 200) -> Response:
    await call.execute(command)
    body = _show(call.controller.view.users[name])
    await call.controller.settled()
    return answer(body, status)
