"""The submit form: every option, the `gpuq submit` line that does the same, and what would come of it, while typing."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget
from textual.widgets import Button, Input, Static

from gpuq.errors import GpuqError, NotAuthorised, NotFound
from tui.actions import Request
from tui.form_fields import Choice, FormRow
from tui.pane import Pane
from tui.perform import sent
from tui.store import Dirty, Store
from tui.submission_fields import BY_KEY, FIELDS, Values, faults
from tui.submission_text import Place, Template, blank, body, command_line, from_job, from_line, newest_of, place_faults
from tui.text import safe

PAUSE_SECONDS = 0.3  # without a key, before the controller is asked: who types fast asks once
STALE_SECONDS = 5.0  # after which it is asked again: 'starts now' does not hold for long
TWO_COLUMNS = 100  # cells of width
LOW_ROWS = 14
TEMPLATES = 20  # of my last submissions
BUTTONS = {"send": "Submit (^s)", "template": "Last ones (^t)", "copy": "Copy the line", "clear": "Clear"}


class SubmitForm(Pane):
    """`open` fills it in. What was typed stays when one leaves it and comes back."""

    CONTEXT: ClassVar[str] = "submit"
    DEFAULT_CSS = """
    SubmitForm { height: 1fr; layout: vertical; }
    SubmitForm > Static { width: 100%; height: auto; padding: 0 1; }
    SubmitForm > #title { height: 1; background: $panel; text-style: bold; }
    SubmitForm > VerticalScroll { padding: 0 1; scrollbar-size-vertical: 1; }
    SubmitForm.-wide > VerticalScroll { layout: grid; grid-size: 2; grid-rows: 1; grid-gutter: 0 2; }
    SubmitForm > #answer { min-height: 1; max-height: 2; color: $success; text-style: bold; }
    SubmitForm > #answer.-bad { color: $error; }
    SubmitForm > #answer.-waits { color: $warning; }
    SubmitForm > #line { max-height: 4; color: $secondary; }
    SubmitForm.-low > #line { max-height: 1; }
    SubmitForm.-low > #answer { max-height: 1; }
    SubmitForm > Horizontal { height: 1; padding: 0 1; }
    SubmitForm Button { width: auto; min-width: 0; margin-right: 1; background: $surface; color: $accent; }
    SubmitForm Button:focus { text-style: bold reverse; }
    """

    def __init__(self, store: Store, *, place: Place | None = None, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self._place = place or Place()
        self._template = blank(self._place)
        self._there = False  # its fields are
        self._wanted: tuple[str, str | None] = ("", None)  # what it was opened with before they were
        self._asked = 0  # dry runs; the answer to an earlier one is dropped
        self._answered_at: float | None = None
        self._at_fault = False  # what is filled in cannot be sent as it is
        self._templates_shown = 0
        self._sending: tuple[dict[str, Any], str] | None = None  # a body whose outcome is not known, and its request id

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        with VerticalScroll(can_focus=False):
            for field in FIELDS:
                yield FormRow(field)
        yield Static(id="answer")
        yield Static(id="line")
        with Horizontal():
            for id, words in BUTTONS.items():
                yield Button(words, id=id, compact=True)

    def on_mount(self) -> None:
        self._there = True
        self._fill(self._template)
        self.open(*self._wanted)

    def open(self, line: str = "", like: str | None = None) -> None:
        """Fills the form from a line of options and command, or like a job; with neither it stays as it is."""
        if not self._there:
            self._wanted = line, like
        elif like is not None:
            self.dashboard.work(self._fill_like(like))
        elif line:
            try:
                self._fill(from_line(line, blank(self._place)))
            except GpuqError as error:
                self.dashboard.say(error.one_line(), bad=True)

    def shown(self) -> None:
        self._changed()

    def tick(self, dirty: Dirty) -> None:
        """Asks again what would come of it: the cluster goes on while one types."""
        if self._answered_at is not None and self.store.clock() - self._answered_at > STALE_SECONDS:
            self._answered_at = None
            self._ask()

    def crumbs(self) -> str:
        return "submit"

    def hint(self) -> str:
        row = self._row_in_focus()
        return "" if row is None else f"{row.field.label}: {row.field.says}{_flag(row)}"

    @property
    def complete(self) -> bool:
        return self._there

    def focal(self) -> Widget:
        rows = self._rows()
        return rows[0].entry if rows else self

    def on_focus(self) -> None:
        self.focal().focus()

    def on_resize(self) -> None:
        wide, low = self.size.width >= TWO_COLUMNS, self.size.height < LOW_ROWS
        self.set_class(wide, "-wide")
        self.set_class(low, "-low")
        rows = -(-len(FIELDS) // (2 if wide else 1))
        around = 4 if low else 7  # title, answer, line and buttons, with room for a long line
        self.query_one(VerticalScroll).styles.height = max(1, min(rows, self.size.height - around))

    # Keys

    def do_next_field(self) -> None:
        self.screen.focus_next()

    def do_previous_field(self) -> None:
        self.screen.focus_previous()

    @on(Button.Pressed, "#send")
    def do_send(self) -> None:
        found = self._faults()
        if not self.dashboard.writable:
            self.dashboard.say("submitting needs a user's token and a connection", bad=True)
        elif found:
            key = next(iter(found))
            self.query_one(f"#field-{key}", FormRow).entry.focus()
            self.dashboard.say(f"{BY_KEY[key].label}: {found[key]}", bad=True)
        else:
            self.dashboard.work(self._send())

    @on(Button.Pressed, "#template")
    def do_template(self) -> None:
        """My newest job as a template; again, the one before it."""
        mine = sorted(
            (int(row.id) for row in self.store.jobs.values() if row.user == self.store.you.user), reverse=True
        )
        if not mine:
            self.dashboard.say("you have submitted nothing that is still listed", bad=True)
            return
        id = mine[self._templates_shown % min(len(mine), TEMPLATES)]
        self._templates_shown += 1
        self.dashboard.work(self._fill_like(str(id)))

    @on(Button.Pressed, "#copy")
    def do_copy_line(self) -> None:
        self.dashboard.copy(command_line(self._values(), self._template, self._place))

    @on(Button.Pressed, "#clear")
    def do_clear(self) -> None:
        self._fill(blank(self._place))
        self._rows()[0].entry.focus()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.do_next_field()

    @on(Input.Changed)
    @on(Choice.Changed)
    def _edited(self, event: Input.Changed | Choice.Changed) -> None:
        event.stop()
        self._changed()

    # What is filled in

    def _rows(self) -> list[FormRow]:
        return list(self.query(FormRow))

    def _row_in_focus(self) -> FormRow | None:
        return next((row for row in self._rows() if row.entry.has_focus), None)

    def _values(self) -> Values:
        return {row.field.key: row.text for row in self._rows()}

    def _faults(self) -> dict[str, str]:
        values = self._values()
        found = faults(values, self.store.now(), script=self._template.script is not None)
        return found | place_faults(values, self._template, self._place)

    def _fill(self, template: Template) -> None:
        self._template, self._sending = template, None
        for row in self._rows():
            row.fill(template.values.get(row.field.key, ""))
        like = f", like {safe(template.source)}" if template.source else ""
        script = f" and its script of {len(template.script):,} characters" if template.script is not None else ""
        self.query_one("#title", Static).update(Text(f"Submit a job{like}{script}"))
        self._changed()

    async def _fill_like(self, id: str) -> None:
        get = self.dashboard.client.get
        job = await get(f"/jobs/{id}")
        script = await get(f"/jobs/{id}/script") if job.get("script") else None
        try:
            environment = await get(f"/jobs/{id}/environment")
        except (NotAuthorised, NotFound):  # another's: its variables stay its owner's
            environment = None
        self._fill(from_job(job, script, environment))
        self._rows()[0].entry.focus()

    def _body(self) -> dict[str, Any]:
        mine = (row.id for row in self.store.jobs.values() if row.user == self.store.you.user)
        values = self._values()
        newest = newest_of(list(mine)) if "@" in values.get("dependency", "") else None
        return body(values, self._template, self._place, self.store.now(), newest)

    # What would come of it

    def _changed(self) -> None:
        """Something was typed: the line is renewed at once, the controller asked when the typing pauses."""
        found = self._faults()
        for row in self._rows():
            row.set_class(row.field.key in found and bool(row.text.strip()), "-wrong")
        self.query_one("#line", Static).update(Text(safe(command_line(self._values(), self._template, self._place))))
        self._asked += 1
        self._answered_at = None
        was_at_fault, self._at_fault = self._at_fault, bool(found)
        if found:
            key = next(row.field.key for row in self._wrong_first() if row.field.key in found)
            self._answer(f"{BY_KEY[key].label}: {found[key]}", "-bad" if self._values()[key] else "-waits")
        else:
            asked = self._asked
            if was_at_fault:  # until the controller answers, what was wrong must not stand there any more
                self._answer("asking what would come of it")
            self.set_timer(PAUSE_SECONDS, lambda: self._ask() if asked == self._asked else None)

    def _wrong_first(self) -> list[FormRow]:
        """What is filled in, that in focus before all; then the empty ones."""
        return sorted(self._rows(), key=lambda row: (not row.text.strip(), not row.entry.has_focus))

    def _ask(self) -> None:
        if self.dashboard.store.link.state == "live" and self.store.you.role != "viewer":
            self.dashboard.work(self._dry_run(self._asked))

    async def _dry_run(self, asked: int) -> None:
        try:
            found = await self.dashboard.client.post("/jobs", self._body(), os.urandom(16).hex(), params={"dry_run": 1})
            text, look = _would(found)
        except GpuqError as error:
            text, look = error.one_line(), "-bad"
        if asked == self._asked:
            self._answered_at = self.store.clock()
            self._answer(text, look)

    def _answer(self, text: str, look: str = "") -> None:
        answer = self.query_one("#answer", Static)
        answer.set_class(look == "-bad", "-bad")
        answer.set_class(look == "-waits", "-waits")
        answer.update(Text(safe(text)))

    async def _send(self) -> None:
        """Submits once, however often it is asked to while the outcome is not known."""
        fields = self._body()
        if self._sending is None or self._sending[0] != fields:
            self._sending = fields, os.urandom(16).hex()
        self.dashboard.say("submitting")
        reply = await sent(self.dashboard.client, Request("POST", "/jobs", fields), self._sending[1])
        self._sending = None
        self._templates_shown = 0
        self._fill(blank(self._place))
        if self.has_focus_within:  # the way back from the job leads past the form
            self.dashboard.act("close")
        self.dashboard.open_job(reply["id"])
        self.dashboard.say(f"Submitted job {reply['id']}")


def _flag(row: FormRow) -> str:
    return f"  ({row.field.flags[0]})" if row.field.flags else ""


def _would(found: dict[str, Any]) -> tuple[str, str]:
    """The controller's answer to a dry run in words, and how it looks."""
    if found["starts_now"]:
        places = [
            f"{n['node']} (GPU {','.join(map(str, n['gpus']))})" if n["gpus"] else n["node"] for n in found["nodes"]
        ]
        return f"starts now on {', '.join(places)}", ""
    reason = found["reason"]
    return (f"waits: {reason['text']}" if reason else "waits"), "-waits"
