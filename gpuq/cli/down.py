"""gpuq down: ends the daemons of this machine, and says what becomes of its jobs."""

from __future__ import annotations

import time
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.daemons import Daemon, alone
from gpuq.cli.service import manager_in_charge
from gpuq.cli.terminal import tell, visible
from gpuq.cli.up import local_client, stop_both
from gpuq.client.http import Client
from gpuq.config import host_home
from gpuq.errors import Conflict
from gpuq.states import ACTIVE
from gpuq.units import plural

_ACTIVE = frozenset(state.value for state in ACTIVE)
_LISTED = 20
_POLL_SECONDS = 0.2
_PAGE = 1000


@command()
@click.option("--keep-jobs", is_flag=True, help="Stop the daemons only: jobs run on, and gpuq up finds them again.")
@click.option("--stop-jobs", is_flag=True, help="Cancel every job of the cluster first, waiting ones too.")
@click.option("--home", metavar="DIR", help="Of the `gpuq up` to end; default: the last one here.")
def down(keep_jobs: bool, stop_jobs: bool, home: str | None) -> int:
    """Stop the controller and the agent of this machine.

    While jobs run, say with --keep-jobs or --stop-jobs what is to become of them; without, nothing is stopped. Jobs
    that only wait stay in the queue.
    """
    if keep_jobs and stop_jobs:
        raise click.UsageError("--keep-jobs and --stop-jobs exclude each other")
    home = host_home(home)
    controller, agent = Daemon(home, "controller"), Daemon(home, "agent")
    with alone(home, lambda: tell("another gpuq up or down is at work here, waiting for it")):
        if not (controller.running() or agent.running()):
            tell(f"gpuq is not running here (nothing in {home} is)")
            return 0
        after = _jobs_first(home, controller, keep_jobs, stop_jobs)
        stop_both(controller, agent)
    tell(f"stopped{after}")
    if any(manager_in_charge(daemon.kind, home) for daemon in (controller, agent)):
        tell("systemd starts gpuq again at the next boot; to end that: gpuq service uninstall")
    return 0


def _jobs_first(home: str, controller: Daemon, keep_jobs: bool, stop_jobs: bool) -> str:
    """Does as asked with the jobs; what remains of them, for the last line. Raises Conflict if nothing was asked."""
    if controller.running() is None:
        if stop_jobs:
            raise Conflict("jobs cannot be stopped: the controller is not running", "start it: gpuq up")
        return "; jobs of this machine, if any, keep running"
    if keep_jobs:
        return "; running jobs keep running, gpuq up finds them again"
    client = local_client(home)
    if stop_jobs:
        _stop_jobs(client)
        return ", no job is left"
    live, waiting = _split(_unfinished(client))
    if live:
        for job in live[:_LISTED]:
            tell(f"  {job['id']:<12} {job['state']:<10} {visible(job['user']):<12} {visible(job['name'])}")
        if len(live) > _LISTED:
            tell(f"  and {len(live) - _LISTED} more")
        jobs = "a job runs" if len(live) == 1 else f"{len(live)} jobs run"
        raise Conflict(
            f"{jobs}, so nothing was stopped", "say --keep-jobs (they run on) or --stop-jobs (they are canceled)"
        )
    stay = "stays" if len(waiting) == 1 else "stay"
    return f"; {len(waiting)} queued {stay} in the queue" if waiting else ""


def _stop_jobs(client: Client) -> None:
    """Cancels all that is not final and waits until it is, including what is submitted meanwhile."""
    asked: set[str] = set()
    said = ""
    while jobs := _unfinished(client):
        fresh = [job["id"] for job in jobs if job["id"] not in asked]
        if fresh:
            client.post("/jobs/cancel", {"ids": fresh})
            asked.update(fresh)
        count = f"{len(jobs)} of {len(asked)} {plural(len(asked), 'job')}"
        left = f"waiting for {count} to end: {jobs[0]['id']} is {jobs[0]['state']}"
        if left != said and not fresh:
            tell(left)
            said = left
        time.sleep(_POLL_SECONDS)
    if asked:
        tell(f"{len(asked)} {plural(len(asked), 'job')} canceled")


def _unfinished(client: Client) -> list[dict[str, Any]]:
    """Every job that is not final; an array is one."""
    jobs: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = client.get("/jobs", {"limit": _PAGE, "after": after})
        jobs += page["items"]
        after = page["next"]
        if after is None:
            return jobs


def _split(jobs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Jobs that have processes, and jobs that wait."""
    live = [job for job in jobs if job["state"] in _ACTIVE]
    return live, [job for job in jobs if job["state"] not in _ACTIVE]
