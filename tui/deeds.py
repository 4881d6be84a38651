"""Actions on what the focused pane is about, whichever pane that is: the marked rows, else what is under the cursor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tui import perform
from tui.actions import Verb
from tui.pane import Dashboard, Pane

Deed = Callable[[Dashboard, Sequence[str]], None]


def _jobs(verb: Verb) -> Deed:
    return lambda dashboard, ids: perform.on_jobs(dashboard, verb, ids)


# action id in keymap.ACTIONS -> what it does to jobs of these ids
ON_JOBS: Mapping[str, Deed] = {
    "log": lambda dashboard, ids: dashboard.open_log(ids[0]),
    "clone": lambda dashboard, ids: dashboard.open_submit(like=ids[0]),
    "cancel": _jobs(Verb.CANCEL),
    "kill": _jobs(Verb.KILL),
    "requeue": _jobs(Verb.REQUEUE),
    "hold": perform.hold_or_release,
    "priority": perform.ask_priority,
}
# ... and to nodes of these names
ON_NODES: Mapping[str, Deed] = {
    "cordon": perform.cordon_or_uncordon,
    "drain": lambda dashboard, names: perform.on_nodes(dashboard, Verb.DRAIN, names),
}


def do_to_subjects(dashboard: Dashboard, pane: Pane, id: str) -> None:
    """Does the action of this id to what the pane is about, or says why that cannot be."""
    subject = pane.subject()
    for kind, deeds in (("job", ON_JOBS), ("node", ON_NODES)):
        if id in deeds and subject is not None and subject.kind == kind:
            deeds[id](dashboard, pane.marked() or [subject.id])
            return
    dashboard.say("nothing is chosen" if subject is None else f"not for a {subject.kind}", bad=True)
