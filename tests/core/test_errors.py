from __future__ import annotations

import pytest

from gpuq.errors import (
    Conflict,
    GpuqError,
    Incompatible,
    InvalidRequest,
    NotAuthenticated,
    NotAuthorised,
    NotFound,
    Unavailable,
    Unreachable,
    from_json,
)

# class, code, HTTP status, exit status, whether a retry helps
TABLE = [
    (InvalidRequest, "invalid_request", 400, 2, False),
    (NotAuthenticated, "not_authenticated", 401, 4, False),
    (NotAuthorised, "not_authorised", 403, 4, False),
    (NotFound, "not_found", 404, 3, False),
    (Conflict, "conflict", 409, 1, False),
    (Incompatible, "incompatible", 426, 1, False),
    (Unavailable, "unavailable", 503, 1, True),
]


@pytest.mark.parametrize(("cls", "code", "status", "exit_status", "retry"), TABLE)
def test_each_error_fixes_its_code_and_statuses_and_survives_the_wire(
    cls: type[GpuqError], code: str, status: int, exit_status: int, retry: bool
) -> None:
    error = cls("it failed", "do this")
    assert (error.code, error.http_status, error.exit_status, error.retry_helps) == (code, status, exit_status, retry)
    back = from_json(status, error.to_json())
    assert type(back) is cls
    assert (back.message, back.hint) == ("it failed", "do this")
    assert type(from_json(status, "<html>")) is cls, "an answer of a proxy is read by its status"


def test_never_reached_has_an_exit_status_of_its_own() -> None:
    assert Unreachable("x").exit_status == 5
    assert Unreachable("x").retry_helps


@pytest.mark.parametrize("body", [None, [], "x", {}, {"error": None}, {"error": []}, {"error": "x"}])
@pytest.mark.parametrize(
    ("status", "cls"), [(500, Unavailable), (502, Unavailable), (504, Unavailable), (418, InvalidRequest)]
)
def test_an_answer_that_is_not_gpuqs_is_read_by_its_status(status: int, cls: type[GpuqError], body: object) -> None:
    error = from_json(status, body)
    assert type(error) is cls
    assert str(status) in error.message


@pytest.mark.parametrize("code", ["nonsense", None, 5, [], {}])
def test_an_error_of_a_newer_gpuq_is_read_by_its_status(code: object) -> None:
    assert type(from_json(409, {"error": {"code": code, "message": "m"}})) is Conflict
    assert from_json(409, {"error": {"code": code, "message": 5, "hint": None}}).message == "5"


def test_one_line_is_one_line_whatever_it_is_made_of() -> None:
    error = InvalidRequest("a\nb\x1b[31mc\u202ed", "e\r\nf")
    assert error.one_line() == "a b [31mc d: e  f"
    assert InvalidRequest("only this").one_line() == "only this"
