"""JSON answers, made the one fast way."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

# ASCII only, so that text from a job's name or an agent's report can always be sent, lone surrogates included.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def json_bytes(value: Any) -> bytes:
    return _encode(value).encode("ascii")


def answer(value: Any, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")


def answer_with(value: Mapping[str, Any], lists: Mapping[str, Sequence[bytes]]) -> Response:
    """An object's answer that also has lists of pieces which are JSON already."""
    parts = [json_bytes(value)[:-1]]
    parts += (b',"%s":[%s]' % (name.encode(), b",".join(pieces)) for name, pieces in lists.items())
    return Response(b"".join([*parts, b"}"]), media_type="application/json")


class Fragments:
    """Pieces of JSON that are the same for everyone, made once for all who watch. One piece is kept for each key."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[int, bytes]] = {}

    def get(self, key: Hashable, version: int, make: Callable[[], Any]) -> bytes:
        """The piece of this version, made now if the one that is kept is of another."""
        kept = self._made.get(key)
        if kept is None or kept[0] != version:
            kept = self._made[key] = version, json_bytes(make())
        return kept[1]
