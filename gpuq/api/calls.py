"""What a handler is given: who asks, with which body, and the controller to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from gpuq.api.answers import Fragments
from gpuq.api.auth import Tokens
from gpuq.api.follow import Follow
from gpuq.service.commands import Actor, UserCommand
from gpuq.service.live import LiveController
from gpuq.settings import Visibility
from gpuq.store.logfiles import LogFiles

LOG_WRITES = 4  # of some twenty threads; a disk gains nothing by more


@dataclass(slots=True)
class LogUse:
    """What logs and the daemon's own take of the disk, when last looked at; None: not yet."""

    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The one controller this process serves. url is what clients are told; ca_key seeds derived secrets."""

    controller: LiveController
    logs: LogFiles
    tokens: Tokens
    follow: Follow
    cluster_id: str
    url: str
    ca_pem: str
    ca_sha256: str
    ca_key: bytes
    describe: Callable[[], dict[str, Any]]  # the OpenAPI document
    fragments: Fragments = field(default_factory=Fragments)
    log_use: LogUse = field(default_factory=LogUse)
    # Log writes at once: they wait for the disk in threads, of which there must be some left for everything else.
    log_writes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOG_WRITES))


Judge = Callable[[], Actor]

NOBODY = Actor(user="", role="open")  # who calls a route that needs no token


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in. body is empty for reads.

    request_id and asked, a digest of what is asked, are set on every mutation by a user. judge says who the caller is
    by now: it raises NotAuthorised where the token does not stand for as much any more.
    """

    site: Site
    actor: Actor
    judge: Judge
    body: bytes = b""
    request_id: str = ""
    asked: str = ""

    @property
    def controller(self) -> LiveController:
        return self.site.controller

    async def execute(self, command: UserCommand) -> dict[str, Any]:
        """The durable answer, under this call's request id; raises gpuq.errors."""
        return await self.controller.execute(command, self.request_id, self.asked)

    def owns(self, user: str) -> bool:
        """Whether the caller sees what the owner and admins see of `user`'s jobs: with visibility open, everyone."""
        visibility = self.controller.view.settings.cluster.visibility
        return self.actor.admin or self.actor.user == user or visibility is Visibility.OPEN


CALL_KEY = "gpuq.call"  # where the gate leaves the Call in the ASGI scope


async def _call_of(request: Request) -> Call:
    call: Call = request.scope[CALL_KEY]
    return call


By = Annotated[Call, Depends(_call_of)]
