"""How what a job has started is ended: left alone a moment, asked, then killed until nothing is left. Standard library.

That it has ended is not decided here: only wait4 knows when no process is left.
"""

from __future__ import annotations

from agent.process_tree import kill_tree
from agent.run_cgroup import RunCgroup

# Between the main process' end and SIGTERM to what it left: a `tee` at the end of a pipe writes its last lines then.
SETTLE_SECONDS = 0.5


class TreeEnd:
    """When all below one process, root, is asked and killed, with all that is in its control groups.

    Times are seconds of CLOCK_BOOTTIME.
    """

    def __init__(self, root: int, cgroup: RunCgroup) -> None:
        self._root, self._cgroup = root, cgroup
        self._settled_at: float | None = None
        self._kill_at: float | None = None

    @property
    def begun(self) -> bool:
        return self._kill_at is not None

    def settle(self, now: float) -> None:
        """The main process has ended: what it left has a moment to do so by itself."""
        self._settled_at = now + SETTLE_SECONDS

    def begin(self, now: float, grace: float) -> bool:
        """SIGKILL is due in grace seconds; asked again, it can only become sooner. False if it had begun."""
        at, before = now + max(0.0, grace), self._kill_at
        self._settled_at = None
        self._kill_at = at if before is None else min(before, at)
        return before is None

    def is_due(self, now: float) -> bool:
        """Whether the moment is over, and it has to begin."""
        return self._settled_at is not None and now >= self._settled_at

    def kill_if_due(self, now: float) -> None:
        if self._kill_at is not None and now >= self._kill_at:
            self._cgroup.kill()
            kill_tree(self._root)

    def wait(self, now: float) -> float | None:
        """Seconds until something of this is due; None: nothing is."""
        if self._settled_at is not None:
            return self._settled_at - now
        if self._kill_at is None or now < self._kill_at:
            return None if self._kill_at is None else self._kill_at - now
        return min(1.0, 0.01 + (now - self._kill_at) / 4)  # another round, for what was forked during the last one
