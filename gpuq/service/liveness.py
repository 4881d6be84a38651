"""How long each node has been silent, on the controller's monotonic clock. Volatile: nothing here is ever stored."""

from __future__ import annotations

from collections.abc import Collection

from gpuq.model import NodeName
from gpuq.states import NodeState
from gpuq.view import Policy

STALL_SECONDS = 5.0  # a gap between two ticks, due every second, that means the controller itself was not running


class Liveness:
    """Who was heard when. Times are monotonic seconds of the controller.

    A controller that has just started, or was stalled itself, cannot tell silence from its own absence: it gives
    everyone a full grace.
    """

    def __init__(self, policy: Policy, started_at: float) -> None:
        self.policy = policy  # replaced when the cluster's settings change
        self._grace_from = self._last_tick = self.now = started_at
        self._heard: dict[NodeName, float] = {}
        self._named: dict[NodeName, float] = {}  # when a node was first part of the cluster, in this life
        self.unexplained: set[NodeName] = set()  # hold attempts that are not on record here
        self._declared: set[NodeName] = set()

    def heard(self, name: NodeName, at: float, explained: bool = True) -> None:
        """explained: everything the node holds is on record here. If not, nobody knows which of its GPUs are free."""
        (self.unexplained.discard if explained else self.unexplained.add)(name)
        self._heard[name] = max(at, self._heard.get(name, at))
        self._declared.discard(name)

    def state(self, name: NodeName) -> NodeState:
        """As of the last tick or `now`; a node not heard in this life is suspect, then lost, never up."""
        heard = self._heard.get(name)
        silent = self.now - max(self._named.get(name, self.now) if heard is None else heard, self._grace_from)
        if silent >= self.policy.lost_after:
            return NodeState.LOST
        if heard is None or self.now - heard >= self.policy.suspect_after or name in self.unexplained:
            return NodeState.SUSPECT
        return NodeState.UP

    def pause(self, now: float) -> None:
        """In place of a tick while the controller cannot take reports: nobody's silence counts."""
        self._grace_from = self._last_tick = self.now = now

    def newly_lost(self, names: Collection[NodeName], now: float) -> list[NodeName]:
        """Nodes whose silence has just passed lost_after; each is named once until it is heard again."""
        if now - self._last_tick > STALL_SECONDS:
            self._grace_from = now
        self._last_tick = self.now = now
        for name in names:
            self._named.setdefault(name, now)
        lost = [name for name in names if name not in self._declared and self.state(name) is NodeState.LOST]
        self._declared.update(lost)
        return lost
