"""The cluster's settings: the document there is, and another in its place."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from gpuq.api.answers import answer
from gpuq.api.calls import By
from gpuq.api.schemas import NewSettings, parse
from gpuq.document import document_of, kept_only, read
from gpuq.service.commands import ChangeSettings
from gpuq.service.settings import compare


async def show_settings(call: By) -> Response:
    """The settings, every name; null where nothing is set. kept_only are paths of those that do nothing yet."""
    settings = call.controller.view.settings
    await call.controller.settled()
    return answer({"settings": document_of(settings), "kept_only": kept_only(settings)})


async def change_settings(
    call: By, dry_run: Annotated[bool, Query(description="only say what would change")] = False
) -> Response:
    """Put a whole document in the place of the one there is, and say what changed.

    With a version in it, it is refused if the settings have changed since they had that version.
    """
    settings, based_on = read(parse(NewSettings, call.body).settings)
    command = ChangeSettings(call.actor, settings, based_on)
    if not dry_run:
        return answer(await call.execute(command))
    body = compare(call.controller.view, command)
    await call.controller.settled()
    return answer(body)
