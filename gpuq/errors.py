"""Everything that can go wrong between a user and gpuq, as one tree.

    GpuqError
    ├── InvalidRequest   400  the request itself is wrong; the same request never works
    ├── NotAuthorised    403  who you are may not do this
    │   └── NotAuthenticated  401  nobody knows who you are
    │       └── TooManyFailures  429  nor did anybody the last times, so wait before you try again
    ├── NotFound         404  no such job, node, log
    ├── Conflict         409  right request, wrong moment: the thing is in another state
    ├── Incompatible     426  the two ends speak different protocol versions
    └── Unavailable      503  not now; after a write it means 'unknown', so repeat with the same request id
        ├── NoSpace       -   the controller's disk is full: surely nothing was changed (also 503)
        └── Unreachable   -   the client never got through (made on the client's side only)

Each class fixes its code, HTTP status, exit status and whether repeating helps. The API turns them into one JSON
shape (`to_json`), the client turns that back (`from_json`), the command line prints `one_line`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class GpuqError(Exception):
    """A failure a person can act on: what failed, why, and what to do.

    message says what failed and why, in one line; hint, when there is one, says what to do next.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    retry_helps: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def one_line(self) -> str:
        """The message and hint on a single line, free of control characters, whatever they were made from."""
        text = f"{self.message}: {self.hint}" if self.hint else self.message
        return "".join(c if c.isprintable() else " " for c in text)

    def to_json(self) -> dict[str, object]:
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint, "retry": self.retry_helps}}


class InvalidRequest(GpuqError):
    code = "invalid_request"
    http_status = 400
    exit_status = 2


class NotAuthorised(GpuqError):
    code = "not_authorised"
    http_status = 403
    exit_status = 4


class NotAuthenticated(NotAuthorised):
    code = "not_authenticated"
    http_status = 401


class TooManyFailures(NotAuthenticated):
    code = "too_many_failures"
    http_status = 429
    seconds: int | None = None  # to wait; for the Retry-After header

    @classmethod
    def for_seconds(cls, seconds: float) -> TooManyFailures:
        """The text is always the same: who asks again and again should not log it each time."""
        error = cls("too many tokens from this address were refused", "wait; a good token is let in at once")
        error.seconds = int(seconds) + 1
        return error


class NotFound(GpuqError):
    code = "not_found"
    http_status = 404
    exit_status = 3


class Conflict(GpuqError):
    code = "conflict"
    http_status = 409


class Incompatible(GpuqError):
    code = "incompatible"
    http_status = 426


class Unavailable(GpuqError):
    code = "unavailable"
    http_status = 503
    retry_helps = True


class NoSpace(Unavailable):
    code = "no_space"


class Unreachable(Unavailable):
    code = "unreachable"
    exit_status = 5


_BY_CODE: dict[str, type[GpuqError]] = {
    cls.code: cls
    for cls in (
        InvalidRequest,
        NotAuthorised,
        NotAuthenticated,
        TooManyFailures,
        NotFound,
        Conflict,
        Incompatible,
        Unavailable,
        NoSpace,
    )
}
# Reversed, so that of two classes with one status the more general, named first above, stands for it.
_BY_STATUS: dict[int, type[GpuqError]] = {cls.http_status: cls for cls in reversed(_BY_CODE.values())}


def from_json(status: int, body: object) -> GpuqError:
    """The error an HTTP answer stands for; an answer that is not gpuq's becomes the nearest class by its status.

    A status above 499 without gpuq's shape is Unavailable: something stood between, and repeating may help.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        cls = _BY_CODE.get(str(error.get("code")), _BY_STATUS.get(status, GpuqError))
        return cls(str(error.get("message", "")), str(error.get("hint", "")))
    fallback = Unavailable if status >= 500 else InvalidRequest
    return _BY_STATUS.get(status, fallback)(f"the controller answered HTTP {status}")
