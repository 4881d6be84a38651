"""gpuq run: submit, follow the output, and end as the job does."""

from __future__ import annotations

from typing import Any

import click

from gpuq.cli.connect import connection
from gpuq.cli.options import submit_options
from gpuq.cli.outcome import OWN_TROUBLE, exit_status, reason_text, sentence
from gpuq.cli.params import examples
from gpuq.cli.receipt import receipt
from gpuq.cli.slurm import SlurmAware
from gpuq.cli.submit import ready
from gpuq.cli.terminal import log_writer, note
from gpuq.client.follow import follow_log, watch_job
from gpuq.client.http import Client
from gpuq.errors import GpuqError, Unavailable
from gpuq.states import FINAL

INTERRUPTED = 130  # 128 + SIGINT: what a shell shows for a command that Ctrl-C ended
_FINAL = {state.value for state in FINAL}


@click.command(
    name="run",
    epilog=examples("gpuq run -G 1 nvidia-smi", "gpuq run -G 2 -t 30 sh -c 'echo $CUDA_VISIBLE_DEVICES'"),
    cls=SlurmAware,
    context_settings={"allow_interspersed_args": False},
)
@submit_options
@connection
@click.pass_context
def run(ctx: click.Context, /, **_options: Any) -> int:
    """Submit a job, print its output as it comes, and exit with its exit code (128 + signal).

    Ctrl-C cancels the job; a second one leaves without waiting for its end. When the terminal hangs up, the job goes
    on. Trouble of gpuq's own is status 125.
    """
    if ctx.params.get("array"):
        raise click.UsageError("run follows one job, and an array is many: use gpuq submit --wait", ctx)
    client, prepared = ready(ctx)
    if prepared.options.get("array"):
        raise click.UsageError("the script asks for an array, and run follows one job: use gpuq submit --wait", ctx)
    try:
        id = client.post("/jobs", prepared.fields)["id"]
    except KeyboardInterrupt:
        note("interrupted while submitting; gpuq queue --me shows whether the job got in")
        return INTERRUPTED
    note(f"submitted job {id}")
    following = _Following(client, id)
    try:
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
        """Prints everything every attempt writes, and gives the final job."""
        while True:
            if not self._ended:
                self._print_log()
            job = self._next_attempt()
            if job["attempt"] <= self._attempt:
                return job
            if self._attempt:
                note(f"attempt {job['attempt']} of job {self._id} begins")
            self._attempt, self._offset, self._ended = job["attempt"], 0, False

    def _print_log(self) -> None:
        log = follow_log(
            self._client, self._id, attempt=self._attempt, offset=self._offset, reconnecting=self._reconnecting
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
            reason = job["reason"]
            # A back-off counts down: its text is another each time, and says nothing new.
            said = reason and (reason["code"] if reason["code"] == "backoff" else reason["text"])
            if reason and said != self._said:
                note(f"job {self._id} is {job['state']}: {reason_text(reason)}")
            self._said = said
        raise AssertionError("a watch ends only with its reader")

    def _reconnecting(self, error: Unavailable) -> None:
        note(f"{error.one_line()}; trying on, the job is not affected")
