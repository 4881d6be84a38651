"""The options of submit and run: Slurm's letters, their lab-friendly long names, and how a script's lines join them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from gpuq.cli.hostlist import expand_hostlist
from gpuq.cli.params import BEGIN, DURATION, parsed
from gpuq.cli.resources import GpuCount, parse_dependencies, parse_gpus, parse_gres
from gpuq.errors import InvalidRequest
from gpuq.units import parse_signal, parse_size

F = TypeVar("F", bound=Callable[..., Any])
_GPU_COUNTS = ("gpus", "gpus_per_node", "gres")
_REPEATABLE = ("env", "setup")


def _parse_gpu_memory(text: str) -> int:
    # A bare number is megabytes to some queues and gigabytes to others: either guess is wrong by a factor of 1,000.
    if text.strip().isdigit():
        raise InvalidRequest(f"'{text}' has no unit", f"write {text.strip()}G or {text.strip()}M")
    return parse_size(text)


_o = click.option
_SUBMIT_OPTIONS = [
    _o(
        "-J",
        "--job-name",
        "--name",
        "name",
        metavar="NAME",
        help="Name of the job; default: the script's or program's.",
    ),
    _o(
        "-N",
        "--nodes",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Nodes the job runs on, all at once; the command starts on each of them.",
    ),
    _o(
        "-G",
        "--gpus",
        type=parsed(parse_gpus),
        metavar="[TYPE:]N",
        help="GPUs of the whole job, such as 2 or H100:2; default 0.",
    ),
    _o("--gpus-per-node", type=parsed(parse_gpus), metavar="[TYPE:]N", help="GPUs on every node of the job."),
    _o("--gres", type=parsed(parse_gres), metavar="gpu[:TYPE]:N", help="Slurm's way to say --gpus-per-node."),
    _o("--gpu-type", metavar="TYPE", help="Model every GPU must be, such as A100."),
    _o(
        "--gpu-mem",
        "--gpu-memory",
        "gpu_memory",
        type=parsed(_parse_gpu_memory),
        metavar="SIZE",
        help="Memory every GPU must have, such as 24G; the unit is needed.",
    ),
    _o("--shared", is_flag=True, help="Take only --gpu-mem of each GPU, and leave the rest to other shared jobs."),
    _o("--exclusive", is_flag=True, help="No other job on its nodes while it runs."),
    _o(
        "-C",
        "--constraint",
        metavar="LIST",
        help="Attributes its nodes must have: h100, 'a100|h100', 'nvlink&!rack=7', 'driver>=550'.",
    ),
    _o(
        "-c",
        "--cpus-per-task",
        "--cpus",
        "cpus",
        type=click.IntRange(min=0),
        metavar="N",
        help="CPUs to reserve on every node; none unless asked for.",
    ),
    _o(
        "--mem",
        "--memory",
        "memory",
        type=parsed(parse_size),
        metavar="SIZE",
        help="Host memory to reserve on every node, such as 64G; a bare number is in MB.",
    ),
    _o(
        "-t",
        "--time",
        "--time-limit",
        "time_limit",
        type=DURATION,
        metavar="TIME",
        help="Longest run time: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S, or 2h30m. None unless given.",
    ),
    _o(
        "--signal",
        "warning",
        type=parsed(parse_signal),
        metavar="[B:]SIG[@SECONDS]",
        help="Signal the job before its time limit, such as USR1@120; B: its first process only. Default: 60 s before.",
    ),
    _o("-p", "--partition", "--queue", "queue", metavar="QUEUE", help="Queue to wait in."),
    _o("--priority", type=int, metavar="INT", help="Higher starts first; only an admin may go above the default."),
    _o(
        "-d",
        "--dependency",
        type=parsed(parse_dependencies),
        metavar="KIND:ID[:ID]",
        help="Wait for other jobs: afterok:1041, afterany:1041:1042, afternotok:1041; '@' is your newest job; "
        "singleton: all of yours of the same name.",
    ),
    _o("-a", "--array", metavar="0-99[%N]", help="One job for each index: 0-9, 1,5,9 or 0-99:2; %N at once."),
    _o("-b", "--begin", type=BEGIN, metavar="WHEN", help="Not before: now+2h, 22:00, tomorrow, 2026-11-21T22:00."),
    _o(
        "-w",
        "--nodelist",
        type=parsed(expand_hostlist),
        metavar="NODES",
        help="Run only on these nodes: n1,n2 or n[01-08].",
    ),
    _o(
        "-x",
        "--exclude",
        type=parsed(expand_hostlist),
        metavar="NODES",
        help="Never run on these nodes: n1,n2 or n[01-08].",
    ),
    _o("-H", "--hold", is_flag=True, help="Submit held; 'gpuq release' lets it go."),
    _o("-D", "--chdir", metavar="DIR", help="Folder to run in; default: this one, on a machine of the cluster."),
    _o(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the output to this file on the node too; %j %A %a %x %u %N %n %t are filled in.",
    ),
    _o("-e", "--error", metavar="FILE", help="Write standard error to this file, rather than to that of -o."),
    _o("--open-mode", type=click.Choice(["append", "truncate"]), help="What becomes of such a file that is there."),
    _o("--env", multiple=True, metavar="K[=V]", help="Set a variable; K alone sends its value here. Repeatable."),
    _o(
        "--export",
        metavar="LIST",
        help="Environment: ALL (this shell's), NONE (login on the node), K=V,K2, or ALL,K=V.",
    ),
    _o("--setup", multiple=True, metavar="CMD", help="Shell line to run before the command. Repeatable."),
    _o("--venv", metavar="DIR", help="Python virtual environment to activate before the command."),
    _o("--conda-env", metavar="NAME", help="Conda environment to activate before the command."),
    _o("--max-retries", type=click.IntRange(min=0), metavar="N", help="Run again this often if the job fails itself."),
    _o("--requeue/--no-requeue", default=None, help="Whether to run again when its node died; default: yes."),
    _o(
        "--on-lost",
        type=click.Choice(["keep", "fence"]),
        help="When its node falls silent: keep the job there, or stop it so that it can run elsewhere.",
    ),
    _o("--scheduling-timeout", type=DURATION, metavar="TIME", help="Fail if it has not started after this time."),
    _o("--comment", metavar="TEXT", help="A note shown with the job."),
    _o("--wrap", metavar="CMD", help="Run this line with /bin/sh instead of a command."),
]


def submit_options(function: F) -> F:
    """All options of what to run and where, for submit and run alike, and the command's own words behind them."""
    function = click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND...")(function)
    for option in reversed(_SUBMIT_OPTIONS):
        function = option(function)
    return function


