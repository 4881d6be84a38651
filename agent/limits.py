"""When a run is warned and ended because its time is up: that of its limit, or of its lease. Pure.

Standard library only. All times are seconds of CLOCK_BOOTTIME, which goes on through a suspend.
"""

from __future__ import annotations

LEASE_POLL_SECONDS = 1.0  # poll() sleeps through a suspend, the clock does not: a lease is looked at this often


class Limits:
    """seconds: the time limit, None without one; before: how long before it the job is warned, None if it is not.

    lease: until when the run may last unless that is extended; None: for ever.
    """

    def __init__(self, seconds: float | None, before: int | None, lease: float | None) -> None:
        self._seconds, self._before, self._lease = seconds, before, lease
        self._limit_at: float | None = None
        self._warn_at: float | None = None

    @property
    def leased(self) -> bool:
        return self._lease is not None

    def begin(self, now: float) -> None:
        """The run begins, with its set-up lines: what the job holds is promised to others for the end of its limit."""
        if self._seconds is not None:
            self._limit_at = now + self._seconds

    def running(self) -> None:
        """The job itself runs, and may be warned."""
        if self._limit_at is not None and self._before is not None:
            self._warn_at = max(0.0, self._limit_at - self._before)

    def main_ended(self) -> None:
        """The time limit is kept; the lease holds on for what the job has left."""
        self._limit_at = self._warn_at = None

    def all_ended(self) -> None:
        self._lease = None

    def extend(self, lease: float) -> None:
        if self._lease is not None:  # a late one must not shorten it, none revives an ended one
            self._lease = max(self._lease, lease)

    def warning_is_due(self, now: float) -> bool:
        """Once."""
        if self._warn_at is None or now < self._warn_at:
            return False
        self._warn_at = None
        return True

    def over(self, now: float) -> list[str]:
        """What is over by now, as kinds of stops; each is told once."""
        kinds = []
        if self._limit_at is not None and now >= self._limit_at:
            self._limit_at = None
            kinds.append("time_limit")
        if self._lease is not None and now >= self._lease:
            self._lease = None
            kinds.append("fence")
        return kinds

    def wait(self, now: float) -> float | None:
        """Seconds until something of this is due; None: nothing is."""
        times = [at - now for at in (self._warn_at, self._limit_at, self._lease) if at is not None]
        if self._lease is not None:
            times.append(LEASE_POLL_SECONDS)
        return min(times) if times else None
