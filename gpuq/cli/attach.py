"""gpuq attach: a shell, or a command, beside a running job."""

from __future__ import annotations

import os

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.conversation import Conversation, size
from gpuq.cli.outcome import OWN_TROUBLE
from gpuq.cli.params import examples
from gpuq.cli.selection import one_id
from gpuq.cli.terminal import is_conversation, note, visible
from gpuq.client.stream import Stream


@command(
    name="attach",
    epilog=examples("gpuq attach 1042", "gpuq attach 1042 nvidia-smi"),
    context_settings={"allow_interspersed_args": False},
)
@click.argument("job", metavar="JOB")
@click.argument("command", nargs=-1, metavar="[COMMAND...]")
@click.option("--rank", type=click.IntRange(min=0), default=0, metavar="R", help="Of this node of the job; default 0.")
@connection
def attach(job: str, command: tuple[str, ...], rank: int) -> int:
    """Open a shell beside a running job: on its node, in its environment and folder, with its GPUs.

    It dies with the job, and the job does not mind its end. With a COMMAND that runs instead; its exit status is this
    one's. Enter ~ . leaves, Enter ~ ? says more. Without a terminal, input and output are passed on as they are.
    """
    id, client = one_id(job), connect()
    raw = is_conversation()
    aim = {"kind": "shell", "rank": rank, "command": list(command)}
    if raw:
        aim |= {"pty": size(), "term": os.environ.get("TERM", "")}
    conversation = Conversation(raw)
    ending = conversation.hold(Stream(client, id, aim, conversation.trouble))
    if ending.said is None:
        note(f"left; what ran here was hung up, job {id} goes on")
    elif "error" in ending.said:
        note(visible(ending.said["error"]))
        return OWN_TROUBLE
    return ending.status
