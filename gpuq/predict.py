"""How long jobs run and who used how much, learned from the runs of this cluster alone.

Both are estimates for the order of the queue and for people; nothing is ever stopped because of them. What is long
past counts less: each figure halves in a week without news.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuq.model import AttemptUid, Job, Kind, PastRun

HALF_LIFE_SECONDS = 7 * 86_400.0
FIRST_GUESS_SECONDS = 7_200.0  # before anything has run: wrong, but soon outweighed
# How many ends of a kind it takes until they weigh as much as what is known of all jobs of that size.
PRIOR_ENDS = 1.0
KEPT = 20_000  # tallies: about 4 MB; the longest untouched are forgotten first


def _faded(seconds: float) -> float:
    """What is left of a weight after so long."""
    return math.pow(0.5, max(0.0, seconds) / HALF_LIFE_SECONDS)


@dataclass(slots=True)
class _Tally:
    """Seconds that runs of a kind took, and how many of them ended; both as of `at`, older ones decayed."""

    at: float
    seconds: float = 0.0
    ends: float = 0.0
    running: int = 0
    started_ms: int = 0  # the sum over those that run now; whole, so that their order does not matter

    def decay(self, at: float) -> None:
        if at > self.at:
            factor = _faded(at - self.at)
            self.seconds *= factor
            self.ends *= factor
            self.at = at

    def corrects(self, guess: float, at: float) -> float:
        """A guess, corrected by the seconds spent so far, those of runs that have not ended included, and the ends."""
        faded = _faded(at - self.at)
        spent = self.seconds * faded + max(0.0, self.running * at - self.started_ms / 1e3)
        return (spent + PRIOR_ENDS * guess) / (self.ends * faded + PRIOR_ENDS)


@dataclass(frozen=True, slots=True)
class _Run:
    kind: Kind
    batch: int
    at: float


_Level = tuple[object, ...]


class RunTimes:
    """Expected run times, by four levels that each correct the one before: all jobs, those of the size, of the kind,
    of the kind and batch.

    On each level it is the time that its runs took, over how many came to their end. So siblings that still run count
    too: a sweep of which nothing has ended after an hour is expected to take longer than an hour.
    """

    def __init__(self) -> None:
        self._tallies: dict[_Level, _Tally] = {}
        self._runs: dict[AttemptUid, _Run] = {}
        self._memo: dict[_Level, float] = {}  # what each level says, as of `_memo_at`
        self._memo_at = 0.0

    def started(self, uid: AttemptUid, job: Job, at: float) -> None:
        """A run has begun; repeated calls for one change nothing."""
        if uid in self._runs:
            return
        self._memo.clear()
        run = self._runs[uid] = _Run(job.kind, job.batch, at)
        for level in _levels(run.kind, run.batch):
            tally = self._tally(level, at)
            tally.running += 1
            tally.started_ms += round(at * 1e3)

    def ended(self, uid: AttemptUid, at: float, whole: bool = True) -> None:
        """A run is over; whole: because the work was done, or failed, and not because it was given up."""
        run = self._runs.pop(uid, None)
        if run is None:
            return
        self._memo.clear()
        for level in _levels(run.kind, run.batch):
            tally = self._tally(level, at)
            tally.running -= 1
            tally.started_ms -= round(run.at * 1e3)
        self.remember(PastRun(run.kind, run.batch, run.at, at, whole))

    def remember(self, run: PastRun) -> None:
        """A run of which only the end was seen; to be told in the order of ends."""
        self._memo.clear()
        for level in _levels(run.kind, run.batch):
            tally = self._tally(level, run.ended_at)
            tally.decay(run.ended_at)
            tally.seconds += max(0.0, run.ended_at - run.granted_at)
            tally.ends += run.whole

    def expected(self, kind: Kind, batch: int, at: float) -> float:
        """Seconds that a job of this kind and batch is expected to run, or to run on, whatever it has run so far."""
        memo = self._memo
        if at != self._memo_at:
            memo.clear()
            self._memo_at = at
        found = memo.get((kind, batch))
        if found is None:
            of_kind = memo.get((kind,))
            if of_kind is None:
                of_kind = memo[kind,] = self._of_kind(kind, at)
            said = self._corrected((kind, batch), of_kind, at)
            found = memo[kind, batch] = float(round(said))  # whole: sums in another order come to the same
        return found

    def _of_kind(self, kind: Kind, at: float) -> float:
        """What all levels but the narrowest say; those that many share are worked out once for one instant."""
        size = (kind.gpus,)
        of_size = self._memo.get(size)
        if of_size is None:
            of_size = self._memo[size] = self._corrected(size, self._corrected((), FIRST_GUESS_SECONDS, at), at)
        return self._corrected((kind,), of_size, at)

    def typical(self, at: float) -> float:
        """Seconds that a run takes on average, whatever it is."""
        return float(round(self._corrected((), FIRST_GUESS_SECONDS, at)))

    def left(self, uid: AttemptUid, at: float) -> float:
        """Seconds that a run is expected to go on."""
        run = self._runs.get(uid)
        return FIRST_GUESS_SECONDS if run is None else self.expected(run.kind, run.batch, at)

    def _corrected(self, level: _Level, guess: float, at: float) -> float:
        tally = self._tallies.get(level)
        return guess if tally is None else tally.corrects(guess, at)

    def _tally(self, level: _Level, at: float) -> _Tally:
        tally = self._tallies.pop(level, None) or _Tally(at)
        self._tallies[level] = tally  # the dictionary's order is that of the last news
        if len(self._tallies) > KEPT:
            self._forget()
        return tally

    def _forget(self) -> None:
        old = [level for level, tally in self._tallies.items() if not tally.running]
        for level in old[: KEPT // 10]:
            del self._tallies[level]


def _levels(kind: Kind, batch: int) -> tuple[_Level, ...]:
    return (), (kind.gpus,), (kind,), (kind, batch)


class Usage:
    """GPU-seconds by user, decayed."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[float, float]] = {}  # GPU-seconds, as of when
        self._holding: dict[str, tuple[int, float]] = {}  # GPUs now, and the sum of GPUs x start
        self._runs: dict[AttemptUid, tuple[str, int, float]] = {}

    def started(self, uid: AttemptUid, job: Job, at: float) -> None:
        if uid in self._runs or not job.request.gpus:
            return
        gpus = job.request.gpus
        self._runs[uid] = job.user, gpus, at
        held, begun = self._holding.get(job.user, (0, 0.0))
        self._holding[job.user] = held + gpus, begun + gpus * at

    def ended(self, uid: AttemptUid, at: float) -> None:
        run = self._runs.pop(uid, None)
        if run is None:
            return
        user, gpus, start = run
        held, begun = self._holding[user]
        self._holding[user] = held - gpus, begun - gpus * start
        if held == gpus:
            del self._holding[user]
        self._add(user, gpus * max(0.0, at - start), at)

    def remember(self, run: PastRun) -> None:
        """A run of which only the end was seen; to be told in the order of ends."""
        self._add(run.kind.user, run.kind.gpus * max(0.0, run.ended_at - run.granted_at), run.ended_at)

    def of(self, user: str, at: float) -> float:
        """GPU-seconds a user has had, what runs now included, halved for each week that has passed."""
        held, begun = self._holding.get(user, (0, 0.0))
        return self._past(user, at) + max(0.0, held * at - begun)

    def _add(self, user: str, gpu_seconds: float, at: float) -> None:
        if gpu_seconds:
            self._used[user] = self._past(user, at) + gpu_seconds, at

    def _past(self, user: str, at: float) -> float:
        seconds, since = self._used.get(user, (0.0, at))
        return seconds * _faded(at - since)
