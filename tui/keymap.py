"""Every key of the dashboard, in one table. Dispatch, help, palette and tests read it; nothing else binds a key.

A key is looked up in the context of the focused pane, then in the contexts that one includes (`CHAINS`). An action is
the method `do_<id>` of the focused widget, of what is around it, or of the app: the first that has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

ROLES = ("viewer", "user", "admin")


class Action(NamedTuple):
    context: str
    keys: tuple[str, ...]  # as Textual names them
    id: str
    help: str
    role: str = "viewer"  # the least that is offered it
    tag: str = "go"  # under which heading help lists it
    short: str = ""  # its word in the line of keys; '' where it is left to help


ACTIONS: tuple[Action, ...] = (
    Action("app", ("question_mark", "f1"), "help", "what works here", short="help"),
    Action("app", ("colon",), "command", "type a command", short="command"),
    Action("app", ("ctrl+p",), "palette", "find a command"),
    Action("app", ("1",), "view_overview", "overview"),
    Action("app", ("2",), "view_jobs", "jobs"),
    Action("app", ("3",), "view_nodes", "nodes"),
    Action("app", ("4",), "view_gpus", "map of all GPUs"),
    Action("app", ("5",), "view_queues", "queues"),
    Action("app", ("6",), "view_events", "events"),
    Action("app", ("tab",), "next_pane", "next pane"),
    Action("app", ("shift+tab",), "previous_pane", "pane before"),
    Action("app", ("escape",), "close", "close, clear filter, clear marks, back"),
    Action("app", ("q",), "back", "back; on a first view, quit"),
    Action("app", ("minus",), "last_view", "the view before"),
    Action("app", ("left_square_bracket",), "history_back", "back in history"),
    Action("app", ("right_square_bracket",), "history_forward", "forward in history"),
    Action("app", ("z",), "zoom", "this pane alone, and back", tag="screen"),
    Action("app", ("p",), "pause", "pause painting; data still comes in", tag="screen", short="pause"),
    Action("app", ("T",), "next_theme", "next theme", tag="screen"),
    Action("app", ("V",), "link_values", "figures of the connection", tag="screen"),
    # No text: they work in forms, dialogs and lines that are typed into as well.
    Action("always", ("ctrl+l",), "resync", "draw anew, fetch anew", tag="screen"),
    Action("always", ("ctrl+c",), "interrupt", "copy, or say how to quit", tag="screen"),
    Action("always", ("ctrl+z",), "suspend", "to the shell; fg leads back", tag="screen"),
    Action("always", ("ctrl+q",), "quit", "quit", tag="screen"),
    Action("app", ("s",), "submit", "submit a job", role="user", tag="act", short="submit"),
    # What moves: rows of a list, lines of a detail, cells of the map.
    Action("move", ("j", "down"), "cursor_down", "down", tag="move"),
    Action("move", ("k", "up"), "cursor_up", "up", tag="move"),
    Action("move", ("g", "home"), "first", "to the first", tag="move"),
    Action("move", ("G", "end"), "last", "to the last", tag="move"),
    Action("move", ("ctrl+d",), "half_down", "half a page down", tag="move"),
    Action("move", ("ctrl+u",), "half_up", "half a page up", tag="move"),
    Action("move", ("pagedown", "ctrl+f"), "page_down", "a page down", tag="move"),
    Action("move", ("pageup", "ctrl+b"), "page_up", "a page up", tag="move"),
    Action("sideways", ("left",), "left", "sideways to the left", tag="move"),
    Action("sideways", ("right",), "right", "sideways to the right", tag="move"),
    Action("list", ("enter",), "open", "open what is under the cursor", tag="open", short="open"),
    Action("list", ("d",), "describe", "everything about it", tag="open"),
    Action("list", ("slash",), "filter", "filter: words, user=bob, gpu>4, !not", tag="list", short="filter"),
    Action("ordered", ("o",), "sort", "sort by a column", tag="list", short="sort"),
    Action("ordered", ("O",), "reverse", "turn the order round", tag="list"),
    Action("list", ("w",), "wide", "wide columns", tag="list"),
    Action("list", ("space",), "mark", "mark, and on to the next", tag="list", short="mark"),
    Action("list", ("v",), "mark_range", "mark from the last mark to here", tag="list"),
    Action("list", ("asterisk",), "mark_all", "mark all that the filter shows", tag="list"),
    Action("list", ("c",), "copy_id", "copy its id", tag="copy"),
    Action("list", ("y",), "copy_record", "copy all of its fields", tag="copy"),
    Action("list", ("e",), "export", "save these rows to a file", tag="copy"),
    Action("jobs", ("m",), "mine", "mine only, and back", tag="list", short="mine"),
    Action("jobs", ("a",), "all_states", "ended ones too, and back", tag="list", short="all"),
    # On the job under the cursor, or the one that is shown, or those marked.
    Action("job_log", ("l",), "log", "its log", tag="open", short="log"),
    Action("job_actions", ("x",), "cancel", "cancel (asks first)", role="user", tag="act", short="cancel"),
    Action("job_actions", ("X",), "kill", "cancel by force (type the id)", role="user", tag="act"),
    Action("job_actions", ("r",), "requeue", "requeue (asks first)", role="user", tag="act"),
    Action("job_actions", ("H",), "hold", "hold, or release", role="user", tag="act"),
    Action("job_actions", ("P",), "priority", "change its priority", role="user", tag="act"),
    Action("job_actions", ("S",), "clone", "submit one like it", role="user", tag="act"),
    Action("node_actions", ("u",), "cordon", "cordon, or uncordon", role="admin", tag="act", short="cordon"),
    Action("node_actions", ("D",), "drain", "drain: no new work (asks first)", role="admin", tag="act", short="drain"),
    Action("gpus", ("enter", "d"), "open", "open the node", tag="open", short="open"),
    Action("gpus", ("slash",), "filter", "filter: words of node, job, user; !not", tag="list", short="filter"),
    Action("gpus", ("v",), "metric", "utilisation, memory, temperature, owner", tag="screen", short="metric"),
    Action("detail", ("enter", "d"), "open", "open what is under the cursor", tag="open", short="open"),
    Action("detail", ("c",), "copy_id", "copy its id", tag="copy"),
    Action("detail", ("y",), "copy_record", "copy all of its fields", tag="copy"),
    Action("log", ("f",), "follow", "follow; any move upwards ends it", tag="screen", short="follow"),
    Action("log", ("slash",), "search", "search the whole log", tag="list", short="search"),
    Action("log", ("n",), "next_match", "next match", tag="list", short="next"),
    Action("log", ("N",), "previous_match", "match before", tag="list"),
    Action("log", ("ampersand",), "only_matches", "only lines that match, and back", tag="list", short="only"),
    Action("log", ("escape",), "close", "end the search; then, back"),
    Action("log", ("w",), "wrap", "wrap long lines", tag="screen", short="wrap"),
    Action("log", ("t",), "times", "when lines arrived", tag="screen"),
    Action("log", ("i",), "offsets", "where in the file lines begin", tag="screen"),
    Action("log", ("R",), "rank", "next rank of a job on several nodes", tag="screen"),
    Action("log", ("A",), "attempt", "attempt before", tag="screen"),
    Action("log", ("e",), "export", "save it to a file", tag="copy", short="save"),
    Action("log", ("c",), "copy_id", "copy the line", tag="copy"),
    Action("submit", ("ctrl+s",), "send", "submit it", role="user", tag="act", short="submit it"),
    Action(
        "submit",
        ("ctrl+t",),
        "template",
        "the submission before as a template",
        role="user",
        tag="act",
        short="last one",
    ),
    Action("submit", ("down",), "next_field", "next field; so does Enter", tag="move"),
    Action("submit", ("up",), "previous_field", "field before", tag="move"),
    Action("submit", ("escape",), "close", "leave the form; what is typed stays", short="leave"),
    Action("submit", ("f1",), "help", "what works here", short="help"),
    Action("choice", ("space", "right"), "next_choice", "next choice", tag="move"),
    Action("choice", ("left",), "previous_choice", "choice before", tag="move"),
    Action("dialog", ("y",), "yes", "yes", tag="act", short="yes"),
    Action("dialog", ("n", "escape"), "no", "no", tag="act", short="no"),
    Action("dialog", ("left", "right"), "other_answer", "to the other answer; Enter gives it", tag="move"),
    Action("help", ("escape", "q", "question_mark", "f1"), "close", "close", short="close"),
    Action("prompt", ("escape",), "close", "leave the line as it was", short="leave"),
    Action("prompt", ("enter",), "accept", "done", short="done"),
    Action("prompt", ("tab",), "complete", "complete"),
    Action("prompt", ("up",), "earlier", "what was typed before"),
    Action("prompt", ("down",), "later", "what was typed after"),
)

# In the line of keys, where there is seldom room for all: what people come for first, and what they soon know last.
# Ids that are not here are of one view alone, and come before these.
LINE = ("open", "log", "cancel", "submit", "filter", "mark", "mine", "all_states", "sort", "command", "pause")

# Where a key is looked up, nearest first. In a form, a dialog or a line that is typed into, the app's keys are text.
CHAINS: Mapping[str, tuple[str, ...]] = {
    "overview": ("detail", "job_log", "job_actions", "move", "app", "always"),
    "jobs": ("jobs", "list", "ordered", "job_log", "job_actions", "move", "sideways", "app", "always"),
    "nodes": ("list", "ordered", "node_actions", "move", "sideways", "app", "always"),
    "gpus": ("gpus", "node_actions", "move", "sideways", "app", "always"),
    "queues": ("list", "move", "sideways", "app", "always"),
    "events": ("list", "move", "sideways", "app", "always"),
    "job": ("detail", "job_log", "job_actions", "move", "app", "always"),
    "node": ("detail", "node_actions", "move", "app", "always"),
    "log": ("log", "job_actions", "move", "sideways", "app", "always"),
    "submit": ("submit", "always"),
    "choice": ("choice", "submit", "always"),
    "dialog": ("dialog", "always"),
    "help": ("help", "move", "always"),
    "app": ("app", "always"),  # nothing has the focus
    "prompt": ("prompt", "always"),
}

_LABELS = {
    "question_mark": "?",
    "colon": ":",
    "minus": "-",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "slash": "/",
    "asterisk": "*",
    "ampersand": "&",
    "pagedown": "PgDn",
    "pageup": "PgUp",
    "escape": "Esc",
    "enter": "Enter",
    "space": "Space",
    "tab": "Tab",
    "shift+tab": "S-Tab",
    "home": "Home",
    "end": "End",
    "down": "Down",
    "up": "Up",
    "left": "Left",
    "right": "Right",
    "f1": "F1",
}


def label(key: str) -> str:
    """A key as people write it: '?' for 'question_mark', '^d' for 'ctrl+d'."""
    return _LABELS.get(key, f"^{key[5:]}" if key.startswith("ctrl+") else key)


def allowed(action: Action, role: str, writable: bool = True) -> bool:
    """Whether somebody of this role is offered the action. writable: not --read-only, and not offline."""
    if action.role == "viewer":
        return True
    return writable and role in ROLES and ROLES.index(role) >= ROLES.index(action.role)


class Guarded(Protocol):
    """What not everybody may do: an action, or a command of the `:` line."""

    @property
    def help(self) -> str: ...
    @property
    def role(self) -> str: ...


def refusal(what: Guarded, role: str, live: bool) -> str:
    """Why it is not allowed at present, in one line."""
    words = what.help.partition(" (")[0]
    if role not in ROLES or ROLES.index(role) < ROLES.index(what.role):
        return f"{words}: needs the role {what.role}, you are {role}"
    return f"{words}: not {'with --read-only' if live else 'while offline'}"


def actions_in(context: str) -> Iterator[Action]:
    """What works in a context, nearest first."""
    for name in CHAINS[context]:
        yield from (action for action in ACTIONS if action.context == name)


def find(context: str, key: str) -> Action | None:
    """The action of a key in a context."""
    return _BY_KEY[context].get(key)


_BY_KEY: Mapping[str, Mapping[str, Action]] = {
    # Reversed, so that the nearest is laid over the others.
    context: {key: action for action in reversed([*actions_in(context)]) for key in action.keys}
    for context in CHAINS
}
