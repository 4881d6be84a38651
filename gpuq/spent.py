"""GPU-hours of users in the last 30 days, for quotas: from grant to end, counted where an attempt ended.

An attempt counts whole until 30 days after its end, to the hour; one that lives as far as it has come.
"""

from __future__ import annotations

from typing import NamedTuple

from gpuq.model import Attempt, AttemptUid

HOUR_SECONDS = 3_600
WINDOW_HOURS = 30 * 24


class SpentHour(NamedTuple):
    """What attempts of a user that ended in one hour, counted from the epoch, had in whole GPU-seconds."""

    user: str
    hour: int
    gpu_seconds: int


class Spent:
    def __init__(self) -> None:
        self._hours: dict[str, dict[int, int]] = {}  # GPU-seconds by user and hour of the end
        self._live: dict[AttemptUid, tuple[str, int, float]] = {}  # user, GPUs, granted at

    def started(self, attempt: Attempt, user: str) -> None:
        """An attempt lives; repeated calls for one change nothing."""
        gpus = sum(len(rank.gpus) for rank in attempt.ranks)
        if gpus:
            self._live.setdefault(attempt.uid, (user, gpus, attempt.granted_at))

    def ended(self, uid: AttemptUid, at: float) -> None:
        run = self._live.pop(uid, None)
        if run is not None:
            user, gpus, since = run
            self.remember(SpentHour(user, int(at // HOUR_SECONDS), int(gpus * max(0.0, at - since))))

    def remember(self, spent: SpentHour) -> None:
        hours = self._hours.setdefault(spent.user, {})
        hours[spent.hour] = hours.get(spent.hour, 0) + spent.gpu_seconds
        if len(hours) > 2 * WINDOW_HOURS:
            newest = max(hours)
            self._hours[spent.user] = {hour: n for hour, n in hours.items() if hour > newest - WINDOW_HOURS}

    def gpu_hours(self, user: str, at: float) -> float:
        """What a user has had in the 30 days before `at`; walks over what runs, so to be asked once for a decision."""
        oldest = at // HOUR_SECONDS - WINDOW_HOURS
        past = sum(n for hour, n in self._hours.get(user, {}).items() if hour >= oldest)
        live = sum(gpus * max(0.0, at - since) for who, gpus, since in self._live.values() if who == user)
        return (past + live) / HOUR_SECONDS
