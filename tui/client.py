"""What the dashboard asks of its connection. `gpuq.client.live.LiveClient` is one.

A protocol, so that the first frame is painted before httpx is imported, and tests may bring a client of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class LogPiece(Protocol):
    """A range of a rank's log."""

    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...  # what the controller has
    @property
    def ended(self) -> bool: ...  # no more will come
    @property
    def attempt(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def ranks(self) -> int: ...
    @property
    def data(self) -> bytes: ...


class LogMatches(Protocol):
    @property
    def matches(self) -> Sequence[tuple[int, str]]: ...  # (offset of the line, the line)
    @property
    def next(self) -> int | None: ...
    @property
    def size(self) -> int: ...
    @property
    def searched_to(self) -> int: ...


class Client(Protocol):
    """Every method raises GpuqError; a dashboard's reads never hold each other up."""

    @property
    def latency_seconds(self) -> float | None:
        """Of the last short request."""

    async def snapshot(self, limit: int) -> dict[str, Any]: ...
    async def snapshot_jobs(self, after: str, limit: int) -> dict[str, Any]: ...
    async def changes(self, life: str, after: int, wait: float) -> dict[str, Any]: ...
    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any: ...

    async def post(
        self, path: str, body: Any, request_id: str, method: str = "POST", params: Mapping[str, Any] | None = None
    ) -> Any:
        """Changes something; the same request id again is safe."""

    async def log_range(
        self, job: str, offset: int, limit: int, attempt: int | None = None, rank: int = 0
    ) -> LogPiece: ...

    async def log_search(
        self,
        job: str,
        text: str,
        after: int | None = None,
        before: int | None = None,
        limit: int = 1000,
        attempt: int | None = None,
        rank: int = 0,
        ignore_case: bool = True,
    ) -> LogMatches: ...

    async def close(self) -> None: ...
