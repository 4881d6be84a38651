"""The API described: its OpenAPI document, and a page that shows it without fetching anything from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, Response

from gpuq.api.answers import answer
from gpuq.api.calls import By
from gpuq.api.gate import Route
from gpuq.protocol import API_PREFIX, PROTOCOL_HEADER, REQUEST_ID_HEADER

_REF = "#/components/schemas/{model}"
_ROLES = {
    "open": "no token",
    "viewer": "any user's token",
    "user": "a token of role user or admin",
    "admin": "a token of role admin",
    "node": "the token of a node",
    "join": "a join token",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint", "retry"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string", "description": "What failed and why, in one line."},
                "hint": {"type": "string", "description": "What to do about it; may be empty."},
                "retry": {"type": "boolean", "description": "Whether the same request may work later."},
            },
        }
    },
}
_REQUEST_ID = {
    "name": REQUEST_ID_HEADER,
    "in": "header",
    "required": True,
    "description": "New for each change; the same one again gets the same answer and changes nothing.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,64}$"},
}


async def openapi_json(call: By) -> Response:
    """This description as OpenAPI. Needs no token."""
    return answer(call.site.describe())


async def page(call: By) -> Response:
    """This description as a page. Needs no token."""
    return HTMLResponse(_page(call.site.describe()))


def openapi(app: FastAPI, routes: Sequence[Route]) -> dict[str, Any]:
    """FastAPI's document with what it cannot see: bodies, tokens, request ids and the one shape of errors."""
    document = app.openapi()
    models: list[type[BaseModel]] = [route.body for route in routes if route.body is not None]
    _, definitions = models_json_schema([(model, "validation") for model in dict.fromkeys(models)], ref_template=_REF)
    document["components"] = {
        "schemas": {**definitions["$defs"], "Error": _ERROR},
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    }
    for route in routes:
        operation = document["paths"][API_PREFIX + route.path][route.method.lower()]
        operation["x-least-role"] = route.role
        operation["security"] = [] if route.role == "open" else [{"token": []}]
        operation["responses"] = {
            str(route.status): {"description": "Done"},
            "default": {
                "description": "Refused or failed",
                "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
            },
        }
        if "dry_run" in route.parameters:
            operation["responses"]["200"] = {"description": "With dry_run: what would become of it"}
        if route.mutates:
            operation.setdefault("parameters", []).append(_REQUEST_ID)
        if route.body is not None:
            schema = {"$ref": _REF.format(model=route.body.__name__)}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return document


def _page(document: dict[str, Any]) -> str:
    sections = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>gpuq API</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ font: 600 16px monospace; margin-top: 2rem }} table {{ border-collapse: collapse }}
td, th {{ border: 1px solid #8886; padding: .2rem .6rem; text-align: left; vertical-align: top }}
</style><h1>gpuq {escape(document["info"]["version"])}</h1>
<p>Send <code>Authorization: Bearer TOKEN</code>; clients of gpuq's own also say <code>{PROTOCOL_HEADER}</code>.
Every refusal is an <a href="#Error">Error</a>. The same as <a href="openapi.json">OpenAPI</a>.</p>
{"".join(sections)}<h1>Bodies</h1>{"".join(schemas)}</html>"""


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    rows = [
        (f"{p['name']} ({p['in']})", _type(p["schema"]), p.get("description", ""))
        for p in operation.get("parameters", ())
    ]
    takes = _ROLES[operation["x-least-role"]] + (f". Body: {_type(body)}" if body else "")
    said = escape(operation.get("description", ""))
    return f"<h2>{method.upper()} {escape(path)}</h2><p>{said}<br>Takes {takes}.</p>{_table(rows)}"


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = [(key, _type(field), field.get("description", "")) for key, field in schema.get("properties", {}).items()]
    said = escape(schema.get("description", "")) or escape(", ".join(map(str, schema.get("enum", ()))))
    return f'<h2 id="{escape(name)}">{escape(name)}</h2><p>{said}</p>{_table(rows)}'


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = [f"<tr><td><code>{escape(n)}</code><td>{kind}<td>{escape(said)}" for n, kind, said in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _type(schema: dict[str, Any]) -> str:
    """A type in a few words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return escape(" ".join([kind, *bounds]))
