"""How a log comes to the screen: which bytes are asked for next, where a search goes on, what the controller said.

No widget. A reader is for one job, attempt and rank: another choice is another reader, and late answers go to the old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gpuq.errors import GpuqError, Unavailable
from tui.client import Client, LogPiece
from tui.export import cannot_write, new_file
from tui.log_model import CHUNK_BYTES, Ask, LogWindow, MatchWindow
from tui.log_view import LogView

POLL_SECONDS = 1.0  # how often a log that may grow is asked for more, while it is looked at
FAR_BYTES = 4 * CHUNK_BYTES  # further than this from the end, following jumps there instead of loading all between
SAVED_BYTES = 1 << 20  # of one request while saving
MATCHES = 1_000  # lines of one answer


class LogReader:
    """attempt: None for the latest. clock: monotonic seconds; wall: what is noted as the time a line arrived."""

    def __init__(
        self, job: str, clock: Callable[[], float], wall: Callable[[], float], attempt: int | None = None, rank: int = 0
    ) -> None:
        self.job, self.latest, self.rank = job, attempt is None, rank
        self.attempt = attempt  # the one shown, once known
        self.ranks = 1
        self.window = LogWindow()
        self.matches: MatchWindow | None = None
        self.known = False  # the log was found and its first bytes are here
        self.trouble = ""  # why nothing came, in one line
        self.searched = ""  # how far a search is that takes long
        self._clock, self._wall = clock, wall
        self._next_poll = float("-inf")
        self._refused = False  # for a reason that asking again does not change

    async def fetch(self, client: Client, view: LogView) -> bool:
        """Fetches what the view lacks most; False when it lacks nothing at present."""
        if self._refused:
            return False
        try:
            came = await self._fetch(client, view)
            view.settle()
            return came
        except GpuqError as error:
            self.trouble = error.one_line()
            self._refused = not isinstance(error, Unavailable)
            self._next_poll = self._clock() + POLL_SECONDS
            return False

    async def around(self, client: Client, offset: int) -> LogPiece | None:
        """The bytes about this offset, unless they are loaded already; raises GpuqError."""
        if self._has(offset):
            return None
        return await self._range(client, Ask(max(0, offset - CHUNK_BYTES // 4), CHUNK_BYTES))

    def open_at(self, piece: LogPiece | None, offset: int) -> None:
        """Has the window where `around` was asked for; None for where it is."""
        if piece is not None and not self._has(offset):
            self.window.open(piece.offset, piece.data)

    def _has(self, offset: int) -> bool:
        return bool(self.window.lines) and self.window.start <= offset < self.window.end

    async def find(self, client: Client, term: str, start: int, backwards: bool = False) -> int | None:
        """Offset of the first line from `start` on that holds the term, or of the last before it; raises GpuqError."""
        place: int | None = start
        try:
            while place is not None:
                where = {"before": place} if backwards else {"after": place}
                found = await client.log_search(
                    self.job,
                    term,
                    **where,
                    limit=1,
                    attempt=self.attempt,
                    rank=self.rank,
                    ignore_case=ignores_case(term),
                )
                if found.matches:
                    return found.matches[0][0]
                place = found.next
                if place is not None and found.size:
                    share = 100 * place // found.size
                    self.searched = f"searched {100 - share if backwards else share} %"
        finally:
            self.searched = ""
        return None

    async def collect(self, client: Client) -> None:
        """The next page of the lines that match; raises GpuqError."""
        matches = self.matches
        if matches is None or matches.full:
            return
        found = await client.log_search(
            self.job,
            matches.term,
            after=matches.searched_to,
            limit=MATCHES,
            attempt=self.attempt,
            rank=self.rank,
            ignore_case=ignores_case(matches.term),
        )
        matches.take(found.matches, found.searched_to, found.size, done=found.next is None)
        self.window.told(found.size, False)

    async def save(self, client: Client, path: Path, told: Callable[[int, int], None]) -> int:
        """Writes the whole log, as it is now, to a new file, and gives its size; raises GpuqError, and leaves no part.

        told: called with the bytes written and the size as it goes on.
        """
        try:
            file = new_file(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            with file:
                at = 0
                while (piece := await self._range(client, Ask(at, SAVED_BYTES))).data:
                    await asyncio.to_thread(file.write, piece.data)
                    at += len(piece.data)
                    told(at, piece.size)
            return at
        except BaseException as error:
            path.unlink()
            if isinstance(error, OSError):
                raise cannot_write(path, error) from error
            raise

    async def _fetch(self, client: Client, view: LogView) -> bool:
        if view.source is self.matches and self.matches is not None:
            return await self._fetch_matches(client, view, self.matches)
        if not self.known or (view.follow and self.window.size - self.window.end > FAR_BYTES):
            return await self._open_at_end(client)
        ask = self._lacks(view)
        if ask is None:
            if self.window.ended or not self._due():
                return False
            # Further up only the size is asked for: what comes in at the end would push out what is being read.
            below = view.follow or view.near_end()
            ask = Ask(self.window.end, CHUNK_BYTES) if self.window.at_end and below else Ask(self.window.size, 0)
        piece = await self._range(client, ask)
        return self.window.take(piece.offset, piece.data, self._wall() if view.follow else None)

    def _lacks(self, view: LogView) -> Ask | None:
        after, before = self.window.after(), self.window.before()
        if after is not None and (view.follow or view.near_end()):
            return after
        return before if before is not None and view.near_start() else None

    async def _open_at_end(self, client: Client) -> bool:
        if not self.known and not self._due():
            return False
        piece = await self._range(client, Ask(-CHUNK_BYTES, CHUNK_BYTES))
        self.known = piece.attempt > 0
        if self.known:
            self.window.open(piece.offset, piece.data)
        return self.known and bool(piece.data)

    async def _fetch_matches(self, client: Client, view: LogView, matches: MatchWindow) -> bool:
        wants = view.follow or view.near_end()
        if matches.full or not wants or (matches.at_end and not self._due()):
            return False
        before = len(matches.lines), matches.searched_to
        await self.collect(client)
        return before != (len(matches.lines), matches.searched_to)

    def _due(self) -> bool:
        if self._clock() < self._next_poll:
            return False
        self._next_poll = self._clock() + POLL_SECONDS
        return True

    async def _range(self, client: Client, ask: Ask) -> LogPiece:
        piece = await client.log_range(self.job, ask.offset, ask.limit, attempt=self.attempt, rank=self.rank)
        self.trouble = ""
        if piece.attempt:
            self.attempt, self.ranks = piece.attempt, max(1, piece.ranks)
            self.window.told(piece.size, piece.ended)
        return piece


def ignores_case(term: str) -> bool:
    """As in vim and less: a search written without capitals finds either."""
    return term == term.lower()
