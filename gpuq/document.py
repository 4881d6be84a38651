"""The cluster's settings as a document: read, written, compared.

A document is what a TOML file or a JSON object holds: `version`, [cluster], [queues.NAME], [quotas.USER]. It is whole:
what it leaves out has its default, and queues and quotas it does not name are gone. Durations are text with units.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from gpuq.errors import InvalidRequest
from gpuq.settings import MAX_NAME, ClusterSettings, Queue, Quota, Setting, Settings, is_name, settings_in, span, toml

_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
MOST_SAID = 20  # problems in the one line that an error is
# Every submission looks through the queues, and everyone who asks gets all of it.
MOST_QUEUES = 1_000
MOST_QUOTAS = 10_000
_SHOWN = 60  # characters of a name that is none

# ---------------------------------------------------------------- reading


class BadSettings(InvalidRequest):
    """A document that cannot be used. problems: all there are, one line each, beginning with where."""

    problems: Sequence[str] = ()

    @classmethod
    def of(cls, problems: Sequence[str]) -> BadSettings:
        more = len(problems) - MOST_SAID
        error = cls("; ".join(problems[:MOST_SAID]) + (f"; and {more} more" if more > 0 else ""))
        error.problems = problems
        return error


def read(document: Mapping[str, object]) -> tuple[Settings, int | None]:
    """The settings a document asks for, without a version of their own, and the version it says it was made from.

    Raises BadSettings.
    """
    problems: list[str] = []
    based_on = document.get("version")
    if based_on is not None and (type(based_on) is not int or not 0 <= based_on < 1 << 63):
        problems.append("version: must be the number that `gpuq config show` gave")
    for name in sorted(document.keys() - {"version", "cluster", "queues", "quotas"}):
        problems.append(f"{name[:_SHOWN]}: there is no such table; known: cluster, queues, quotas")
    cluster = ClusterSettings(**_values(ClusterSettings, "cluster", document.get("cluster"), problems))
    queues = _named("queues", Queue, MOST_QUEUES, document.get("queues"), problems)
    quotas = _named("quotas", Quota, MOST_QUOTAS, document.get("quotas"), problems)
    settings = Settings(
        0,
        cluster,
        tuple(Queue(name, **values) for name, values in queues.items()),
        tuple(Quota(name, **values) for name, values in quotas.items()),
    )
    problems += _contradictions(settings)
    if problems:
        raise BadSettings.of(problems)
    return settings, based_on if isinstance(based_on, int) else None


def _values(table: type, path: str, given: object, problems: list[str]) -> dict[str, Any]:
    """The values in one table, by name; what cannot be used is left out and added to the problems."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(f"{path}: must be a table, [{path}]")
        return {}
    known = {setting.name: setting for setting in settings_in(table)}
    values = {}
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name[:_SHOWN], known, n=1) if len(problems) < MOST_SAID else ()
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            problems.append(f"{path}.{name[:_SHOWN]}: there is no such setting; {hint}")
        elif value is not None:  # JSON's way to say 'not set'
            try:
                values[name] = known[name].kind.read(value)
            except InvalidRequest as error:
                problems.append(f"{path}.{name}: {error.one_line()}")
    return values


