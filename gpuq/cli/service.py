"""gpuq service: the daemons of this machine as services of systemd, which start at boot and again when they end.

`up`, `controller` and `agent` with --service come here too: what they would run is then run by a unit.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gpuq.cli.command import HELP_NAMES, group
from gpuq.cli.daemons import START_SECONDS, Daemon, Running
from gpuq.cli.invoke import load
from gpuq.cli.params import JSON
from gpuq.cli.systemd import Systemd, manager
from gpuq.cli.terminal import say, say_json, tell
from gpuq.errors import Conflict, GpuqError, Unavailable

_KINDS = ("controller", "agent")
_POLL_SECONDS = 0.2  # each look starts systemctl
_FAILURES = 2  # a unit that was started again as often as this does not only wait for something

SERVICE = click.option("--service", is_flag=True, help="Have systemd run it, from boot on; see gpuq service --help.")


@group(no_args_is_help=False)
def service() -> None:
    """Have systemd run gpuq on this machine, from boot on.

    As root these are services of the system, else of your account, with lingering, so that they run without a login.
    Jobs outlive stops, restarts and upgrades of the services.
    """


@service.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("words", metavar="[controller|agent] [OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def install(words: tuple[str, ...]) -> int:
    """Install and start a service, with the options of the verb it runs; without one: as gpuq up, both.

    The file is copied to where it stays: /usr/local/lib/gpuq, or ~/.local/share/gpuq. Tokens are not in the unit.
    """
    if set(words[:2]) & set(HELP_NAMES):
        click.echo(click.get_current_context().get_help())
        return 0
    manager()  # raises where there is none: then nothing is to be run in its place, as `up --service` would
    verb, options = (words[0], words[1:]) if words[:1] and words[0] in _KINDS else ("up", words)
    from gpuq.cli.main import VERBS

    command = load(VERBS[verb].command)
    with command.make_context(f"gpuq {verb}", [*options, "--service"]) as ctx:
        return int(command.invoke(ctx) or 0)


@service.command()
@click.argument("kind", required=False, type=click.Choice(_KINDS))
def uninstall(kind: str | None) -> int:
    """Stop services and remove them; jobs run on, and gpuq up finds them again. Without a name: both."""
    systemd = manager()
    found = [name for name in reversed(_KINDS) if kind in (None, name) and systemd.has(name)]
    for name in found:
        systemd.remove(name)
        tell(f"removed {systemd.unit_path(name)}")
    if not any(systemd.unit_path(name).exists() for name in _KINDS):  # of whichever machine
        systemd.program.unlink(missing_ok=True)
    if not found:
        tell("no such service is installed here")
    return 0


@service.command()
@JSON
def status(as_json: bool) -> int:
    """Show the services of this machine."""
    systemd = manager()
    items = [_described(systemd, kind) for kind in _KINDS if systemd.has(kind)]
    if as_json:
        say_json({"items": items, "next": None})
    elif not items:
        say("no service is installed here; gpuq service install does that")
    for item in () if as_json else items:
        say(f"{item['name']:<12}{item['state']}, pid {item['pid'] or '-'}, {item['restarts']} restarts, {item['unit']}")
    return 0


def _described(systemd: Systemd, kind: str) -> dict[str, Any]:
    found = systemd.properties(kind, "ActiveState", "UnitFileState", "MainPID", "NRestarts")
    return {
        "name": kind,
        "state": found.get("ActiveState", "unknown"),
        "at_boot": found.get("UnitFileState") == "enabled",
        "pid": int(found.get("MainPID") or 0) or None,
        "restarts": int(found.get("NRestarts") or 0),
        "unit": str(systemd.unit_path(kind)),
    }


# ---------------------------------------------------------------- for up, controller and agent


def manager_or_note() -> Systemd | None:
    """The systemd that --service asks for; None, after a line that says why, where plain processes have to do."""
    try:
        return manager()
    except Conflict as error:
        tell(f"--service: {error.one_line()}; going on without")
        return None


def manager_in_charge(kind: str, home: str) -> Systemd | None:
    """The systemd that has been given this daemon of this home already, running or not."""
    found = Systemd(user=os.geteuid() != 0)
    return found if found.installed(kind, home) else None


def given_options(*but: str) -> list[str]:
    """The options typed behind this command, as words, without --service and those whose parameters are named."""
    ctx = click.get_current_context()
    words: list[str] = []
    for param in ctx.command.params:
        name = param.name or ""
        typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if isinstance(param, click.Option) and typed and name in ctx.params and name not in (*but, "service"):
            value = ctx.params[name]
            for one in value if param.multiple else (value,):
                words += [param.opts[-1]] if param.is_flag else [param.opts[-1], str(one)]
    return words


def run_as_service(systemd: Systemd, daemon: Daemon, options: Sequence[str]) -> Running:
    """Installs the unit of this daemon, (re)starts it and returns once the daemon is there.

    options: of the verb; --home is added. Without any, a unit that is there stays as it is, and only gets this build of
    gpuq. Raises Unavailable if the daemon does not stay up; a unit that was not there before is then gone again.
    """
    before = systemd.has(daemon.kind)
    home = str(daemon.directory.parent)
    if options or not systemd.installed(daemon.kind, home):
        command = [sys.executable, "-I", "-S", str(systemd.program), daemon.kind, *options, "--home", home]
        systemd.write(daemon.kind, command)
    try:
        _refresh(systemd.program)
        plain = daemon.running()
        if plain and plain.pid != systemd.main_pid(daemon.kind):
            tell(f"handing the {daemon.kind} (pid {plain.pid}) over to systemd; jobs are not touched")
            daemon.stop(plain)
        running = _restarted(systemd, daemon)
    except (GpuqError, OSError):
        if not before:
            systemd.remove(daemon.kind)
        raise
    if missing := systemd.linger():
        tell(missing)
    return running


def _restarted(systemd: Systemd, daemon: Daemon) -> Running:
    deadline = time.monotonic() + START_SECONDS
    failed = not systemd.restart(daemon.kind)
    while not failed:
        running = daemon.running()
        if running and running.pid == systemd.main_pid(daemon.kind):
            return running
        restarts = int(systemd.properties(daemon.kind, "NRestarts").get("NRestarts") or 0)
        failed = restarts >= _FAILURES or time.monotonic() >= deadline
        time.sleep(_POLL_SECONDS)
    raise Unavailable(f"the {daemon.kind} does not stay up as a service: {systemd.last_words(daemon.kind)}")


def _refresh(program: Path) -> None:
    """Puts a copy of the file that runs now in the services' place, whole or not at all."""
    bootstrap = sys.modules.get("gpuq_bootstrap")
    if bootstrap is None:
        raise Conflict("a service runs the built file, and this is a source checkout", "build it: python3 build.py")
    source = Path(bootstrap.PYZ)
    if program.exists() and source.samefile(program):
        return
    import shutil  # with the compressions it knows it takes 5 ms, and `status` comes by here

    program.parent.mkdir(parents=True, exist_ok=True)
    fresh = program.with_name(f"{program.name}.{os.getpid()}.new")
    try:
        shutil.copyfile(source, fresh)
        fresh.chmod(0o755)
        fresh.replace(program)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
