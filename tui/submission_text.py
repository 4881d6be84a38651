"""A submission in its three shapes: fields of the form, the body for the API, and the `gpuq submit` line. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpuq.errors import InvalidRequest
from gpuq.units import format_signal
from tui.submission_fields import BY_KEY, FIELDS, NEWEST, Field, Values, is_set, needs_shell

_SIZES = ((40, "T"), (30, "G"), (20, "M"), (10, "K"))
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
# Fields whose value goes into the body under another name than the field's.
_BODY_KEYS = {
    "gpu_memory": "gpu_memory_bytes",
    "memory": "memory_bytes",
    "time": "time_limit_seconds",
    "begin": "begin_at",
    "env": "changes",
    "dependency": "dependencies",
    "open_mode": "append",
    "scheduling_timeout": "scheduling_timeout_seconds",
}
_NOT_PLAIN = ("gpus", "gpu_type", "environment", "setup")


def _never(_word: str) -> bool:
    return False


class Place(NamedTuple):
    """Where the dashboard runs, as `gpuq submit` would see it: its folder, and the variables a job would get from here;
    None for both where this machine is not of the cluster. is_script: whether a word names a `#!` file here, whose text
    `gpuq submit` would store, with options of its own inside: the form runs the file on the node instead."""

    cwd: str | None = None
    environment: Mapping[str, str] | None = None
    is_script: Callable[[str], bool] = _never


class Template(NamedTuple):
    """What a form is filled with. source says of what it is a copy, such as 'job 1042'; '' for nothing."""

    values: Values
    script: str | None = None  # its text, where a stored one is run; the command then holds its arguments
    environment: Mapping[str, str] | None = None  # what the job it copies was given, None for the login's
    source: str = ""


def blank(place: Place) -> Template:
    values = {"cwd": place.cwd or ""}
    if place.environment is not None:
        values["environment"] = "shell"
    return Template(values)


def place_faults(values: Values, template: Template, place: Place) -> dict[str, str]:
    """What is wrong with where it would run, by field: a folder is never guessed, and variables must be somebody's."""
    found = {}
    if not values.get("cwd", "").strip():
        found["cwd"] = "say where to run: a folder on the nodes, such as /home/you/project"
    if values.get("environment") == "shell" and _environment(values, template, place) is None:
        found["environment"] = "this machine is not one of the cluster's, so its variables mean nothing there"
    return found


def body(values: Values, template: Template, place: Place, now: float, newest: str | None = None) -> dict[str, Any]:
    """The body of POST /jobs; raises InvalidRequest for the first field that is wrong. newest: the job '@' means."""
    read = {f.key: f.read(values[f.key].strip(), now) for f in FIELDS if is_set(f, values)}
    fields = {_BODY_KEYS.get(key, key): value for key, value in read.items() if key not in _NOT_PLAIN}
    type, number = read.get("gpus", (None, None))
    fields |= {
        "gpus": number,
        "gpu_type": read.get("gpu_type", type),
        "environment": _environment(values, template, place),
    }
    fields["setup"] = [read["setup"]] if "setup" in read else None
    if template.script is None and _by_shell(values.get("command", "").strip(), place):
        fields["command"] = ["/bin/sh", "-c", values["command"].strip()]
    if "name" not in read:
        fields["name"] = default_name(values, template, place)
    if template.script is not None:
        fields["script"] = template.script
        fields["command"] = shlex.split(values.get("command", ""))
    fields |= _waits(read.get("dependency", []), newest)
    return {key: value for key, value in fields.items() if value is not None and value != ""}


def _waits(dependencies: list[dict[str, str]], newest: str | None) -> dict[str, Any]:
    if newest is None and any(d["job"] == NEWEST for d in dependencies):
        raise InvalidRequest("'@' is your newest job, and you have none", "give an id, such as afterok:1042")
    jobs = [{"kind": d["kind"], "job": newest if d["job"] == NEWEST else d["job"]} for d in dependencies if d["job"]]
    return {"dependencies": jobs or None, "singleton": len(jobs) < len(dependencies) or None}


