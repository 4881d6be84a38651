"""gpuq run: submit, follow the output, and end as the job does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connection
from gpuq.cli.options import submit_options
from gpuq.cli.outcome import OWN_TROUBLE, exit_status, reason_text, sentence
from gpuq.cli.params import examples
from gpuq.cli.receipt import receipt
from gpuq.cli.slurm import SlurmAware
from gpuq.cli.submit import ready
from gpuq.cli.terminal import is_conversation, log_writer, note, say_behind
from gpuq.client.follow import follow_log, watch_job
from gpuq.client.http import Client
from gpuq.errors import Conflict, GpuqError, InvalidRequest, Unavailable
from gpuq.states import FINAL, JobState

INTERRUPTED = 130  # 128 + SIGINT: what a shell shows for a command that Ctrl-C ended
_FINAL = {state.value for state in FINAL}


@command(
    name="run",
    epilog=examples("gpuq run -G 1 nvidia-smi", "gpuq run -G 2 -t 30 sh -c 'echo $CUDA_VISIBLE_DEVICES'"),
    cls=SlurmAware,
    context_settings={"allow_interspersed_args": False},
)
@submit_options
@click.option("--pty", is_flag=True, help="On a terminal, which is this one: for a shell, a debugger, an editor.")
@connection
@click.pass_context
def run(ctx: click.Context, /, **_options: Any) -> int:
    """Submit a job, print its output as it comes, and exit with its exit code (128 + signal).

    Ctrl-C cancels the job; a second one leaves without waiting for its end. When the terminal hangs up, the job goes
    on. Trouble of gpuq's own is status 125.

    With --pty, Ctrl-C and all other keys are the job's, and it loses its terminal with this one, as it would here.
    Enter ~ . leaves, Enter ~ ? says more.
    """
    _check_terminal(ctx.params)
    if ctx.params.get("array"):
        raise click.UsageError("run follows one job, and an array is many: use gpuq submit --wait", ctx)
    client, prepared = ready(ctx)
    if prepared.options.get("array"):
        raise click.UsageError("the script asks for an array, and run follows one job: use gpuq submit --wait", ctx)
    _check_terminal(prepared.options)  # again: a line of the script may say so
    pty = bool(prepared.options.get("pty"))
    try:
        id = client.post("/jobs", _on_terminal(prepared.fields) if pty else prepared.fields)["id"]
    except KeyboardInterrupt:
        note("interrupted while submitting; gpuq queue --me shows whether the job got in")
        return INTERRUPTED
    note(f"submitted job {id}")
    following = _Following(client, id)
    try:
        if pty and (status := _hold_terminal(client, id, following)) is not None:
            return status
        return _finish(following.to_the_end())
    except KeyboardInterrupt:
        return _cancel(client, id, following)
    except BrokenPipeError:
        note(f"nobody reads the output any more; job {id} goes on")
        raise


def _finish(job: dict[str, Any]) -> int:
    status = exit_status(job)
    if status:
        note(sentence(job))
    if job["attempts"] and (said := receipt(job, job["attempts"][-1])):
        note(f"job {job['id']} had {said}")
    return status


def _cancel(client: Client, id: str, following: _Following) -> int:
    try:
        note(f"canceling job {id}; Ctrl-C again leaves at once")
        client.post("/jobs/cancel", {"ids": [id]})
        job = following.to_the_end()
    except KeyboardInterrupt:
        note(f"job {id} is being canceled; gpuq show {id} says how far it is")
        return INTERRUPTED
    except GpuqError as error:
        note(f"{error.one_line()}; job {id} may be running on")
        return OWN_TROUBLE
    note(sentence(job))
    return INTERRUPTED if job["state"] == "CANCELED" else exit_status(job)


class _Following:
    """How far a job's output has been printed; to_the_end may be interrupted and called again."""

    def __init__(self, client: Client, id: str) -> None:
        self._client, self._id = client, id
        self._write = log_writer(raw=True)
        self._attempt = 0  # whose log is being printed, or was last
        self._offset = 0  # bytes of it that were printed
        self._ended = True  # whether all of that attempt's log was
        self._said: str | None = None  # why it waits, as it was last told

    def to_the_end(self) -> dict[str, Any]:
        """Prints everything every attempt writes that was not shown yet, and gives the final job."""
        while True:
            if not self._ended:
                self._print_log()
            job = self._next_attempt()
            if job["attempt"] <= self._attempt:
                return job
            if self._attempt:
                note(f"attempt {job['attempt']} of job {self._id} begins")
            self._attempt, self._offset, self._ended = job["attempt"], 0, False

    def running(self) -> bool:
        """Waits until the job runs, saying why it does not yet; False if it has ended instead."""
        for job in watch_job(self._client, self._id, self._reconnecting):
            if job["state"] in _FINAL:
                return False
            if job["state"] == JobState.RUNNING.value:
                return True
            self._say_why(job)
        raise AssertionError("a watch ends only with its reader")

    def was_shown(self) -> None:
        """What the first attempt wrote need not be printed again."""
        self._attempt = 1

    def _print_log(self) -> None:
        log = follow_log(
            self._client,
            self._id,
            attempt=self._attempt,
            offset=self._offset,
            reconnecting=self._reconnecting,
            behind=say_behind(self._id),
        )
        for piece in log:
            self._write(piece)
            self._offset += len(piece)
        self._ended = True

    def _next_attempt(self) -> dict[str, Any]:
        """The job once it has an attempt later than the last one printed, or has ended."""
        for job in watch_job(self._client, self._id, self._reconnecting):
            if job["attempt"] > self._attempt or job["state"] in _FINAL:
                return job
            self._say_why(job)
        raise AssertionError("a watch ends only with its reader")

    def _say_why(self, job: dict[str, Any]) -> None:
        reason = job["reason"]
        # A back-off counts down: its text is another each time, and says nothing new.
        said = reason and (reason["code"] if reason["code"] == "backoff" else reason["text"])
        if reason and said != self._said:
            note(f"job {self._id} is {job['state']}: {reason_text(reason)}")
        self._said = said

    def _reconnecting(self, error: Unavailable) -> None:
        note(f"{error.one_line()}; trying on, the job is not affected")


# ---------------------------------------------------------------- on a terminal


def _check_terminal(options: Mapping[str, Any]) -> None:
    if options.get("pty") and not is_conversation():
        raise InvalidRequest("--pty needs a terminal as input and output", "leave it out")


def _on_terminal(fields: dict[str, Any]) -> dict[str, Any]:
    """The submission with a pseudo-terminal, which has the name of this one. It is never run again unasked."""
    from gpuq.cli.conversation import size  # here, as below: few runs need any of it

    changes = {"TERM": os.environ.get("TERM", ""), **fields.get("changes", {})}
    return {**fields, "pty": size(), "requeue": False, "changes": changes}


def _hold_terminal(client: Client, id: str, following: _Following) -> int | None:
    """Joins this terminal and the job's until either goes away; the exit status, or None for the job's own."""
    if not following.running():
        return None  # it was short: all there is to see is in its log
    from gpuq.cli.conversation import Conversation
    from gpuq.client.stream import Stream

    conversation = Conversation(raw=True)
    try:
        ending = conversation.hold(Stream(client, id, {"kind": "terminal"}, conversation.trouble))
    except Conflict as error:
        if conversation.shown:
            note(f"{error.one_line()}; gpuq logs {id} has what was not shown")
            following.was_shown()
        return None  # else it has ended since: its log is all there is to see
    if ending.said is not None:
        following.was_shown()
        return None
    note(f"left; job {id} has lost its terminal: gpuq show {id} says whether it goes on")
    return ending.status
