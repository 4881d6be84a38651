"""The `:` line and the palette: commands in words, completed from what the cluster has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import NamedTuple, cast

from textual import on
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.suggester import Suggester
from textual.widget import Widget

from gpuq.errors import GpuqError, InvalidRequest
from tui import perform
from tui.actions import Verb
from tui.keymap import ROLES, Action, actions_in, label, refusal
from tui.pane import Dashboard, context_of
from tui.prompt import Prompt
from tui.store import Store
from tui.theme import NAMES

OFFERED = 50  # completions: more is no help
VIEWS = ("overview", "jobs", "nodes", "gpus", "queues", "events")
_ID = re.compile(r"\d{1,18}(?:_\d{1,10})?", re.ASCII)

Run = Callable[[Dashboard, Sequence[str]], None]


class Command(NamedTuple):
    name: str
    takes: str  # as help writes it; '' for nothing
    help: str
    run: Run
    completes: str = ""  # with what: 'job', 'node', 'theme'
    role: str = "viewer"


def run(text: str, dashboard: Dashboard, context: str) -> None:
    """Does what the line says; raises InvalidRequest where it says nothing that gpuq knows.

    context: of the pane it is typed over, whose actions are commands too.
    """
    name, rest = _parted(text)
    if not name:
        return
    if _ID.fullmatch(name) and not rest:
        dashboard.open_job(name)
        return
    name = _ALSO.get(name, name)
    command = BY_NAME.get(name)
    action = next((a for a in actions_in(context) if a.id == name.replace("-", "_")), None)
    found = command or action
    if found is None:
        near = get_close_matches(name, [known.name for known in COMMANDS if allowed_to(known, dashboard)], n=1)
        then = f"did you mean {near[0]}?" if near else "Tab completes, ? shows what works here"
        raise InvalidRequest(f"there is no command '{name}'", then)
    if not allowed_to(found, dashboard):
        store = dashboard.store
        raise InvalidRequest(refusal(found, store.you.role, store.link.state == "live"))
    if command is not None and (rest or not (action and command.takes)):
        command.run(dashboard, rest)
    else:  # `:cancel` alone means what is marked or under the cursor
        dashboard.act(name.replace("-", "_"))


def allowed_to(what: Command | Action, dashboard: Dashboard) -> bool:
    """Whether this user may do it, now."""
    if what.role == "viewer":
        return True
    return dashboard.writable and ROLES.index(dashboard.store.you.role) >= ROLES.index(what.role)


def completions(text: str, store: Store, context: str) -> list[str]:
    """Whole lines that this one may become, the likeliest first."""
    head, blank, last = text.rpartition(" ")
    if not blank:
        names = [*BY_NAME, *(action.id for action in actions_in(context))]
        return [name for name in dict.fromkeys(names) if name.startswith(last)]
    command = BY_NAME.get(head.split()[0]) if head.split() else None
    words = _words(command.completes if command else "", store)
    return [f"{head} {word}" for word in islice((word for word in words if word.startswith(last)), OFFERED)]


def _words(kind: str, store: Store) -> Iterator[str]:
    if kind == "job":
        return iter(store.jobs)
    if kind == "node":
        return iter(store.nodes)
    return iter(NAMES if kind == "theme" else ())


def _parted(text: str) -> tuple[str, list[str]]:
    name, _, rest = text.strip().partition(" ")
    if name in _RAW:
        return name, [rest.strip()] if rest.strip() else []
    try:
        return name, shlex.split(rest)
    except ValueError as error:
        raise InvalidRequest(f"{str(error).lower()} in the line", "close the quote") from None


def _view(name: str) -> Run:
    return lambda dashboard, words: dashboard.open_view(name, filter=words[0] if words else None)


def _one(act: Callable[[Dashboard, str], None], noun: str) -> Run:
    def run(dashboard: Dashboard, words: Sequence[str]) -> None:
        if len(words) != 1:
            raise InvalidRequest(f"name one {noun}")
        act(dashboard, words[0])

    return run


def _jobs(verb: Verb) -> Run:
    def run(dashboard: Dashboard, words: Sequence[str]) -> None:
        perform.on_jobs(dashboard, verb, _ids(words))

    return run


def _nodes(verb: Verb) -> Run:
    def run(dashboard: Dashboard, words: Sequence[str]) -> None:
        if not words:
            raise InvalidRequest("no node is named", f"write {verb.value} n0412")
        perform.on_nodes(dashboard, verb, words)

    return run


def _ids(words: Sequence[str]) -> list[str]:
    ids = [id for word in words for id in word.split(",")]
    if not ids:
        raise InvalidRequest("no job is named", "write its id, such as 1042 or 1042_7")
    if wrong := next((id for id in ids if not _ID.fullmatch(id)), None):
        raise InvalidRequest(f"'{wrong}' is not a job id", "ids are like 1042 or 1042_7")
    return ids


def _priority(dashboard: Dashboard, words: Sequence[str]) -> None:
    if len(words) < 2 or not re.fullmatch(r"-?\d{1,7}", words[-1], re.ASCII):
        raise InvalidRequest("write a job and a number", "such as priority 1042 -5")
    perform.on_jobs(dashboard, Verb.PRIORITY, _ids(words[:-1]), int(words[-1]))


def _submit(dashboard: Dashboard, words: Sequence[str]) -> None:
    dashboard.open_submit(line=words[0] if words else "")


_RAW = frozenset({*VIEWS, "submit"})  # what follows is a filter or a command line, with quotes of its own

COMMANDS: tuple[Command, ...] = (
    *(Command(name, "[FILTER]" if name != "overview" else "", f"show {name}", _view(name)) for name in VIEWS),
    Command("job", "JOB", "everything about a job", _one(lambda d, id: d.open_job(_ids([id])[0]), "job"), "job"),
    Command("why", "JOB", "why a job waits", _one(lambda d, id: d.open_job(_ids([id])[0]), "job"), "job"),
    Command("log", "JOB", "a job's log", _one(lambda d, id: d.open_log(_ids([id])[0]), "job"), "job"),
    Command("node", "NODE", "everything about a node", _one(lambda d, name: d.open_node(name), "node"), "node"),
    Command("submit", "[OPTIONS] [COMMAND]", "fill in a job", _submit, role="user"),
    Command(
        "clone", "JOB", "fill in a job like this one", _one(lambda d, id: d.open_submit(like=id), "job"), "job", "user"
    ),
    Command("cancel", "JOB...", "cancel jobs (asks first)", _jobs(Verb.CANCEL), "job", "user"),
    Command("kill", "JOB", "cancel a LOST job by force (type the id)", _jobs(Verb.KILL), "job", "user"),
    Command("requeue", "JOB...", "stop jobs, and queue them again (asks first)", _jobs(Verb.REQUEUE), "job", "user"),
    Command("hold", "JOB...", "keep jobs from starting", _jobs(Verb.HOLD), "job", "user"),
    Command("release", "JOB...", "let held jobs start", _jobs(Verb.RELEASE), "job", "user"),
    Command("priority", "JOB... N", "change the priority of jobs", _priority, "job", "user"),
    Command("cordon", "NODE...", "no new work there", _nodes(Verb.CORDON), "node", "admin"),
    Command("uncordon", "NODE...", "work there again", _nodes(Verb.UNCORDON), "node", "admin"),
    Command("drain", "NODE...", "no new work there, for good (asks first)", _nodes(Verb.DRAIN), "node", "admin"),
    Command("theme", "NAME", f"colours: {', '.join(NAMES)}", _one(lambda d, name: d.set_theme(name), "theme"), "theme"),
    Command("q", "", "quit", lambda d, _: d.act("quit")),
)
BY_NAME = {command.name: command for command in COMMANDS}
# As `gpuq` on the command line, k9s and vi call them.
_ALSO = {
    "show": "job", "describe": "job", "logs": "log", "ls": "jobs", "exit": "q", "quit": "q", "q!": "q", "wq": "q",
    "h": "help", "ov": "overview", "no": "nodes", "ev": "events", "map": "gpus",
}  # fmt: skip


class CommandLine(Prompt):
    """The `:` line. It does what it says itself, and gives the focus back first: commands mean what had it."""

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(placeholder="a command, or a job's id; Tab completes", id=id)
        self._store = store
        self._before: Widget | None = None  # what had the focus
        self._offered: list[str] = []  # completions Tab goes through
        self.suggester = _Ghost(self)

    def ask(self, text: str = "") -> None:
        if self.screen.focused is not self:
            self._before = self.screen.focused
        self._offered = []
        super().ask(text)

    def do_complete(self) -> None:
        """The next completion, round and round."""
        if self.value not in self._offered:
            self._offered = completions(self.value, self._store, context_of(self._before))
        if self._offered:
            at = self._offered.index(self.value) + 1 if self.value in self._offered else 0
            self.value = self._offered[at % len(self._offered)]
            self.cursor_position = len(self.value)

    @on(Prompt.Answered)
    def _answered(self, event: Prompt.Answered) -> None:
        event.stop()
        if self._before is not None and self._before.is_attached:
            self._before.focus()
        if event.text is None:
            return
        dashboard = cast(Dashboard, self.app)
        try:
            run(event.text, dashboard, context_of(self._before))
        except GpuqError as error:
            dashboard.say(error.one_line(), bad=True)


class _Ghost(Suggester):
    """The first completion, behind what is typed; Right takes it."""

    def __init__(self, line: CommandLine) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._line = line

    async def get_suggestion(self, value: str) -> str | None:
        offered = completions(value, self._line._store, context_of(self._line._before))
        return offered[0] if value and offered else None


class CommandProvider(Provider):
    """The same commands for the palette, and what keys do here."""

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for text, help, act in self._all():
            if (score := matcher.match(text)) > 0:
                yield Hit(score, matcher.highlight(text), act, text=text, help=help)

    async def discover(self) -> Hits:
        for text, help, act in self._all():
            yield DiscoveryHit(text, act, text=text, help=help)

    def _all(self) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """(what it does, how else, how to do it)."""
        dashboard, seen = cast(Dashboard, self.app), set[str]()
        for action in actions_in(context_of(self.focused)):
            if action.id not in seen and action.id not in ("palette", "command") and allowed_to(action, dashboard):
                seen.add(action.id)
                yield action.help, f"key {label(action.keys[0])}", partial(dashboard.act, action.id)
        for command in COMMANDS:
            if command.name not in seen and command.takes and allowed_to(command, dashboard):
                yield f"{command.name} {command.takes}", command.help, partial(self._type, f"{command.name} ")

    def _type(self, text: str) -> None:
        """Begins the command on the `:` line, where the rest of it is typed."""
        cast(Dashboard, self.app).ask_command(text)
