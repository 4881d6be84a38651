"""Rows of a table or a log as a file: CSV, JSON or text. What is written is the very value, not what fits a column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gpuq.errors import InvalidRequest
from tui.text import cell_width, pad, safe

Format = Literal["csv", "json", "text"]
# A spreadsheet takes what begins so for a formula, and names of jobs come from everybody.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def rendered(fields: Sequence[str], rows: Iterable[Sequence[Any]], format: Format) -> str:
    """The rows as one document. In JSON each is an object and values are what the API gave; else they are text."""
    if format == "json":
        return json.dumps([dict(zip(fields, row, strict=True)) for row in rows], ensure_ascii=False, indent=1) + "\n"
    if format == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows([_cell(value) for value in row] for row in rows)
        return out.getvalue()
    return _table(fields, [[_plain(value) for value in row] for row in rows])


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """A path nothing lies at yet: jobs.csv, jobs-2.csv, ... Saving never overwrites."""
    path = folder / f"{stem}.{suffix}"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.{suffix}"
    return path


def write_new(path: Path, text: str) -> None:
    """Writes a file that must not be there yet, for its owner alone; raises InvalidRequest saying why it cannot."""
    try:
        with new_file(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise cannot_write(path, error) from error


def new_file(path: Path) -> io.BufferedWriter:
    file = open(path, "xb")  # noqa: SIM115  (whoever asked for it closes it)
    path.chmod(0o600)
    return file


def cannot_write(path: Path, error: OSError) -> InvalidRequest:
    return InvalidRequest(f"cannot write {path}: {error.strerror}", "start gpuq tui in a folder you may write to")


def _cell(value: Any) -> Any:
    """A CSV cell: numbers as they are; a text that a spreadsheet would calculate gets a quote in front."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = _plain(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(value: Any) -> str:
    """One line of text; what has parts as JSON, but for reasons and causes, whose text says all."""
    if value is None:
        return ""
    if isinstance(value, Mapping) and "text" in value:
        return safe(str(value["text"] or value.get("code", "")))
    if isinstance(value, (Mapping, list, tuple)):
        return safe(json.dumps(value, ensure_ascii=False)) if value else ""
    return safe(str(value))


def _table(fields: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max([cell_width(field), *(cell_width(row[n]) for row in rows)]) for n, field in enumerate(fields)]
    lines = ["  ".join(map(pad, row, widths)).rstrip() for row in [[f.upper() for f in fields], *rows]]
    return "\n".join(lines) + "\n"
