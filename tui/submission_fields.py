"""The fields of a submission as a person fills them in: every one is text, and says itself what is wrong with it. Pure.

They are the options of `gpuq submit`, under the same flags. What only the controller can know, it says to a dry run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpuq.arrays import parse_array
from gpuq.constraint import normal
from gpuq.errors import InvalidRequest
from gpuq.model import DependencyKind
from gpuq.units import parse_begin, parse_duration, parse_signal, parse_size

Values = Mapping[str, str]  # by key of the field; what is not there, or empty, is left to the controller
NEWEST = "@"  # in a dependency: my newest job
SINGLETON = "singleton"  # as a dependency: all of mine of the same name
MOST = 1_000_000  # gpuq/api/schemas.py MAX_COUNT
_GPUS = re.compile(r"(?:([A-Za-z0-9][\w.+-]*):)?(\d{1,6})", re.ASCII)
_ID = re.compile(r"\d{1,18}(?:_\d{1,10})?|@", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
# What a shell would do something with, outside quotes; in double quotes only the first two.
_SHELL = frozenset("$`|&;<>()*?[]#~\n")


class Field(NamedTuple):
    """One field. read: its text as what the API takes, or raises InvalidRequest."""

    key: str
    label: str
    flags: tuple[str, ...]  # the first is the one that is written
    says: str  # shown where it is empty
    read: Callable[[str, float], Any]  # text, wall seconds now
    choices: tuple[str, ...] = ()  # then it is chosen, not typed; the first is the default
    switch: bool = False  # a flag without a value, set by the second choice


def _text(text: str, _now: float) -> str:
    return text


def _number(least: int) -> Callable[[str, float], int]:
    def read(text: str, _now: float) -> int:
        if not re.fullmatch(r"-?\d{1,7}", text, re.ASCII) or not least <= int(text) <= MOST:
            raise InvalidRequest(f"'{text}' is not a whole number", f"from {least:,} to {MOST:,}")
        return int(text)

    return read


def _gpus(text: str, _now: float) -> tuple[str | None, int]:
    match = _GPUS.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"'{text}' is not a number of GPUs", "write for example 2 or H100:2")
    return match[1], int(match[2])


def _gpu_memory(text: str, _now: float) -> int:
    if text.isdigit():  # megabytes to some, gigabytes to others
        raise InvalidRequest(f"'{text}' has no unit", f"write {text}G or {text}M")
    return parse_size(text)


def _constraint(text: str, _now: float) -> str:
    normal(text)
    return text


def _array(text: str, _now: float) -> str:
    parse_array(text)
    return text


def _dependencies(text: str, _now: float) -> list[dict[str, str]]:
    """In the API's shape; the id may still be '@', and the kind SINGLETON, which has no id."""
    kinds = [kind.value for kind in DependencyKind]
    found = []
    for part in text.split(","):
        kind, *ids = part.strip().split(":")
        if part.strip() == SINGLETON:
            found.append({"kind": SINGLETON, "job": ""})
            continue
        if kind not in kinds or not ids or not all(map(_ID.fullmatch, ids)):
            raise InvalidRequest(f"'{part}' is not a dependency", f"write {', '.join(f'{k}:ID' for k in kinds)}")
        found += [{"kind": kind, "job": id} for id in ids]
    return found


def _warning(text: str, _now: float) -> dict[str, Any]:
    return dict(zip(("number", "seconds", "main_only"), parse_signal(text), strict=True))


def _nodes(text: str, _now: float) -> list[str]:
    names = re.split(r"[,\s]+", text)
    for name in names:
        if not _NODE.fullmatch(name):
            ranges = "[" in name
            raise InvalidRequest(f"'{name}' is not a node's name", "write each name out" if ranges else "n1,n2")
    return names


def _variables(text: str, _now: float) -> dict[str, str]:
    items = _split(text)
    for item in items:
        if not _ASSIGNED.match(item):
            raise InvalidRequest(f"'{item}' sets no variable", "write NAME=VALUE, several with blanks between")
    return dict(item.split("=", 1) for item in items)


