"""Threads that are all there before the first job is: none has to be started in the midst of one.

A job may use up the processes of its account, or of its container, and a thread counts as one. What asks for a thread
then gets a RuntimeError, at whatever point it has come to: with an order taken and not journaled, say.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from gpuq.errors import Unavailable


def started(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of so many threads, all of which run: it never starts another.

    Raises Unavailable if they cannot all be started. Fewer are not made do with: where there is no room for them there
    is none for a supervisor either, and a pool with a place left would try again at any call, and fail it.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    met = Barrier(count)  # none is free for the next one's task before all are there
    try:
        for meeting in [pool.submit(met.wait) for _ in range(count)]:
            meeting.result()
    except RuntimeError as error:
        met.abort()
        pool.shutdown(wait=False)
        raise Unavailable(
            f"the agent cannot start the {count} threads it needs: {error}",
            "its account or container has as many processes as it may (ulimit -u, pids.max): end some, or allow more",
        ) from error
    return pool
