"""Nodes and what they offer, as last reported."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any

from gpuq.model import NodeName
from gpuq.node import Inventory, Node
from gpuq.store.columns import plain_text, record_of, record_text

_PUT = (
    "INSERT INTO nodes (name, cordoned, draining, cordon_text, boot_id, inventory, enrolled_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET cordoned = excluded.cordoned, "
    "draining = excluded.draining, cordon_text = excluded.cordon_text, boot_id = excluded.boot_id, "
    "inventory = excluded.inventory, enrolled_at = excluded.enrolled_at"
)
_ALL = "SELECT name, cordoned, draining, cordon_text, boot_id, inventory, enrolled_at FROM nodes ORDER BY name"


def put(conn: Connection, nodes: Iterable[Node]) -> None:
    conn.executemany(_PUT, map(_row, nodes))


def drop(conn: Connection, names: Iterable[NodeName]) -> None:
    conn.executemany("DELETE FROM nodes WHERE name = ?", ((name,) for name in names))


def _row(node: Node) -> tuple[Any, ...]:
    text, inventory = plain_text(node.cordon_text), record_text(node.inventory)
    return node.name, node.cordoned, node.draining, text, node.boot_id, inventory, node.enrolled_at


def _node(row: tuple[Any, ...]) -> Node:
    name, cordoned, draining, cordon_text, boot_id, inventory, enrolled_at = row
    return Node(
        name=NodeName(name),
        cordoned=bool(cordoned),
        draining=bool(draining),
        cordon_text=cordon_text,
        boot_id=boot_id,
        inventory=record_of(Inventory, inventory),
        enrolled_at=enrolled_at,
    )


def every(conn: Connection) -> list[Node]:
    """All nodes, by name."""
    return [_node(row) for row in conn.execute(_ALL)]
