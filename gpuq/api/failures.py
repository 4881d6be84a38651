"""Every failure as gpuq's one JSON shape: our own errors, pydantic's, and what nobody expected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from gpuq.api.answers import json_bytes
from gpuq.errors import GpuqError, InvalidRequest, NotAuthenticated, TooManyFailures

_SHOWN = 40  # characters of a refused value: enough to recognise it, too little to fill a terminal


class MethodNotAllowed(InvalidRequest):
    """A path that exists, asked in a way it does not take."""

    http_status = 405
    allowed = ""  # methods, for the Allow header

    @classmethod
    def at(cls, path: str, method: str, allowed: Sequence[str]) -> MethodNotAllowed:
        error = cls(f"{method} is not for {path}", f"it takes {', '.join(allowed)}")
        error.allowed = ", ".join(allowed)
        return error


def refusal(error: GpuqError) -> Response:
    # What was refused is quoted in the line, so it may hold anything; a terminal will show it.
    shown = type(error)(_printable(error.message), _printable(error.hint))
    headers = {"www-authenticate": "Bearer"} if isinstance(error, NotAuthenticated) else {}
    if isinstance(error, TooManyFailures) and error.seconds is not None:
        headers["retry-after"] = str(error.seconds)
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allowed
    return Response(json_bytes(shown.to_json()), error.http_status, headers, "application/json")


def unexpected() -> Response:
    """For a defect of ours: its traceback is in the controller's log and nowhere else."""
    return refusal(GpuqError("the controller failed on this request", "its log has the details"))


def invalid(error: ValidationError | RequestValidationError, forms: Mapping[str, str]) -> InvalidRequest:
    """The first thing wrong, as one line that names the field. forms puts patterns into words."""
    first: Mapping[str, Any] = (
        error.errors()[0] if isinstance(error, RequestValidationError) else error.errors(include_url=False)[0]
    )
    if first["type"] == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}")
    return InvalidRequest(_line(_where(first["loc"]), first, forms))


def _where(path: Sequence[str | int]) -> str:
    """'dependencies[2].job' of ('dependencies', 2, 'job'); FastAPI's 'query' and 'path' in front say nothing."""
    text = ""
    for step in path[1:] if path and path[0] in ("query", "path") else path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text[:_SHOWN]


def _line(where: str, first: Mapping[str, Any], forms: Mapping[str, str]) -> str:
    kind, given = first["type"], first.get("input")
    limits: Mapping[str, Any] = first.get("ctx", {})
    if not where:
        return "the body must be a JSON object"
    if kind == "extra_forbidden":
        return f"there is no field '{where}'"
    if kind == "missing":
        return f"{where}: is missing"
    if kind == "string_pattern_mismatch":
        pattern = str(limits.get("pattern"))
        return f"{where}: {_quoted(given)} {forms.get(pattern, 'must have the form ' + pattern)}"
    for word, phrase in (("ge", "at least"), ("le", "at most")):
        if word in limits:
            return f"{where}: must be {phrase} {limits[word]}, not {_quoted(given)}"
    if kind == "string_too_long":
        return f"{where}: must have at most {limits['max_length']} characters"
    # pydantic's 'Input should be a valid integer' or 'Field required', without its capital.
    text = str(first["msg"])
    text = text.removeprefix("Input should be ")
    said = f"must be {text}" if text != first["msg"] else text[:1].lower() + text[1:]
    shown = f", not {_quoted(given)}" if isinstance(given, str | int | float | None) else ""
    return f"{where}: {said}{shown}"


def _quoted(given: object) -> str:
    if not isinstance(given, str):
        return json.dumps(given)[:_SHOWN]
    cut = given if len(given) <= _SHOWN else given[: _SHOWN - 1] + "…"
    return f"'{cut}'"


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
