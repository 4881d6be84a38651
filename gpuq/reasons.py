"""Why a queued job waits: the codes that programs see, and the text for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class WaitCode(str, Enum):
    HELD = "held"
    DEPENDENCY = "dependency"
    BEGIN = "begin"
    BACKOFF = "backoff"
    NO_NODES = "no_nodes"
    ACCOUNT = "account"  # no node present runs jobs of its user
    TOO_LARGE = "too_large"  # no node present could ever meet it
    RESOURCES = "resources"
    PREEMPTING = "preempting"  # others were stopped to make room for it, and are on their way out
    RESERVED = "reserved"  # it fits now, in room that is kept for another
    BEHIND = "behind"
    ARRAY_LIMIT = "array_limit"
    QUOTA = "quota"  # its user has as much as they may
    PLACING = "placing"  # it fits now and starts with the next plan


@dataclass(frozen=True, slots=True)
class WaitReason:
    """Why a queued job waits, from the same checks that place jobs."""

    code: WaitCode
    text: str
