"""The command line's entry: finds the verb, imports its module alone, and turns whatever happens into an exit status.

Status: 0 done; 1 refused, or the job failed; 2 wrong usage; 3 not found; 4 not allowed; 5 no controller reached.
`run` and `wait` give the job's own, and 125 when the trouble is gpuq's. Trouble is one line on stderr, never a
traceback.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from gpuq.cli.complain import complain

INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE


class Verb(NamedTuple):
    command: str  # 'module:attribute' of a click.Command
    help: str
    gives_job_status: bool = False
    daemon: bool = False


# As `gpuq --help` shows them, which imports none of them.
GROUPS: tuple[dict[str, Verb], ...] = (
    {
        "up": Verb("gpuq.cli.up:up", "Start the cluster on this machine: controller and agent"),
        "down": Verb("gpuq.cli.down:down", "Stop what `up` started"),
        "status": Verb("gpuq.cli.status:status", "What runs on this machine, and how the cluster is"),
    },
    {
        "submit": Verb("gpuq.cli.submit:submit", "Put a job into the queue"),
        "run": Verb("gpuq.cli.run:run", "Submit, follow, and exit with the job's exit code", gives_job_status=True),
        "queue": Verb("gpuq.cli.queue:queue", "List waiting and running jobs (also: ls)"),
        "show": Verb("gpuq.cli.show:show", "Everything about a job"),
        "logs": Verb("gpuq.cli.logs:logs", "Print or follow a job's output"),
        "attach": Verb("gpuq.cli.attach:attach", "Open a shell beside a running job", gives_job_status=True),
        "forward": Verb("gpuq.cli.forward:forward", "Bring a port of a running job to this machine"),
        "wait": Verb("gpuq.cli.wait:wait", "Wait until jobs have ended", gives_job_status=True),
        "why": Verb("gpuq.cli.why:why", "Why a job is waiting, node by node"),
        "history": Verb("gpuq.cli.history:history", "List jobs that have ended"),
        "cancel": Verb("gpuq.cli.change:cancel", "Stop jobs, or take them out of the queue"),
        "hold": Verb("gpuq.cli.change:hold", "Keep queued jobs from starting"),
        "release": Verb("gpuq.cli.change:release", "Let held jobs start again"),
        "requeue": Verb("gpuq.cli.change:requeue", "Stop running jobs and queue them again"),
        "update": Verb("gpuq.cli.change:update", "Change a job's priority, time limit, name, ..."),
    },
    {
        "tui": Verb("gpuq.cli.tui:tui", "Watch all of it in the terminal, and act on it"),
        "nodes": Verb("gpuq.cli.nodes:nodes", "List nodes, or remove one"),
        "gpus": Verb("gpuq.cli.nodes:gpus", "List GPUs, what they do and for whom"),
        "cordon": Verb("gpuq.cli.nodes:cordon", "Give a node no new work"),
        "uncordon": Verb("gpuq.cli.nodes:uncordon", "Give a node work again"),
        "drain": Verb("gpuq.cli.nodes:drain", "Give a node no new work; its jobs run to their end"),
        "events": Verb("gpuq.cli.events:events", "What happened, and what happens"),
    },
    {
        "controller": Verb("gpuq.cli.controller:controller", "Run a controller in the foreground", daemon=True),
        "agent": Verb("gpuq.cli.agent:agent", "Run this machine's agent in the foreground", daemon=True),
        "login": Verb("gpuq.cli.login:login", "Log in to a cluster, or list those logged in to"),
        "token": Verb("gpuq.cli.token:token", "Make, list and revoke tokens"),
        "user": Verb("gpuq.cli.user:user", "Add, list and disable users"),
        "config": Verb("gpuq.cli.config:config", "Show and change the cluster's settings"),
        "service": Verb("gpuq.cli.service:service", "Have systemd run gpuq on this machine, from boot on"),
        "simulate": Verb("gpuq.cli.simulate:simulate", "What a cluster would do with a trace of jobs"),
        "version": Verb("gpuq.cli.version:version", "Print the version"),
        "completion": Verb(
            "gpuq.cli.completion:completion", "Print a script that completes gpuq's commands in your shell"
        ),
    },
)
VERBS = {name: verb for group in GROUPS for name, verb in group.items()}
ALIASES = {"ls": "queue"}
PLANNED = frozenset({"doctor"})
# What the same is called elsewhere. Spelling alone would answer 'delete' with 'release' and 'ps' with 'gpus'.
OTHER_NAMES = {
    **dict.fromkeys(("sbatch", "enqueue", "add"), "submit"),
    **dict.fromkeys(("srun", "exec"), "run"),
    **dict.fromkeys(("squeue", "list", "ps", "jobs", "top"), "queue"),
    **dict.fromkeys(("scontrol", "info", "job", "describe"), "show"),
    **dict.fromkeys(("log", "tail", "cat", "output", "follow"), "logs"),
    **dict.fromkeys(("scancel", "kill", "stop", "delete", "rm", "abort"), "cancel"),
    **dict.fromkeys(("sacct",), "history"),
    **dict.fromkeys(("sinfo",), "nodes"),
    **dict.fromkeys(("retry", "restart"), "requeue"),
    **dict.fromkeys(("start", "init", "server"), "up"),
    **dict.fromkeys(("resume",), "uncordon"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; argv without the program's name. Without argv, the process's own, and the process ends here.

    Ending at once, everything flushed, saves the 7 ms in which Python would take its modules apart.
    """
    if argv is not None:
        return _guarded(list(argv))
    _fill_standard_streams()
    gc.disable()  # collecting while importing finds nothing, and takes 3 ms
    arguments = sys.argv[1:]
    status = _guarded(arguments)
    if not (arguments and arguments[0] in VERBS and VERBS[arguments[0]].daemon):
        _leave(status)
    return status