def _named(path: str, table: type, most: int, given: object, problems: list[str]) -> dict[str, dict[str, Any]]:
    """The values of each table below [queues] or [quotas], by name."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(each, Mapping) for each in given.values()):
        problems.append(f"{path}: must hold tables, such as [{path}.NAME]")
        return {}
    if len(given) > most:
        problems.append(f"{path}: there are {len(given)}, at most {most} may be")
        return {}
    for name in given:
        if path == "queues" and not (_QUEUE_NAME.fullmatch(name) and len(name) <= MAX_NAME):
            form = "may hold letters, digits, '.', '_' and '-', and begins with a letter or digit"
            problems.append(f"{path}.{name[:_SHOWN]}: a queue's name {form}")
        elif not is_name(name):
            problems.append(f"{path}.{name[:_SHOWN]}: is not the name of a user")
    return {name: _values(table, f"{path}.{name}", given[name], problems) for name in sorted(given)}


def _contradictions(settings: Settings) -> Iterator[str]:
    """What no value says alone."""
    cluster, queues = settings.cluster, settings.queues
    if cluster.lost_after <= cluster.suspect_after:
        yield f"cluster.lost_after: must be longer than suspect_after, {span(cluster.suspect_after)}"
    for queue in queues:
        if queue.max_time is not None and queue.default_time is not None and queue.default_time > queue.max_time:
            yield f"queues.{queue.name}.default_time: is longer than max_time, {span(queue.max_time)}"
    defaults = [queue.name for queue in queues if queue.default]
    if len(queues) > 1 and len(defaults) != 1:
        names = ", ".join(defaults or (queue.name for queue in queues))
        yield f"queues: exactly one must have default = true, {'not' if defaults else 'out of'} {names}"


# ---------------------------------------------------------------- writing one


def document_of(settings: Settings) -> dict[str, Any]:
    """The settings as a document: every name, None where nothing is set. `read` gives the same settings back."""
    return {
        "version": settings.version,
        "cluster": _plain(settings.cluster),
        "queues": {queue.name: _plain(queue) for queue in settings.queues},
        "quotas": {quota.user: _plain(quota) for quota in settings.quotas},
    }


def _plain(table: object) -> dict[str, Any]:
    return {setting.name: setting.plain(getattr(table, setting.name)) for setting in settings_in(type(table))}


_HEAD = """\
# The settings of this cluster. Change this file, then: gpuq config apply FILE
# It is whole: what it leaves out has its default, and queues and quotas it does not name are gone.
# "Kept only" marks what is checked and stored, but does nothing in this version of gpuq.
"""
_QUEUES = """
# Queues, each in a table of its own, [queues.NAME]. Without any there is one, main, without limits.
"""
_QUOTAS = """
# Quotas, each in a table of its own, [quotas.USER].
"""


def render(settings: Settings) -> str:
    """The document as TOML, with what each name means and its default."""
    lines = [_HEAD, "# Of when this is: applied after somebody else's change, it is refused. Without it, it is not.\n"]
    lines += [f"version = {settings.version}\n", "\n[cluster]\n"]
    for setting in settings_in(ClusterSettings):
        lines += ["\n" if setting.name != "visibility" else "", f"# {_explained(setting)}\n"]
        lines.append(_assigned(setting, getattr(settings.cluster, setting.name)))
    for head, table, path in ((_QUEUES, Queue, "queues"), (_QUOTAS, Quota, "quotas")):
        lines += [head, *(f"#   {setting.name}: {_explained(setting)}\n" for setting in settings_in(table))]
        for name, each in _by_name(settings, path).items():
            lines.append(f"\n[{path}.{_key(name)}]\n")
            changed = ((setting, getattr(each, setting.name)) for setting in settings_in(table))
            lines += [_assigned(setting, value) for setting, value in changed if value != setting.default]
    return "".join(lines)


def _explained(setting: Setting) -> str:
    default = "not set" if setting.default is None else toml(setting.plain(setting.default))
    return f"{setting.meaning}. Default: {default}{'' if setting.acts else '. Kept only'}"


def _assigned(setting: Setting, value: Any) -> str:
    return f"# {setting.name} =\n" if value is None else f"{setting.name} = {toml(setting.plain(value))}\n"


def _by_name(settings: Settings, path: str) -> dict[str, Queue | Quota]:
    if path == "queues":
        return {queue.name: queue for queue in settings.queues}
    return {quota.user: quota for quota in settings.quotas}


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml(name)


# ---------------------------------------------------------------- comparing two


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that changes, or a queue or quota that comes or goes. Values as a document has them; None: not set."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if isinstance(self.after, Mapping):
            return f"{self.path}: added{_within(self.after)}"
        if isinstance(self.before, Mapping):
            return f"{self.path}: removed{_within(self.before)}"
        return f"{self.path}: {_shown(self.before)} -> {_shown(self.after)}"


def differences(old: Settings, new: Settings) -> list[Difference]:
    """What changes from old to new, versions aside, in the order a document has."""
    found = _compare("cluster", old.cluster, new.cluster)
    for path in ("queues", "quotas"):
        before, after = _by_name(old, path), _by_name(new, path)
        for name in sorted(before.keys() | after.keys()):
            found += _compare(f"{path}.{name}", before.get(name), after.get(name))
    return found


def _compare(path: str, old: object | None, new: object | None) -> list[Difference]:
    if old is None or new is None:
        return [Difference(path, None if old is None else _set(old), None if new is None else _set(new))]
    before, after = _plain(old), _plain(new)
    return [Difference(f"{path}.{name}", before[name], after[name]) for name in before if before[name] != after[name]]


def _set(table: object) -> dict[str, Any]:
    """The values of a table that are not the default, as a document has them."""
    values = ((setting, getattr(table, setting.name)) for setting in settings_in(type(table)))
    return {setting.name: setting.plain(value) for setting, value in values if value != setting.default}


def _within(table: Mapping[str, Any]) -> str:
    return "".join(f", {name} = {toml(value)}" for name, value in table.items())


def _shown(value: object) -> str:
    return "not set" if value is None else toml(value)


def kept_only(settings: Settings) -> list[str]:
    """Paths of what is set and does nothing in this version."""
    tables: dict[str, object] = {"cluster": settings.cluster}
    for path in ("queues", "quotas"):
        tables |= {f"{path}.{name}": table for name, table in _by_name(settings, path).items()}
    return [
        f"{path}.{setting.name}"
        for path, table in tables.items()
        for setting in settings_in(type(table))
        if not setting.acts and getattr(table, setting.name) != setting.default
    ]