def _folder(text: str, _now: float) -> str:
    if not text.startswith("/"):
        raise InvalidRequest(f"'{text}' is not an absolute path", "write it in full, as it is on the nodes")
    return text


def _command(text: str, _now: float) -> list[str]:
    """The argument list; a line that only a shell understands goes to one."""
    words = _split(text)
    return ["/bin/sh", "-c", text] if needs_shell(text) else words


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidRequest(f"{str(error).lower()} in '{text[:40]}'", "close the quote") from None


def needs_shell(text: str) -> bool:
    """Whether the line means something to a shell that an argument list cannot say: pipes, variables, patterns."""
    quote = ""
    characters = iter(text)
    for character in characters:
        if character == "\\" and quote != "'":
            next(characters, None)
        elif quote:
            if character == quote:
                quote = ""
            elif quote == '"' and character in "$`":
                return True
        elif character in "'\"":
            quote = character
        elif character in _SHELL:
            return True
    return bool(_ASSIGNED.match(text.lstrip()))


def _chosen(text: str, _now: float) -> bool:
    return text == "yes"


FIELDS: tuple[Field, ...] = (
    Field("command", "Command", (), "e.g. python train.py --lr 0.1", _command),
    Field("gpus", "GPUs", ("-G", "--gpus"), "none; e.g. 2 or H100:2", _gpus),
    Field(
        "time",
        "Time limit",
        ("-t", "--time", "--time-limit"),
        "none; e.g. 90 (minutes), 4h, 2-12:00:00",
        lambda t, _: parse_duration(t),
    ),
    Field("cwd", "Folder", ("-D", "--chdir"), "/path on the nodes", _folder),
    Field("name", "Name", ("-J", "--job-name", "--name"), "that of the program", _text),
    Field("gpu_type", "GPU type", ("--gpu-type",), "any; e.g. A100", _text),
    Field("gpu_memory", "GPU memory", ("--gpu-mem", "--gpu-memory"), "any; e.g. 24G each", _gpu_memory),
    Field(
        "shared",
        "Share GPUs",
        ("--shared",),
        "yes: it takes only GPU memory of each, beside others",
        _chosen,
        ("no", "yes"),
        switch=True,
    ),
    Field("nodes", "Nodes", ("-N", "--nodes"), "1; e.g. 2: starts on both or not at all", _number(1)),
    Field("cpus", "CPUs", ("-c", "--cpus", "--cpus-per-task"), "none reserved", _number(0)),
    Field("memory", "Memory", ("--mem", "--memory"), "none reserved; e.g. 64G", lambda t, _: parse_size(t)),
    Field("array", "Array", ("-a", "--array"), "one job; e.g. 0-99, or 0-99%8: 8 at once", _array),
    Field(
        "dependency",
        "After",
        ("-d", "--dependency"),
        "at once; e.g. afterok:1041, afterany:@ (@: my last)",
        _dependencies,
    ),
    Field("begin", "Begin", ("-b", "--begin"), "at once; e.g. now+2h, 22:00, tomorrow", parse_begin),
    Field(
        "hold",
        "Hold",
        ("-H", "--hold"),
        "yes: it waits until somebody releases it",
        _chosen,
        ("no", "yes"),
        switch=True,
    ),
    Field("queue", "Queue", ("-p", "--queue", "--partition"), "the cluster's default", _text),
    Field("priority", "Priority", ("--priority",), "0; higher starts first", _number(-MOST)),
    Field("only_nodes", "Only on", ("-w", "--nodelist"), "any node; e.g. n1,n2", _nodes),
    Field("not_nodes", "Not on", ("-x", "--exclude"), "none; e.g. n1,n2", _nodes),
    Field(
        "environment",
        "Environment",
        ("--export",),
        "login: as when its user logs in; shell: as here",
        _text,
        ("login", "shell"),
    ),
    Field("env", "Variables", ("--env",), "NAME=VALUE OTHER='a b'", _variables),
    Field("setup", "Set-up", ("--setup",), "a shell line run first", _text),
    Field("venv", "Virtualenv", ("--venv",), "a folder", _text),
    Field("conda_env", "Conda", ("--conda-env",), "an environment's name", _text),
    Field("constraint", "Constraint", ("-C", "--constraint"), "any node; e.g. h100&!rack=7", _constraint),
    Field(
        "exclusive",
        "Exclusive",
        ("--exclusive",),
        "yes: no other job on its nodes while it runs",
        _chosen,
        ("no", "yes"),
        switch=True,
    ),
    Field("max_retries", "Retries", ("--max-retries",), "0", _number(0)),
    Field(
        "requeue",
        "If node dies",
        ("--requeue", "--no-requeue"),
        "yes: it runs again elsewhere; no: it fails",
        _chosen,
        ("yes", "no"),
    ),
    Field(
        "on_lost",
        "If silent",
        ("--on-lost",),
        "keep: it stays on its silent node; fence: it is ended there",
        _text,
        ("keep", "fence"),
    ),
    Field(
        "scheduling_timeout",
        "Give up",
        ("--scheduling-timeout",),
        "never; e.g. 2h in the queue",
        lambda t, _: parse_duration(t),
    ),
    Field("output", "Output file", ("-o", "--output"), "the log alone; e.g. out-%j.txt, on its node", _text),
    Field("error", "Error file", ("-e", "--error"), "with the output; e.g. err-%j.txt, on its node", _text),
    Field(
        "open_mode",
        "Those files",
        ("--open-mode",),
        "truncate: begun anew; append: what is there stays",
        lambda t, _: t == "append",
        ("truncate", "append"),
    ),
    Field("warning", "Signal", ("--signal",), "none; e.g. USR1@120: so long before its time limit", _warning),
    Field("comment", "Comment", ("--comment",), "a note shown with the job", _text),
)
BY_KEY: Mapping[str, Field] = {field.key: field for field in FIELDS}


