from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from textual.drivers._writer_thread import WriterThread

from tui.driver import Outlet, driver_of


def test_what_the_terminal_has_not_taken_is_counted() -> None:
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "w") as file:
        outlet = Outlet(file)
        writer: Any = WriterThread(outlet)  # type: ignore[arg-type]
        outlet.handed += 5
        writer.write("frame")
        assert outlet.handed - outlet.taken == 5
        writer.start()
        assert os.read(ours, 100) == b"frame"
        writer.stop()
        assert outlet.handed == outlet.taken
    os.close(ours)


def test_an_app_without_a_terminal_has_no_driver_of_ours() -> None:
    app: Any = SimpleNamespace(_driver=None)
    assert driver_of(app) is None
