"""Several queries of one answer see one moment, whatever is written meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import Connection


@contextmanager
def one_moment(conn: Connection) -> Iterator[None]:
    """What is read inside is as of one commit, for an answer that takes several queries.

    Otherwise each sees what is committed when it begins. What was added between them may be missing before what was
    found, and whoever goes on behind that never gets it.
    """
    if conn.in_transaction:  # which is one moment already, and the caller's to end
        yield
        return
    conn.execute("BEGIN")
    try:
        yield
    finally:
        conn.rollback()  # nothing was written; it does nothing where an error has ended the transaction