def default_name(values: Values, template: Template, place: Place) -> str | None:
    """As `gpuq submit` names it: after the program; None leaves it to the controller."""
    if template.script is not None:
        return template.values.get("name")
    text = values.get("command", "").strip()
    return (text.split()[0].rpartition("/")[2] or None) if _by_shell(text, place) else None


def _by_shell(text: str, place: Place) -> bool:
    """Whether /bin/sh runs the line."""
    if not text or needs_shell(text):
        return bool(text)
    try:
        return place.is_script(text.split()[0])
    except InvalidRequest:  # a script that `gpuq submit` would not take
        return True


def command_line(values: Values, template: Template, place: Place) -> str:
    """The `gpuq submit` that does the same, quoted for a shell. Typed fields are written as they were typed."""
    words = ["gpuq", "submit"]
    for field in FIELDS:
        if field.key not in ("command", "environment") and is_set(field, values):
            words += _option(field, values[field.key].strip(), values)
    if _environment(values, template, place) is None:
        words += ["--export", "NONE"]
    name = default_name(values, template, place)
    if name and not is_set(BY_KEY["name"], values):
        words += ["-J", name]
    return _fetched(template, values) + shlex.join(
        words + _program(values.get("command", "").strip(), template, values, place)
    )


def _option(field: Field, text: str, values: Values) -> list[str]:
    if field.switch:
        return [field.flags[0]]
    if field.key == "requeue":
        return [field.flags[1]]
    if field.key == "env":
        try:
            return [word for item in shlex.split(text) for word in (field.flags[0], item)]
        except ValueError:  # a quote is still open
            return [field.flags[0], text]
    if text.startswith("-") and field.flags[0].startswith("--"):
        return [f"{field.flags[0]}={text}"]
    return [field.flags[0], text]


def _program(text: str, template: Template, values: Values, place: Place) -> list[str]:
    try:
        arguments = shlex.split(text)
    except ValueError:
        arguments = [text]
    if template.script is not None:
        return [f"./{_script_name(template, values)}", *arguments]
    if _by_shell(text, place):
        return ["--wrap", text]
    return ["--", *arguments] if text.startswith("-") else arguments


def _fetched(template: Template, values: Values) -> str:
    """What makes the file that a copied script is: the line after it works wherever it is pasted."""
    if template.script is None:
        return ""
    id = template.source.rpartition(" ")[2]
    return f"gpuq show {shlex.quote(id)} --script > {shlex.quote(_script_name(template, values))} && "


def _script_name(template: Template, values: Values) -> str:
    name = template.values.get("name") or values.get("name") or "script"
    return name.replace("/", "_")


def _environment(values: Values, template: Template, place: Place) -> Mapping[str, str] | None:
    """All variables the job starts from; None for those of the login on the node."""
    if values.get("environment", "login") != "shell":
        return None
    return place.environment if template.environment is None else template.environment


def newest_of(ids: Sequence[str]) -> str | None:
    """The job submitted last: ids only grow."""
    return max((id.partition("_")[0] for id in ids), key=int, default=None)


