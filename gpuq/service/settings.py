"""Decisions on the cluster's settings: who may change them, against which version, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpuq.document import differences, kept_only
from gpuq.errors import Conflict, NotAuthorised
from gpuq.service.commands import ChangeSettings
from gpuq.service.draft import Draft
from gpuq.view import ClusterView

MAX_TEXT = 2_000  # characters of the event: a document may hold megabytes, and every reader of events gets them


def change(draft: Draft, command: ChangeSettings) -> dict[str, Any]:
    """Puts all the settings asked for in the place of those there are. Where they are the same, nothing happens."""
    reply = compare(draft.view, command)
    if reply["changes"]:
        draft.put_settings(replace(command.settings, version=reply["version"]))
        text = "; ".join(each["text"] for each in reply["changes"])[:MAX_TEXT]
        draft.event("settings.changed", text, user=command.actor.user, address=command.actor.address)
    return reply


def compare(view: ClusterView, command: ChangeSettings) -> dict[str, Any]:
    """What `change` would answer, and refuse, now."""
    if not command.actor.admin:
        raise NotAuthorised("only an admin may change the cluster's settings")
    old, new = view.settings, command.settings
    changed = differences(old, new)
    if changed and command.based_on not in (None, old.version):
        raise Conflict(
            f"the settings were changed since version {command.based_on}, which this document is of: they are at"
            f" {old.version} now",
            "take `gpuq config show` again, and change that",
        )
    return {
        "from_version": old.version,
        "version": old.version + 1 if changed else old.version,
        "changes": [
            {"path": each.path, "before": each.before, "after": each.after, "text": str(each)} for each in changed
        ],
        "kept_only": kept_only(new),
    }