def is_set(field: Field, values: Values) -> bool:
    text = values.get(field.key, "").strip()
    return bool(text) and text != (field.choices[0] if field.choices else "")


def faults(values: Values, now: float, script: bool = False) -> dict[str, str]:
    """What is wrong, by field, in one line each. script: the command may be empty, it has a script to run."""
    found = {}
    for field in FIELDS:
        if is_set(field, values):
            try:
                field.read(values[field.key].strip(), now)
            except InvalidRequest as error:
                found[field.key] = error.one_line()
    if not script and not values.get("command", "").strip():
        found["command"] = "nothing to run yet"
    if is_set(BY_KEY["open_mode"], values) and not (
        is_set(BY_KEY["output"], values) or is_set(BY_KEY["error"], values)
    ):
        found["open_mode"] = "which files? name one above"
    if "gpus" not in found and not is_set(BY_KEY["gpus"], values):
        for key in ("gpu_type", "gpu_memory", "shared"):
            if key not in found and is_set(BY_KEY[key], values):
                found[key] = "no GPU is asked for: say how many"
    if "gpus" not in found and is_set(BY_KEY["gpus"], values) and is_set(BY_KEY["gpu_type"], values):
        named, asked = _gpus(values["gpus"].strip(), now)[0], values["gpu_type"].strip()
        if named is not None and named.lower() != asked.lower():
            found["gpu_type"] = f"{asked}, but GPUs asks for {named}: one type of GPU a job"
    if not found and is_set(BY_KEY["gpus"], values):
        found |= _misfits(values, now)
    return found


def _misfits(values: Values, now: float) -> dict[str, str]:
    """What does not go together, of fields that are right by themselves."""
    gpus, nodes = _gpus(values["gpus"].strip(), now)[1], values.get("nodes", "").strip() or "1"
    if gpus % int(nodes):
        return {"gpus": f"{gpus} GPUs cannot be divided among {nodes} nodes"}
    if is_set(BY_KEY["shared"], values) and not is_set(BY_KEY["gpu_memory"], values):
        return {"shared": "say how much of each GPU it takes, as GPU memory"}
    return {}