def takes_value(command: click.Command) -> dict[str, bool]:
    """Every option string of a command, and whether a value follows it."""
    return {
        text: not option.is_flag
        for option in command.params
        if isinstance(option, click.Option)
        for text in (*option.opts, *option.secondary_opts)
    }


def given(ctx: click.Context) -> dict[str, Any]:
    """The parameters that were written down, defaults left out."""
    return {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def read_lines(command: click.Command, name: str, lines: Sequence[tuple[int, list[str]]]) -> dict[str, Any]:
    """The parameters that a script's directive lines set; a later line wins, repeatable ones add up."""
    found: dict[str, Any] = {}
    for number, args in lines:
        try:
            with command.make_context(name, list(args)) as ctx:
                values = given(ctx)
                elsewhere = ctx.get_parameter_source("controller") is ParameterSource.COMMANDLINE
        except click.UsageError as error:
            raise InvalidRequest(f"{name} line {number}: {error.format_message()}") from None
        if elsewhere:
            raise InvalidRequest(f"{name} line {number}: --controller is not for a script to choose")
        if words := values.get("words"):
            raise InvalidRequest(f"{name} line {number}: '{words[0]}' is not an option")
        for key, value in values.items():
            found[key] = found[key] + value if key in found and key in _REPEATABLE else value
    return found


def overlay(lower: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers of parameters as one. What asks for the same thing by another option is replaced as well."""
    merged = dict(lower)
    counts = [higher[name] for name in _GPU_COUNTS if name in higher]
    if counts:
        for name in _GPU_COUNTS:
            merged.pop(name, None)
        if any(count.type for count in counts):
            merged.pop("gpu_type", None)
    elif "gpu_type" in higher:
        for name in _GPU_COUNTS:
            if name in merged:
                merged[name] = GpuCount(None, merged[name].number)
    for name, value in higher.items():
        merged[name] = merged[name] + value if name in merged and name in _REPEATABLE else value
    return merged