def from_job(job: Mapping[str, Any], script: str | None, environment: Mapping[str, Any] | None) -> Template:
    """A job's detail (GET /jobs/{id}) as a form. environment: that of GET /jobs/{id}/environment, None where it may
    not be read. What belongs to a moment stays behind: hold, a begin that has passed, dependencies that have come true.
    """
    request = job["request"]
    array = job.get("array")
    given = environment or {"environment": None, "changes": {}}
    values = {
        "command": _command_text(job.get("command") or [], script),
        "gpus": str(request["gpus_per_node"] * request["nodes"] or ""),
        "time": span(job["time_limit_seconds"]),
        "cwd": job.get("cwd") or "",
        "name": job["name"],
        "gpu_type": request["gpu_type"] or "",
        "gpu_memory": exact_size(request["gpu_share_bytes"] or request["gpu_memory_bytes"]),
        "shared": "yes" if request["gpu_share_bytes"] else "no",
        "nodes": str(request["nodes"]) if request["nodes"] > 1 else "",
        "constraint": request["constraint"],
        "exclusive": "yes" if request["exclusive"] else "no",
        "cpus": str(request["cpus"] or ""),
        "memory": exact_size(request["memory_bytes"]),
        "array": _array_text(array) if array else "",
        "queue": job["queue"],
        "priority": str(job["priority"] or ""),
        "only_nodes": ",".join(request["only_nodes"]),
        "not_nodes": ",".join(request["not_nodes"]),
        "environment": "login" if given["environment"] is None else "shell",
        "env": shlex.join(f"{name}={value}" for name, value in given["changes"].items()),
        "setup": " && ".join(job.get("setup") or ()),
        "venv": job.get("venv") or "",
        "conda_env": job.get("conda_env") or "",
        "max_retries": str(job["max_retries"] or ""),
        "requeue": "yes" if job["requeue"] else "no",
        "on_lost": job["on_lost"],
        "output": job.get("output") or "",
        "error": job.get("error") or "",
        "open_mode": "append" if job.get("append") else "truncate",
        "warning": _signal_text(job.get("warning")),
        "comment": job.get("comment") or "",
    }
    return Template({k: v for k, v in values.items() if v}, script, given["environment"], f"job {job['id']}")


def from_line(text: str, template: Template) -> Template:
    """The form as a line such as `-G 2 -t 4h python train.py` has it, laid over a template; raises InvalidRequest."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequest(f"{str(error).lower()} in the line", "close the quote") from None
    values = dict(template.values)
    by_flag = {flag: field for field in FIELDS for flag in field.flags}
    while words and words[0].startswith("-") and words[0] != "--":
        flag, value = _split_option(words.pop(0))
        field = by_flag.get(flag)
        if field is None:
            raise InvalidRequest(f"'{flag}' is not in the form", "type :submit alone and fill it in")
        if field.switch or field.key == "requeue":
            values[field.key] = "no" if flag == "--no-requeue" else "yes"
            continue
        if value is None and not words:
            raise InvalidRequest(f"{flag} needs a value")
        given = words.pop(0) if value is None else value
        values[field.key] = {"NONE": "login", "ALL": "shell"}.get(given, given) if field.key == "environment" else given
    if words and words[0] == "--":
        del words[0]
    if words:
        values["command"] = shlex.join(words)
    return template._replace(values=values)


def _split_option(word: str) -> tuple[str, str | None]:
    """'--time=4h' and '-G2' in two."""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return flag, value if equals else None
    return word[:2], word[2:] or None


def _command_text(command: Sequence[str], script: str | None) -> str:
    shell = len(command) == 3 and list(command[:2]) == ["/bin/sh", "-c"]
    return command[2] if shell and script is None and needs_shell(command[2]) else shlex.join(command)


def _signal_text(warning: Mapping[str, Any] | None) -> str:
    if warning is None:
        return ""
    return f"{'B:' if warning['main_only'] else ''}{format_signal(warning['number'])}@{warning['seconds']}"


def _array_text(array: Mapping[str, Any]) -> str:
    limit = array["max_running"]
    return f"{array['text']}%{limit}" if limit else str(array["text"])


def span(seconds: int | None) -> str:
    """'1d2h30m': seconds as --time takes them, exactly; '' for none."""
    text, rest = "", seconds or 0
    for length, unit in _SPANS:
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text


def exact_size(size: int | None) -> str:
    """'24G': bytes as --mem takes them, exactly; '' for none."""
    if not size:
        return ""
    return next((f"{size >> shift}{unit}" for shift, unit in _SIZES if not size % (1 << shift)), f"{size}B")
