"""Whether the controller still listens to this agent. Pure.

It ignores an agent whose incarnation is lower than one it has heard of, which is right for a late message of a
predecessor. Where an agent's state was lost and its clock went back, its own incarnation is too low, and it would never
be heard again: then it is to start a new one above that.
"""

from __future__ import annotations

from gpuq.protocol import SyncReply

# In a row; twice as many after each time, so that two agents under one name do not chase each other.
OUTDONE_ANSWERS = 3


class Standing:
    """What answers say of that."""

    def __init__(self) -> None:
        self._outdone = 0  # answers in a row that only said so
        self._limit = OUTDONE_ANSWERS
        self._known = 0

    def answered(self, reply: SyncReply, incarnation: int, sequence: int) -> int | None:
        """Takes an answer; incarnation and sequence are of the newest request made.

        Returns the incarnation to exceed, when it is time for that.
        """
        if not reply.superseded:
            self._outdone = 0
        elif (reply.incarnation, reply.sequence) == (incarnation, sequence):
            # No other request of this incarnation can have superseded its newest.
            self._outdone += 1
            self._known = max(self._known, reply.known_incarnation)
        if self._outdone < self._limit:
            return None
        self._outdone = 0
        self._limit *= 2
        return max(self._known, incarnation)
