"""The dashboard: one screen, the keys that lead through it, and the clock that paints it."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from textual import events, on
from textual.app import App, ComposeResult
from textual.command import CommandPalette
from textual.filter import LineFilter
from textual.screen import ModalScreen
from textual.timer import Timer

from gpuq.errors import GpuqError, InvalidRequest, Unavailable
from tui.ascii import AsciiFilter
from tui.body import VIEWS, Body
from tui.chrome import Filtered, Foot, Head
from tui.client import Client
from tui.command import CommandProvider
from tui.deeds import do_to_subjects
from tui.dialogs import ConfirmDialog
from tui.driver import TerminalDriver, driver_of
from tui.feed import Feed
from tui.guard import backlog, guard_of
from tui.help import HelpDialog
from tui.keymap import allowed, find, refusal
from tui.pane import Pane, Question, Subject, context_of
from tui.store import Store
from tui.table import ModelTable
from tui.theme import NAMES, following, themes
from tui.ticker import TICK_SECONDS, Ticker
from tui.title import Bar, link_values, too_small
from tui.trail import SMALLEST, Spot, Trail, follows
from tui.turns import Turns

FOLLOW_SECONDS = 0.2  # a log is opened for the row on which the cursor rests, not for each that it passes
MOST_COPIED = 74_000  # characters: what terminals take of OSC 52
LOW_HEIGHT = 16  # below this, the line of views gives its place to a row
_VIEW = "view_"  # before the name of a view, the id of the action that shows it


class DashboardApp(App[None], inherit_bindings=False):
    """Keys are looked up in keymap.py alone: here are the actions that no pane has."""

    TITLE = "gpuq"
    ENABLE_COMMAND_PALETTE = False  # opened by the keymap, with gpuq's own commands
    AUTO_FOCUS = ""  # until the first pane is there, the only widget that takes one is the line of commands
    CSS = """
    #small { display: none; }
    .-tiny Head, .-tiny Body, .-tiny Foot { display: none; }
    .-tiny #small { display: block; }
    .-low #tabs { display: none; }
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Client]],
        where: str,
        *,
        view: str = "overview",
        theme: str = "dark",
        ascii: bool = False,
        read_only: bool = False,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """connect: makes the client, beside the first frame. where: the controller, as people call it.

        extra: what panes are given besides the store, by their names in body.PARTS.
        """
        super().__init__(driver_class=TerminalDriver)
        self.store = Store(clock)
        self.ascii = ascii
        self.refused: GpuqError | None = None  # it ended because the controller will never let it in
        self._read_only = read_only
        self._feed = Feed(self.store, connect, asyncio.sleep, random.random, self._tick)
        self._ticker = Ticker(self.store)
        self._trail = Trail(Spot(view))
        self._turns = Turns(self, super().on_event, self._settled)
        self._zoomed = False
        self._head, self._body, self._foot = Head(self.store, where), Body(self.store, extra or {}), Foot(self.store)
        self._small = Bar(id="small")  # all there is on a terminal that is too small
        self._tasks: set[asyncio.Task[None]] = set()
        self._follow_timer: Timer | None = None
        self._followed: Subject | None = None  # what was under the list's cursor when detail and log were told
        for known in themes():
            self.register_theme(known)
        self.theme = theme

    @property
    def crash(self) -> Exception | None:
        """The defect by which it ended."""
        return self._exception

    def leave(self) -> None:
        """Ends it; may be called from a signal handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.exit)

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._body
        yield self._foot
        yield self._small

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, lambda _: self._draw_all(), immediate=True)
        self.set_interval(TICK_SECONDS, self._tick)
        self.work(self._feed_store())  # the controller makes its answer while the first frame is made here

    def on_resize(self) -> None:
        self._forget_terminal()
        width, height = self.size
        tiny = width < SMALLEST[0] or height < SMALLEST[1]
        self.screen.set_class(tiny, "-tiny")
        self.screen.set_class(height < LOW_HEIGHT, "-low")
        self.call_after_refresh(lambda: self._go(focus=not self._foot.typing))

    def get_line_filters(self) -> Sequence[LineFilter]:
        filters = super().get_line_filters()
        return [*filters, AsciiFilter()] if self.ascii else filters

    # What panes ask for: see pane.Dashboard

    @property
    def client(self) -> Client:
        if self._feed.client is None:
            raise Unavailable("not connected yet")
        return self._feed.client

    @property
    def writable(self) -> bool:
        return not self._read_only and self.store.link.state == "live" and self.store.you.role != "viewer"

    def open_view(self, name: str, filter: str | None = None) -> None:
        if name not in VIEWS:
            raise InvalidRequest(f"there is no view '{name}'", f"there are {', '.join(VIEWS)}")
        self._go(Spot(name))
        pane = self._body.pane(name)
        if filter is not None and isinstance(pane, Filtered):
            pane.set_filter(filter)

    def open_job(self, id: str) -> None:
        self._go(Spot(self._trail.present.view, "detail", Subject("job", id)))

    def open_node(self, name: str) -> None:
        self._go(Spot(self._trail.present.view, "detail", Subject("node", name)))

    def open_log(self, id: str) -> None:
        self._go(Spot(self._trail.present.view, "log", Subject("job", id)))

    def open_submit(self, line: str = "", like: str | None = None) -> None:
        self._go(Spot(self._trail.present.view, "form"))
        form: Any = self._body.pane("submit")
        form.open(line=line, like=like)

    def confirm(self, question: Question) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.work(self._done(question))

        self.push_screen(ConfirmDialog(question), answered)

    def ask_command(self, text: str = "") -> None:
        self._foot.ask_command(text)

    def say(self, text: str, bad: bool = False) -> None:
        self._foot.say(text, bad)
        self._chrome()

    def copy(self, text: str) -> None:
        self.copy_to_clipboard(text[:MOST_COPIED])
        whole = f"copied {len(text):,} characters" if len(text) > 40 or "\n" in text else f"copied {text}"
        self.say(whole if len(text) <= MOST_COPIED else f"copied the first {MOST_COPIED:,} characters of it")

    def set_theme(self, name: str) -> None:
        if name not in NAMES:
            raise InvalidRequest(f"there is no theme '{name}'", f"there are {', '.join(NAMES)}")
        self.theme = name
        self._draw_all()

    def work(self, doing: Awaitable[object]) -> None:
        task = asyncio.create_task(self._guarded(doing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def act(self, id: str) -> None:
        """The first from the focus outwards that knows how; else, to the jobs or nodes that the pane is about."""
        if id.startswith(_VIEW):
            self.open_view(id.removeprefix(_VIEW))
            return
        method, focused = f"do_{id}", self.screen.focused
        nearest = (self.screen,) if focused is None else focused.ancestors_with_self
        do = next((found for widget in nearest if (found := getattr(widget, method, None)) is not None), None)
        if do is None:
            do = getattr(self, method, None)
        if do is None:
            do_to_subjects(self, self._pane, id)
        elif inspect.isawaitable(done := do()):
            self.work(done)

    # Keys

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            self._turns.take(event)
        else:
            await super().on_event(event)

    def _settled(self) -> bool:
        """Whether all is there that a key may be meant for."""
        there = bool(self._body.shown and self.screen_stack)
        return there and self.screen.is_mounted and not self._body.focus_due

    def on_key(self, event: events.Key) -> None:
        if not self.screen_stack:  # it is being left
            return
        if isinstance(self.screen, ModalScreen) and not hasattr(self.screen, "CONTEXT"):
            return  # Textual's own palette has its own keys
        if not self._body.shown:
            return
        self._foot.unsay()
        action = find(context_of(self.screen.focused or self.screen), event.key)
        if action is None:
            return
        event.stop()
        event.prevent_default()
        if not allowed(action, self.store.you.role, self.writable):
            self.say(refusal(action, self.store.you.role, self.store.link.state == "live"), bad=True)
            return
        try:
            self.act(action.id)
        except GpuqError as error:
            self.say(error.one_line(), bad=True)
        self._chrome()

    @on(events.DescendantFocus)
    def _focus_moved(self) -> None:
        self._foot.leave_unfocused()
        self._chrome()

    # Actions that no pane has

    def do_help(self) -> None:
        self.push_screen(HelpDialog(self._pane.CONTEXT, self.store.you.role, self.writable))

    def do_command(self) -> None:
        self.ask_command()

    def do_palette(self) -> None:
        self.push_screen(CommandPalette(providers=[CommandProvider], placeholder="Find a command"))

    def do_next_pane(self) -> None:
        self._step_slot(1)

    def do_previous_pane(self) -> None:
        self._step_slot(-1)

    def do_filter(self) -> None:
        pane = self._pane
        if isinstance(pane, Filtered):
            self._foot.ask_filter(pane)
        else:
            self.say("nothing to filter here", bad=True)

    def do_close(self) -> None:
        self.leave_pane()

    def leave_pane(self) -> None:
        """What is open goes, one at a time: the zoom, the filter, the marks, the pane."""
        pane = self._pane
        if self._zoomed:
            self.do_zoom()
        elif isinstance(pane, Filtered) and pane.filter:
            pane.set_filter("")
        elif not any(table.marks and table.clear_marks() for table in pane.query(ModelTable)):
            self._trail.up()
            self._go()

    def do_back(self) -> None:
        if self._trail.up():
            self._go()
        else:
            self.exit()

    def do_last_view(self) -> None:
        self._trail.last_view()
        self._go()

    def do_history_back(self) -> None:
        self._trail.back()
        self._go()

    def do_history_forward(self) -> None:
        self._trail.forward()
        self._go()

    def do_zoom(self) -> None:
        self._zoomed = not self._zoomed
        self._go()

    def do_pause(self) -> None:
        self._ticker.paused = not self._ticker.paused
        self._tick()

    def do_resync(self) -> None:
        self._feed.resync()
        self._draw_all()

    def do_next_theme(self) -> None:
        self.set_theme(following(self.theme))
        self.say(f"theme {self.theme}")

    def do_link_values(self) -> None:
        self.say(link_values(self.store, backlog(self)))

    def do_interrupt(self) -> None:
        self.say("q leaves the view, ctrl+q ends gpuq tui; jobs go on without it")

    def do_suspend(self) -> None:
        self.action_suspend_process()

    async def do_quit(self) -> None:
        self.exit()

    def do_submit(self) -> None:
        self.open_submit()

    # Within

    @property
    def _pane(self) -> Pane:
        """The one that is worked in."""
        return self._body.pane_in(self._trail.present.slot)

    def _go(self, spot: Spot | None = None, focus: bool = True) -> None:
        """Shows a spot, or the present one anew. focus: whether it is to have the focus."""
        if spot is not None:
            self._trail.go(spot)
        spot = self._trail.present
        self._body.make_room(spot, self._zoomed)
        self._show_subject()
        if focus:
            self._body.focus_slot(spot.slot)
        self._chrome()

    def _step_slot(self, step: int) -> None:
        spot = self._trail.present
        self._trail.go(Spot(spot.view, self._body.next_slot(spot.slot, step)))
        self._body.focus_slot(self._trail.present.slot)

    @on(ModelTable.Moved)
    def _cursor_moved(self) -> None:
        self._chrome()
        self._follow_cursor()

    def _follow_cursor(self) -> None:
        """Lets detail and log follow the cursor, when it has come to rest."""
        if self._follow_timer is None and len(self._body.shown) > 1 and self._list_subject() != self._followed:
            self._follow_timer = self.set_timer(FOLLOW_SECONDS, self._show_subject)

    def _list_subject(self) -> Subject | None:
        spot = self._trail.present
        return self._body.pane(spot.view).subject() if follows(spot.view) else None

    def _show_subject(self) -> None:
        """Tells detail and log what they are about: what was opened, or what is under the list's cursor."""
        self._follow_timer = None
        self._followed = self._list_subject()
        subject = self._trail.present.subject or self._followed
        for pane in self._body.shown:
            if subject is not None and pane.id in (subject.kind, "log" if subject.kind == "job" else ""):
                about: Any = pane
                about.open(subject.id)

    def _tick(self) -> None:
        if not self.screen_stack:  # it is being left
            return
        dirty = self._ticker.due(guard_of(self).behind)
        if dirty is not None:
            for pane in self._body.shown:
                if pane.is_mounted:
                    pane.tick(dirty)
        self._follow_cursor()  # no message comes of a cursor that a tick has moved: Textual spares the sender
        if dirty is not None or self._ticker.paused:
            self._chrome()

    def _chrome(self) -> None:
        """Brings the lines around the panes up to date; what has not changed is not painted."""
        if not (self._body.shown and self.screen_stack):  # the first frame is still being made, or was the last
            return
        pane = self._pane
        self._head.show(self._trail.present.view, pane.crumbs(), self._ticker.paused)
        self._foot.show(pane.hint(), context_of(self.screen.focused or pane), self.store.you.role, self.writable)
        self._small.show([too_small(self.store, self.size.width)])

    def _draw_all(self) -> None:
        for pane in self._body.shown:
            pane.shown()
        self._chrome()
        self._forget_terminal()
        self.screen.refresh(layout=True)

    def _forget_terminal(self) -> None:
        """What it shows may be another thing than was sent to it."""
        if (driver := driver_of(self)) is not None:
            driver.forget()

    async def _done(self, question: Question) -> None:
        self.say(await question.act())

    async def _feed_store(self) -> None:
        try:
            await self._feed.run()
        except GpuqError as error:
            self.refused = error
            self.call_after_refresh(self.exit)  # the panes may still be being made

    async def _guarded(self, doing: Awaitable[object]) -> None:
        """A failure that somebody can act on becomes one line; a defect ends the app, as one in a handler does."""
        try:
            await doing
        except GpuqError as error:
            self.say(error.one_line(), bad=True)
        except Exception as error:  # noqa: BLE001  (the top of a task)
            self._handle_exception(error)

    def _fatal_error(self) -> None:
        """Textual's own prints a traceback with the values of variables, secrets among them: see `crash` instead."""
        self._close_messages_no_wait()
