"""A list other than that of jobs: a line about it, its table, a plain filter, and what every list can do with rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from textual import on
from textual.app import ComposeResult

from gpuq.units import plural
from tui.export import free_path, rendered, write_new
from tui.pane import Pane
from tui.store import Store
from tui.table import Column, ModelTable, Rows
from tui.text import safe
from tui.title import Bar, Span


class FilteredRows(Rows, Protocol):
    """Rows that know which of them are asked for."""

    filter: str
    total: int  # before the filter

    def arrange(self) -> None:
        """Brings `order` and `total` up to date."""

    def record(self, key: str) -> Mapping[str, Any]:
        """All that is known of a row; empty of one that has gone."""


class ListPane(Pane, can_focus=False):
    """The table in it has the focus.

    NOUN: what a row is, as in '12 nodes'. FIELDS: of a row's record, what an exported file has.
    """

    NOUN: ClassVar[str]
    FIELDS: ClassVar[tuple[str, ...]]
    DEFAULT_CSS = "ListPane { layout: vertical; width: 1fr; height: 1fr; }"

    def __init__(
        self,
        store: Store,
        rows: FilteredRows,
        columns: Sequence[Column],
        sort_keys: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        super().__init__(store, id=id)
        self.rows = rows
        self.table = ModelTable(rows, columns, sort_keys=sort_keys)

    def compose(self) -> ComposeResult:
        yield Bar(id="about")
        yield self.table

    @property
    def filter(self) -> str:
        return self.rows.filter

    def set_filter(self, text: str) -> str:
        """Shows the rows that have every word of it. Any text can be read, so nothing is ever said against one."""
        self.rows.filter = text
        self.arrange_rows()
        self.table.update()
        return ""

    def shown(self) -> None:
        self.arrange_rows()
        self.table.redraw()

    def arrange_rows(self) -> None:
        """Which rows there are, in which order, and what is said where there are none."""
        self.rows.arrange()
        self.table.empty = self._nothing()
        self._tell()

    def nothing_yet(self) -> list[str]:
        """What is said where there is nothing at all."""
        return [f"no {self.NOUN}"]

    def _nothing(self) -> list[str]:
        if not self.store.loaded:
            return ["waiting for the controller"]
        if self.filter and self.rows.total:
            return [
                f"None of {self.rows.total:,} {plural(self.rows.total, self.NOUN)} matches.",
                "Esc clears the filter.",
            ]
        return self.nothing_yet()

    @on(ModelTable.Marked)
    def _tell(self) -> None:
        shown, marked = len(self.rows.order), len(self.table.marked())
        of = f" of {self.rows.total:,}" if self.filter else ""
        spans: list[Span] = [(f" {shown:,}", "bold"), (f"{of} {plural(self.rows.total, self.NOUN)}", "dim")]
        spans += [(f"  /{safe(self.filter)}", "key")] if self.filter else []
        self.query_one("#about", Bar).show(spans, [(f"{marked:,} marked ", "mark")] if marked else [])

    def crumbs(self) -> str:
        return f"{self.CONTEXT} > {safe(self.filter)}" if self.filter else self.CONTEXT

    def open_row(self, key: str) -> None:
        """What Enter does on a row."""
        raise NotImplementedError

    @on(ModelTable.Opened)
    def do_open(self) -> None:
        if self.table.key is not None:
            self.open_row(self.table.key)

    def do_describe(self) -> None:
        self.do_open()

    def do_copy_id(self) -> None:
        if keys := self._chosen():
            self.dashboard.copy(" ".join(keys))

    def do_copy_record(self) -> None:
        if keys := self._chosen():
            self.dashboard.copy(json.dumps([self.rows.record(key) for key in keys], ensure_ascii=False, indent=1))

    def do_export(self) -> None:
        """Saves the marked rows, else all that are shown, beside where gpuq was started."""
        records = [self.rows.record(key) for key in self.table.marked() or self.rows.order]
        rows = [[record.get(field) for field in self.FIELDS] for record in records]
        path = free_path(Path.cwd(), f"gpuq-{self.CONTEXT}-{time.strftime('%Y%m%d-%H%M%S')}", "csv")
        write_new(path, rendered(self.FIELDS, rows, "csv"))
        self.dashboard.say(f"saved {len(rows):,} rows as {path}")

    def _chosen(self) -> list[str]:
        return self.table.marked() or ([self.table.key] if self.table.key is not None else [])
