"""Which queue a submission goes to, and what that queue demands of it."""

from __future__ import annotations

from gpuq.errors import InvalidRequest, NotAuthorised
from gpuq.model import Request
from gpuq.service.commands import Actor
from gpuq.settings import Queue, Settings
from gpuq.units import format_duration


def admit(settings: Settings, asked: str | None, actor: Actor, request: Request, requeue: bool) -> Queue:
    """The queue asked for, or the default one; raises InvalidRequest, or NotAuthorised for who is not a member."""
    queue = settings.default_queue if asked is None else settings.queue(asked)
    if queue is None:
        raise InvalidRequest(f"there is no queue '{asked}'", f"known: {_names(settings)}")
    if queue.members is not None and actor.user not in queue.members and not actor.admin:
        raise NotAuthorised(
            f"{actor.user} is not a member of queue {queue.name}", "choose another with -p, or ask an admin"
        )
    if queue.max_gpus_per_job is not None and request.gpus > queue.max_gpus_per_job:
        raise InvalidRequest(
            f"the job asks for {request.gpus} GPUs, in queue {queue.name} it may have {queue.max_gpus_per_job}",
            "another queue, -p, may allow more",
        )
    if queue.preemptible and not requeue:
        raise InvalidRequest(
            f"--no-requeue is not possible in queue {queue.name}, whose jobs may be stopped for others and run again",
            "leave it out, or choose another queue with -p",
        )
    return queue


def time_limit(queue: Queue, asked: int | None) -> int | None:
    """Seconds a job of this queue may run, None without end; raises InvalidRequest for more than the queue allows."""
    if asked is None:
        return queue.max_time if queue.default_time is None else queue.default_time
    if queue.max_time is not None and asked > queue.max_time:
        raise InvalidRequest(
            f"a time limit of {format_duration(asked)} is longer than queue {queue.name} allows",
            f"at most {format_duration(queue.max_time)}",
        )
    return asked


def _names(settings: Settings) -> str:
    return ", ".join(sorted(queue.name for queue in settings.known_queues))
