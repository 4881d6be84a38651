"""How values become columns: a job's id as one integer, nested records as JSON text, any text as storable text."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TypeVar

from gpuq.codec import decode, encode
from gpuq.model import JobId, Request

T = TypeVar("T")

ELEMENT_BITS = 32  # an array index is below 2**31, so index + 1 fits
_ELEMENT_MASK = (1 << ELEMENT_BITS) - 1
_ID = re.compile(r"(0|[1-9][0-9]{0,9})(?:_(0|[1-9][0-9]{0,9}))?")
_MAX = 2**31 - 1  # of a number and of an index: keeps a key within SQLite's 63 bits

to_json = json.JSONEncoder(separators=(",", ":")).encode  # ASCII, so even lone surrogates can be stored


def make_key(number: int, index: int | None) -> int:
    return number << ELEMENT_BITS | (0 if index is None else index + 1)


def job_key(id: JobId) -> int | None:
    """The key of an id as gpuq writes it; None for any other text, which names no job."""
    match = _ID.fullmatch(id)
    if not match or int(match[1]) > _MAX or int(match[2] or 0) > _MAX:
        return None
    return make_key(int(match[1]), None if match[2] is None else int(match[2]))


def job_id(key: int) -> JobId:
    number, element = key >> ELEMENT_BITS, key & _ELEMENT_MASK
    return JobId(f"{number}_{element - 1}" if element else str(number))


def element_index(key: int) -> int | None:
    """The array index of an element; None for a job or array as submitted."""
    element = key & _ELEMENT_MASK
    return element - 1 if element else None


def array_key(key: int) -> int:
    """The key of the array an element belongs to; of any other job, its own."""
    return key & ~_ELEMENT_MASK


def record_text(value: object | None) -> str | None:
    """A frozen dataclass as JSON text."""
    return None if value is None else to_json(encode(value))


def record_of(cls: type[T], text: str | None) -> T | None:
    return None if text is None else decode(cls, json.loads(text))


def records_text(values: tuple[object, ...]) -> str:
    """Frozen dataclasses as one JSON list."""
    return to_json([encode(value) for value in values])


def records_of(cls: type[T], text: str) -> tuple[T, ...]:
    return tuple([decode(cls, item) for item in json.loads(text)])


@lru_cache(maxsize=4096)
def request_text(request: Request) -> str:
    return to_json(encode(request))


@lru_cache(maxsize=4096)
def request_of(text: str) -> Request:
    """Equal texts give the same object: 100,000 jobs ask for a handful of different things."""
    return decode(Request, json.loads(text))


def plain_text(text: str) -> str:
    """The text with what UTF-8 cannot hold as '?': one such name must not stop the writer for everyone."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
