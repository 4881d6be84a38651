"""gpuq tui: the dashboard."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import Any

import click
from rich.console import Console

from gpuq.cli.command import command
from gpuq.cli.connect import connection, context, trusted_ca
from gpuq.cli.environment import choose_environment
from gpuq.cli.here import this_place
from gpuq.cli.script import read_script
from gpuq.config import Context
from gpuq.errors import InvalidRequest
from tui.app import DashboardApp
from tui.background import is_light
from tui.body import VIEWS
from tui.client import Client
from tui.submission_text import Place
from tui.theme import AUTO, NAMES, chosen

LEAVE_SECONDS = 2.0  # after a signal; a terminal that has gone takes no more output, and would keep us waiting for ever


@command(name="tui")
@click.option(
    "--view", type=click.Choice(VIEWS), default="overview", metavar="NAME", help=f"First: {', '.join(VIEWS)}."
)
@click.option(
    "--theme",
    type=click.Choice((AUTO, *NAMES)),
    default=AUTO,
    metavar="NAME",
    help=f"Colours: {AUTO} (as the terminal's ground is), {', '.join(NAMES)}.",
)
@click.option("--ascii", is_flag=True, help="Draw with ASCII alone.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
@click.option("--read-only", is_flag=True, help="Offer nothing that changes anything.")
@connection
def tui(view: str, theme: str, ascii: bool, no_mouse: bool, read_only: bool) -> int:
    """Watch jobs, nodes and GPUs, and act on them. `?` says which keys work where one is."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise InvalidRequest("the dashboard needs a terminal", "gpuq queue, nodes and events print the same")
    if os.environ.get("TERM") == "dumb":
        raise InvalidRequest(
            "the dashboard needs a terminal that can place text, TERM says 'dumb'",
            "set TERM to what it is, or use gpuq queue, nodes and events",
        )
    where = context()
    threading.Thread(target=import_module, args=("gpuq.client.live",), daemon=True).start()  # beside the first frame
    app = DashboardApp(
        lambda: asyncio.to_thread(_client, where),
        where.url.removeprefix("https://"),
        view=view,
        theme=_theme(theme),
        ascii=ascii,
        read_only=read_only,
        extra={"submit": {"place": _place(where.token)}},
    )
    with _terminal_kept(), _leaving_on_signals(app) as signals:
        app.run(mouse=not no_mouse)
    if app.crash is not None:
        raise app.crash
    if app.refused is not None:
        raise app.refused
    return 128 + signals[0] if signals else 0


def _theme(name: str) -> str:
    light = is_light(os.environ) if name == AUTO else None
    return chosen(name, light, "NO_COLOR" in os.environ, sixteen=Console().color_system == "standard")


def _client(where: Context) -> Client:
    from gpuq.client.live import LiveClient  # httpx, 100 ms: `tui` has begun with it

    return LiveClient(where.url, where.token, trusted_ca(where))


def _place(token: str) -> Place:
    """What the submit form takes for granted: as `gpuq submit` would in this folder."""
    here = this_place(token)
    if not here.on_cluster:
        return Place(is_script=_is_script)
    environment = choose_environment(here.variables, None, (), on_cluster=True).environment
    return Place(here.cwd, environment, _is_script)


def _is_script(word: str) -> bool:
    return read_script(word) is not None


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Whatever happens, the terminal is in the mode it was in before."""
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        with suppress(termios.error):  # it has gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _leaving_on_signals(app: DashboardApp) -> Iterator[list[int]]:
    """SIGTERM and SIGHUP leave as `q` does; gives those that came."""
    came: list[int] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        hard = threading.Timer(LEAVE_SECONDS, os._exit, (128 + number,))
        hard.daemon = True
        hard.start()
        app.leave()

    before: dict[int, Any] = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
