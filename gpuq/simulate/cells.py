"""Numbers in the lines of a trace, and what is wrong with those that are none."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import TypeVar

_Number = TypeVar("_Number", int, float)

# What reading a damaged file raises, beside OSError: its length, its checksum, its inside, its text, its commas.
UNREADABLE = (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, csv.Error)
# A spreadsheet may put a mark before the first column's name; without one this is UTF-8.
ENCODING = "utf-8-sig"


def number(row: Mapping[str, str | None], column: str, kind: Callable[[str], _Number]) -> _Number:
    """A cell as int or float; raises ValueError, in words, for one that is missing or something else."""
    text = row.get(column)
    if text is None:
        raise ValueError(f"no {column}")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{column} is '{text}'") from None
