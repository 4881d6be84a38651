"""Between Textual and the terminal: sends what differs from what is shown, and knows how much is still on its way."""

from __future__ import annotations

from typing import Any, TextIO, cast

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from tui.picture import Picture


class Outlet:
    """The terminal's file as Textual's writer thread uses it; counts what has gone out."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.handed = 0  # characters that the writer was given; counted by the event loop alone
        self.taken = 0  # of these, the terminal has; counted by the writer alone
        self._written = 0

    def write(self, text: str) -> None:
        self._file.write(text)
        self._written += len(text)

    def flush(self) -> None:
        self._file.flush()
        self.taken = self._written

    def fileno(self) -> int:
        return self._file.fileno()


class TerminalDriver(LinuxDriver):
    """Textual's own, that sends less."""

    def __init__(
        self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._picture = Picture()
        self._outlet = Outlet(cast(TextIO, self._file))
        self._file = cast(Any, self._outlet)  # the writer thread asks for no more than it has

    @property
    def waiting(self) -> int:
        """Characters that the terminal has not taken yet."""
        return self._outlet.handed - self._outlet.taken

    def forget(self) -> None:
        """Something else may be on the terminal than was sent: the next frame goes out whole."""
        self._picture.forget()

    def write(self, data: str) -> None:
        less = self._picture.update(data)
        if less:
            self._outlet.handed += len(less)
            super().write(less)


def driver_of(app: App[Any]) -> TerminalDriver | None:
    """None while the app has no terminal, in tests for one."""
    driver = app._driver
    return driver if isinstance(driver, TerminalDriver) else None
