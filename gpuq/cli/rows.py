"""Reading lists from the controller: every page of them, whole or as the compact rows that tables are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuq.client.http import Client

PAGE = 10_000  # protocol.MAX_PAGE
SMALL_PAGE = 1_000  # of lists that the controller reads from its store: more at once would hold up everyone else

Filters = dict[str, "str | int | float | Sequence[str] | None"]


def all_items(client: Client, path: str, params: Filters) -> list[dict[str, Any]]:
    """The items of every page, in the controller's order."""
    items: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = client.get(path, {**params, "limit": PAGE, "after": after})
        items += page["items"]
        after = page["next"]
        if after is None:
            return items


def some_items(client: Client, path: str, params: Filters, count: int) -> tuple[list[dict[str, Any]], str | None]:
    """The first `count` items, and where to go on if there are more."""
    items: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = client.get(path, {**params, "limit": min(count - len(items), SMALL_PAGE), "after": after})
        items += page["items"]
        after = page["next"]
        if after is None or len(items) >= count:
            return items, after


def all_rows(client: Client, path: str, params: Filters, fields: Sequence[str]) -> list[list[Any]]:
    """One row an item with the values of `fields` in that order: a third of the bytes, and no names to parse."""
    rows: list[list[Any]] = []
    after: str | None = None
    while True:
        page = client.get(path, {**params, "fields": ",".join(fields), "limit": PAGE, "after": after})
        rows += page["rows"]
        after = page["next"]
        if after is None:
            return rows
