"""From the words of a command line to a submission: the script's lines under the options, folder and environment.

Everything here is decided without asking the controller; what a dependency '@' means is filled in by `submit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from gpuq.cli.environment import Environment, choose_environment
from gpuq.cli.options import given, overlay, read_lines, takes_value
from gpuq.cli.resources import SINGLETON, Dependency, gpu_request
from gpuq.cli.script import read_directives, read_script
from gpuq.cli.slurm import hint
from gpuq.errors import InvalidRequest
from gpuq.units import plural


class Place(NamedTuple):
    """Where a command is submitted: this folder, these variables, and whether jobs can run on this very machine."""

    cwd: str | None
    variables: Mapping[str, str]
    on_cluster: bool


class Prepared(NamedTuple):
    """fields: protocol.Submission as JSON, without `dependencies`; notes: what the user should know, one a line."""

    fields: dict[str, Any]
    dependencies: list[Dependency]
    environment: Environment
    options: dict[str, Any]  # every option in force, from the command line and the script
    notes: list[str]


def prepare(ctx: click.Context, where: Callable[[], Place]) -> Prepared:
    """The submission that a parsed `submit` or `run` stands for; raises InvalidRequest or click.UsageError.

    `where` is asked last: it has to know of a controller, and wrong usage should be told to whoever has none.
    """
    options = given(ctx)
    words: Sequence[str] = options.pop("words", ())
    notes: list[str] = []
    script: str | None = None
    if "wrap" not in options and words:
        script = read_script(words[0])
    if script is not None:
        found = read_directives(words[0], script, takes_value(ctx.command))
        notes += _ignored(words[0], found.ignored)
        slurm = read_lines(ctx.command, words[0], found.sbatch)
        own = read_lines(ctx.command, words[0], found.gpuq)
        options = overlay(overlay(slurm, own), options)
    elif len(words) == 1 and " " in words[0]:
        notes.append(f"'{words[0]}' is taken for the name of one program; --wrap '...' runs a line of shell")
    fields = _what(words, script, options, ctx)
    asked = _asked(options)
    place = where()
    fields["cwd"] = _folder(options.get("chdir"), place)
    environment = choose_environment(place.variables, options.get("export"), options.get("env", ()), place.on_cluster)
    if environment.dropped:
        notes.append(f"not sent, as their values are not UTF-8 text: {', '.join(environment.dropped)}")
    fields["environment"] = environment.environment
    fields["changes"] = environment.changes
    fields.update(asked)
    kept = {name: value for name, value in fields.items() if value is not None and value != {}}
    waits = options.get("dependency", [])
    if any(each.kind == SINGLETON for each in waits):
        kept["singleton"] = True
    return Prepared(kept, [each for each in waits if each.kind != SINGLETON], environment, options, notes)


def _ignored(name: str, items: Sequence[tuple[int, str]]) -> list[str]:
    """One line for each reason: a script from elsewhere has many such options, and is submitted many times."""
    reasons: dict[str, list[tuple[int, str]]] = {}
    for number, item in items:
        reasons.setdefault(hint(item) or "gpuq has no such option", []).append((number, item))
    notes = []
    for reason, found in reasons.items():
        lines = list(dict.fromkeys(str(number) for number, _ in found))
        options = ", ".join(item for _, item in found)
        are = "is" if len(found) == 1 else "are"
        notes.append(f"{name} {plural(len(lines), 'line')} {', '.join(lines)}: {options} {are} ignored: {reason}")
    return notes


def _what(words: Sequence[str], script: str | None, options: Mapping[str, Any], ctx: click.Context) -> dict[str, Any]:
    name = options.get("name")
    if (wrap := options.get("wrap")) is not None:
        if words or script is not None:
            raise click.UsageError("--wrap takes the place of a command: give one of them", ctx)
        return {"name": name or "wrap", "command": ["/bin/sh", "-c", wrap]}
    if not words:
        raise click.UsageError("no command to run: write it behind the options, or give --wrap 'CMD'", ctx)
    if script is not None:
        return {"name": name or words[0].rpartition("/")[2], "script": script, "command": list(words[1:])}
    return {"name": name, "command": list(words)}


def _folder(chdir: str | None, place: Place) -> str:
    """The absolute folder the job runs in. It need not exist here: nodes may have what this machine has not."""
    if chdir is not None and chdir.startswith("/"):
        return chdir
    if not place.on_cluster:
        if chdir is None:
            raise InvalidRequest(
                "this machine is not one of the cluster's, so its folders mean nothing there",
                "say with -D /FOLDER where on the node to run",
            )
        raise InvalidRequest(f"-D {chdir} is not an absolute path", "from outside the cluster write it in full")
    if place.cwd is None:
        raise InvalidRequest("the current folder no longer exists", "change to another, or give -D /FOLDER")
    return f"{place.cwd}/{chdir}" if chdir else place.cwd


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that options set directly; None where the controller's default holds."""
    get = options.get
    nodes = get("nodes", 1)
    gpus = gpu_request(nodes, get("gpus"), get("gpus_per_node"), get("gres"), get("gpu_type"))
    if gpus.gpus is None and gpus.gpus_per_node is None:
        for name, flag in (("gpu_type", "--gpu-type"), ("shared", "--shared"), ("gpu_memory", "--gpu-mem")):
            if name in options:  # without this it would run, on no GPU at all
                raise InvalidRequest(f"{flag} is given, but no GPU is asked for", "add for example -G 1")
    if "shared" in options and "gpu_memory" not in options:
        raise InvalidRequest("--shared does not say how much of a GPU", "add for example --gpu-mem 20G")
    if "open_mode" in options and not {"output", "error"} & options.keys():
        raise InvalidRequest("--open-mode is about files, and none is named", "add -o FILE or -e FILE")
    if "nodelist" in options and not set(options["nodelist"]) - set(get("exclude", ())):
        raise InvalidRequest("-x excludes every node that -w names", "no node is left to run on")
    return {
        **gpus._asdict(),
        "queue": get("queue"),
        "priority": get("priority"),
        "nodes": get("nodes"),
        "gpu_memory_bytes": get("gpu_memory"),
        "shared": get("shared"),
        "constraint": get("constraint"),
        "exclusive": get("exclusive"),
        "cpus": get("cpus"),
        "memory_bytes": get("memory"),
        "only_nodes": get("nodelist"),
        "not_nodes": get("exclude"),
        "time_limit_seconds": get("time_limit"),
        "output": get("output"),
        "error": get("error"),
        "append": None if "open_mode" not in options else options["open_mode"] == "append",
        "warning": _warning(get("warning")),
        "scheduling_timeout_seconds": get("scheduling_timeout"),
        "array": get("array"),
        "begin_at": get("begin"),
        "hold": get("hold"),
        "max_retries": get("max_retries"),
        "requeue": get("requeue"),
        "on_lost": get("on_lost"),
        "comment": get("comment"),
        "setup": list(get("setup", ())) or None,
        "venv": get("venv"),
        "conda_env": get("conda_env"),
    }


def _warning(asked: tuple[int, int, bool] | None) -> dict[str, Any] | None:
    return None if asked is None else dict(zip(("number", "seconds", "main_only"), asked, strict=True))
