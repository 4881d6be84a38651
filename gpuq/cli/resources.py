"""What a job asks for in GPUs and after which jobs, from the ways people write it. Pure text; raises InvalidRequest."""

from __future__ import annotations

import re
from typing import NamedTuple

from gpuq.errors import InvalidRequest

MAX_GPUS = 100_000  # more than any cluster has; keeps numbers sane before the controller sees them
_TYPE = r"[A-Za-z0-9][\w.+-]*"  # '3090' is one too
_COUNT = re.compile(rf"(?:({_TYPE}):)?(\d{{1,6}})", re.ASCII)
_FRACTION = re.compile(r"\d*\.\d+")
_IDS = re.compile(r"\d{1,15}(?:_\d{1,10})?|@", re.ASCII)
_KINDS = ("afterok", "afterany", "afternotok")
SINGLETON = "singleton"


class GpuCount(NamedTuple):
    """A number of GPUs, and of which type if one was named."""

    type: str | None
    number: int


def parse_gpus(text: str) -> GpuCount:
    """'4', 'H100:2'. A list of numbers means ids elsewhere, so it is refused with a hint rather than guessed at."""
    match = _COUNT.fullmatch(text.strip())
    if match and int(match[2]) <= MAX_GPUS:
        return GpuCount(match[1], int(match[2]))
    if text.isascii() and text.strip().isdigit():
        raise InvalidRequest(f"'{text}' is more GPUs than gpuq can have", f"at most {MAX_GPUS:,}")
    if "," in text:
        raise InvalidRequest(f"'{text}' is a list", "give a number of GPUs; gpuq chooses which ones, or use -w NODE")
    if _FRACTION.fullmatch(text.strip()):
        raise InvalidRequest(f"'{text}' is not a whole number of GPUs", "part of a GPU is -G 1 --shared --gpu-mem 20G")
    if re.fullmatch(_TYPE, text.strip(), re.ASCII):
        raise InvalidRequest(f"'{text}' does not say how many GPUs", f"write for example {text.strip()}:1")
    raise InvalidRequest(f"'{text}' is not a number of GPUs", "write for example 2 or H100:2")


def parse_gres(text: str) -> GpuCount:
    """Slurm's 'gpu', 'gpu:2', 'gpu:a100:2', each on every node; other resources than GPUs are refused."""
    plain = text.strip().removeprefix("gres:").removeprefix("gres/")
    kind, colon, rest = plain.partition(":")
    if "," in plain:
        raise InvalidRequest(f"'{text}' asks for several resources", "one type of GPU a job: write gpu:TYPE:N")
    if kind != "gpu":
        raise InvalidRequest(f"'{text}' asks for something other than GPUs", "write gpu:N or gpu:TYPE:N")
    if not colon:
        return GpuCount(None, 1)
    if not rest.isdigit() and re.fullmatch(_TYPE, rest, re.ASCII):
        return GpuCount(rest, 1)
    return parse_gpus(rest)


class GpuRequest(NamedTuple):
    """The GPU fields of a submission; None where nothing was asked."""

    gpus: int | None
    gpus_per_node: int | None
    gpu_type: str | None


def gpu_request(
    nodes: int,
    gpus: GpuCount | None,
    per_node: GpuCount | None,
    gres: GpuCount | None,
    gpu_type: str | None,
) -> GpuRequest:
    """One request from the flags that can all say it; they must agree with each other and with --nodes."""
    given = [("--gpus", gpus), ("--gpus-per-node", per_node), ("--gres", gres)]
    types = {c.type.lower(): (flag, c.type) for flag, c in given if c is not None and c.type}
    if gpu_type:
        types[gpu_type.lower()] = ("--gpu-type", gpu_type)
    if len(types) > 1:
        (one, a), (other, b) = list(types.values())[:2]
        raise InvalidRequest(f"{one} asks for {a} and {other} for {b}", "one type of GPU a job")
    if per_node and gres and per_node.number != gres.number:
        raise InvalidRequest(
            f"--gpus-per-node {per_node.number} and --gres gpu:{gres.number} differ", "give one of them"
        )
    each = per_node or gres
    if gpus and gpus.number % nodes:
        raise InvalidRequest(
            f"--gpus {gpus.number} does not divide by --nodes {nodes}",
            "--gpus counts the whole job; --gpus-per-node counts one node",
        )
    if gpus and each and gpus.number != each.number * nodes:
        flag = "--gpus-per-node" if per_node else "--gres gpu"
        raise InvalidRequest(
            f"--gpus {gpus.number} is not --nodes {nodes} times {flag} {each.number}", "give one of the two"
        )
    chosen = next((text for _, text in types.values()), None)
    return GpuRequest(gpus.number if gpus else None, each.number if each else None, chosen)


class Dependency(NamedTuple):
    """kind is one of afterok, afterany, afternotok; job an id, or '@' for the newest job of who asks.

    Or kind is SINGLETON, and job is empty.
    """

    kind: str
    job: str


def parse_dependencies(text: str) -> list[Dependency]:
    """'afterok:1041:1042,afterany:@': all must come true, in the order written."""
    if "?" in text:
        raise InvalidRequest(f"'{text}' asks for any of several jobs", "only lists joined by ',' (all of them) work")
    found = []
    for part in text.split(","):
        kind, *ids = part.strip().split(":")
        if kind == SINGLETON and not ids:
            found.append(Dependency(kind, ""))
            continue
        if kind not in _KINDS:
            hint = f"write {', '.join(k + ':ID' for k in _KINDS)} or {SINGLETON}"
            if _IDS.fullmatch(kind):
                hint = f"say what of it: afterok:{kind}, afterany:{kind} or afternotok:{kind}"
            raise InvalidRequest(f"'{kind}' is not a kind of dependency", hint)
        if not ids or not all(_IDS.fullmatch(i) for i in ids):
            raise InvalidRequest(f"'{part}' names no job", f"write for example {kind}:1042 or {kind}:@")
        found += [Dependency(kind, i) for i in ids]
    return list(dict.fromkeys(found))
