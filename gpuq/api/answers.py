"""JSON answers, made the one fast way."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

# ASCII only, so that text from a job's name or an agent's report can always be sent, lone surrogates included.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def json_bytes(value: Any) -> bytes:
    return _encode(value).encode("ascii")


def answer(value: Any, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")
