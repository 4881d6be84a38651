"""What no client of ours would send: bodies that do not fit the OpenAPI document are refused, in our one shape."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from gpuq.api.app import describe
from gpuq.protocol import REQUEST_ID_HEADER
from tests.api.server import Answer, Running

DOCUMENT = describe()
OF_TYPE: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "integer": 10**400,  # too large for any field there is, so it is wrong where an integer is right
    "number": -1e308,
    "string": "\0",
    "array": [[[]]],
    "object": {"a": {"b": []}},
}
NO_OBJECT = [b"[]", b"null", b"1", b'"{}"', b"{", b"\xff\xfe", b'{"a":1', b'{"\\ud800":1}', b"[" * 50_000, b"\0"]
WITH_BODY = [
    (f"{method.upper()} {path}", operation["requestBody"]["content"]["application/json"]["schema"]["$ref"])
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if "requestBody" in operation
]


def schema_of(reference: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][reference.rsplit("/", 1)[-1]]
    return found


def types(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a field may have."""
    if "$ref" in schema:
        return types(schema_of(schema["$ref"]))
    if "anyOf" in schema:
        return set().union(*map(types, schema["anyOf"]))
    kind = schema["type"]
    return {"integer", "number"} if kind == "number" else {kind}


def wrong(reference: str) -> Iterator[bytes]:
    """Bodies that do not fit: no object, a field too many, and each field with each type that it has not."""
    yield from NO_OBJECT
    yield b'{"no_such_field": 1}'
    for field, schema in schema_of(reference).get("properties", {}).items():
        for kind in OF_TYPE.keys() - types(schema):
            yield json.dumps({field: OF_TYPE[kind]}).encode()


def test_the_document_names_the_body_of_every_route_that_has_one() -> None:
    assert len(WITH_BODY) >= 19


@pytest.mark.parametrize(("operation", "reference"), WITH_BODY, ids=[name for name, _ in WITH_BODY])
def test_a_body_that_does_not_fit_is_refused_in_one_line(running: Running, operation: str, reference: str) -> None:
    method, path = re.sub(r"{\w+}", "1", operation).split(" ")
    token = running.tokens["root"]
    if path.endswith("/join"):
        token = running.ask("POST", "/tokens", "root", {"role": "join"}).json["token"]
    connection = running.connect()
    try:
        for body in wrong(reference):
            headers = {"authorization": f"Bearer {token}", REQUEST_ID_HEADER: f"wrong-{secrets.token_hex(8)}"}
            connection.request(method, path, body, headers)
            answered = connection.getresponse()
            Answer(answered.status, {}, answered.read()).refused(400)
    finally:
        connection.close()