def _fill_standard_streams() -> None:
    """Takes /dev/null where cron or a shell's `>&-` left a stream closed: the next file opened would become it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _guarded(arguments: list[str]) -> int:
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing more may be written, or Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.filename is None and error.strerror is None:
            return _unexpected(error, _own_trouble(arguments))
        where = f"{error.filename}: " if error.filename else ""
        return complain(f"{where}{error.strerror or error}", _own_trouble(arguments))
    except Exception as error:  # noqa: BLE001  (the top: a defect becomes one line and a file)
        return _unexpected(error, _own_trouble(arguments))
    return status


def _own_trouble(arguments: list[str]) -> int:
    """The status of a failure that is not a job's."""
    from gpuq.cli.outcome import OWN_TROUBLE

    verb = VERBS.get(arguments[0]) if arguments else None
    return OWN_TROUBLE if verb is not None and verb.gives_job_status else 1


def _dispatch(arguments: list[str]) -> int:
    for at, word in enumerate(arguments, start=1):
        if not word.isascii() and any("\ud800" <= character <= "\udfff" for character in word):
            shown = word.encode("utf-8", "backslashreplace").decode()
            return complain(f"argument {at} is not UTF-8 text: {shown}", 2)
    if arguments[:1] == ["help"] and arguments[1:]:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        name = "version"
    name = ALIASES.get(name, name)
    verb = VERBS.get(name)
    if verb is None or _planned(name, rest):
        return complain(_unknown(name, rest), 2)
    if verb.daemon:
        from gpuq.cli.own_copy import settle

        if trouble := settle(name, rest):
            return complain(trouble)
    from gpuq.cli.invoke import invoke  # not before it is known to be needed: it brings click, 20 ms

    return invoke(name, verb.command, rest, verb.gives_job_status)


def _unknown(name: str, rest: list[str]) -> str:
    if name.startswith("-"):
        verb = next((word for word in rest if word in VERBS), "VERB")
        return f"no such option: {name}. Options follow the verb: gpuq {verb} {name} .... See gpuq --help"
    if planned := _planned(name, rest):
        return f"{planned} is not in this version of gpuq. See gpuq --help"
    import difflib

    near = [OTHER_NAMES[name]] if name in OTHER_NAMES else difflib.get_close_matches(name, [*VERBS, *ALIASES], n=1)
    if near:
        return f"no such command: {name}. Did you mean {near[0]}? See gpuq --help"
    return f"no such command: {name}. See gpuq --help"


def _planned(name: str, rest: list[str]) -> str | None:
    """The words that name what is to come, if these do."""
    return next((words for words in (name, " ".join([name, *rest[:1]])) if words in PLANNED), None)


def overview() -> str:
    """What `gpuq --help` prints."""
    lines = ["Usage: gpuq VERB [OPTIONS] ...", "", "A GPU cluster in one file.", ""]
    for group in GROUPS:
        lines += [*(f"  {name:<12}{verb.help}" for name, verb in group.items()), ""]
    return "\n".join([*lines, "gpuq VERB --help says more.", ""])


def _unexpected(error: Exception, status: int) -> int:
    """A defect: one line for the person, the traceback into a file for whoever repairs it."""
    import time
    import traceback

    from gpuq.config import state_home, write_private

    trace = "".join(traceback.format_exception(error))
    what = f"unexpected {type(error).__name__}: {error}"
    try:
        name = f"crash-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.log"
        path = f"{state_home()}/log/{name}"
        write_private(path, trace)
    except OSError:
        return complain(f"{what}; its traceback could not be saved", status)
    return complain(f"{what}; please report it with {path}", status)


def _leave(status: int) -> NoReturn:
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)
