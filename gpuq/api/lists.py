"""Lists of jobs: what memory has from memory, the rest from the store, both in submit order and in pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from gpuq import arrays
from gpuq.api.answers import answer
from gpuq.api.calls import By, Call
from gpuq.api.lookup import element, find, shown_state
from gpuq.api.show import JobLens
from gpuq.errors import InvalidRequest
from gpuq.model import Job, JobId
from gpuq.protocol import MAX_PAGE
from gpuq.states import FINAL, JobState
from gpuq.store import jobs as stored
from gpuq.store.columns import ELEMENT_BITS, job_key, make_key

_MAX_IDS = 1000  # ids one list may ask for: more do not fit into a URL
_ITEMS = 1000  # jobs on a page of full items unless asked otherwise
_MAX_STORED = 1000  # jobs on a page with ended ones: reading more at once would hold up everyone else
_READ_AT_ONCE = _MAX_STORED + 1  # rows of one query: a page, and the one that says that there is a next

Limit = Annotated[int | None, Query(ge=1, le=MAX_PAGE, description="most items on the page")]
States = Annotated[list[JobState] | None, Query(description="any of these; may be repeated")]


async def list_jobs(
    call: By,
    user: str | None = None,
    queue: str | None = None,
    state: States = None,
    name: str | None = None,
    ids: Annotated[str | None, Query(description="comma separated; these jobs only, ended ones too")] = None,
    all: Annotated[bool, Query(description="ended jobs too")] = False,
    expand: Annotated[bool, Query(description="elements of arrays instead of the arrays")] = False,
    limit: Limit = None,
    after: Annotated[str | None, Query(description="'next' of the page before")] = None,
    fields: Annotated[str | None, Query(description="comma separated; gives rows instead of items")] = None,
) -> Response:
    """Jobs in submit order: those that have not ended, unless states, ids or all ask for others."""
    states = frozenset(state) if state else None
    await call.controller.settled()
    lens = JobLens(call)
    columns = None if fields is None else _columns(lens, fields)
    page = _Page(call, stored.Filter(user, queue, name, states), expand, _place(after))
    if ids is not None:
        found = page.named(_ids(ids))
        most = limit or MAX_PAGE
    elif all or (states and not FINAL.isdisjoint(states)):
        found = page.with_ended()
        most = min(limit or _MAX_STORED, _MAX_STORED)
    else:
        found = page.live()
        most = limit or (MAX_PAGE if fields else _ITEMS)
    jobs = list(islice(found, most + 1))
    more = len(jobs) > most
    del jobs[most:]
    body = _body(lens, jobs, columns)
    body["next"] = str(_key(jobs[-1])) if more else None
    # The list shows memory, which is ahead of the disk: it must not leave before the disk has caught up.
    await call.controller.settled()
    return answer(body)


async def history(
    call: By,
    user: str | None = None,
    queue: str | None = None,
    state: States = None,
    name: str | None = None,
    since: Annotated[float | None, Query(description="ended at or after, seconds since the epoch")] = None,
    until: Annotated[float | None, Query(description="ended before, seconds since the epoch")] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_STORED)] = 100,
    after: Annotated[str | None, Query(description="'next' of the page before")] = None,
) -> Response:
    """Jobs that have ended, latest end first."""
    await call.controller.settled()
    where = stored.Filter(user, queue, name, frozenset(state) if state else None)
    page = stored.history(call.controller.store.reader, where, since=since, until=until, cursor=after, limit=limit)
    body = _body(JobLens(call), page.items, None)
    body["next"] = page.next
    await call.controller.settled()
    return answer(body)


def _columns(lens: JobLens, text: str) -> list[str]:
    asked = text.split(",")
    for field in asked:
        if field not in lens.getters:
            raise InvalidRequest(f"fields: there is no '{field[:40]}'", f"known: {', '.join(lens.getters)}")
    return asked


def _ids(text: str) -> list[JobId]:
    asked = [JobId(part.strip()) for part in text.split(",")] if text else []
    if len(asked) > _MAX_IDS:
        raise InvalidRequest(f"ids: {len(asked):,} are too many for one list", f"at most {_MAX_IDS:,}")
    for id in asked:
        if job_key(id) is None:
            raise InvalidRequest(f"ids: '{id[:40]}' is not a job id such as 1042 or 1042_7")
    return asked


def _place(cursor: str | None) -> int:
    """The key a page starts behind: what `next` said."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise InvalidRequest(f"after: '{cursor[:40]}' is not a place in a list")
    return int(cursor)


def _body(lens: JobLens, jobs: list[Job], columns: list[str] | None) -> dict[str, Any]:
    if columns is None:
        lens.prepare(jobs)
        return {"items": [lens.item(job) for job in jobs]}
    return {"fields": columns, "rows": lens.rows(jobs, columns)}


class _Page:
    """The jobs a list is about, one after the other, from the place where the page before ended."""

    def __init__(self, call: Call, where: stored.Filter, expand: bool, after: int) -> None:
        self._view = call.controller.view
        self._controller = call.controller
        self._reader = call.controller.store.reader
        self._unwritten = call.controller.unwritten.jobs
        self._where = where
        self._expand = expand
        self._after = after

    def live(self) -> Iterator[Job]:
        """What has not ended, from memory."""
        return self._select(self._sorted(self._view.live_jobs()), ended=False)

    def with_ended(self) -> Iterator[Job]:
        """All of them: those in memory, and beside them what only the store still has."""
        known = self._sorted(chain(self._view.live_jobs(), self._unwritten.values()))
        rows = merge(known, self._stored(), key=attrgetter("number"))
        return self._select(filter(self._is_latest, rows), ended=True)

    def named(self, ids: list[JobId]) -> Iterator[Job]:
        """The jobs with these ids that exist, whatever their state."""
        found = (find(self._controller, id) for id in dict.fromkeys(ids))
        rows = [job for job in found if job is not None and self._matches(job)]
        return self._select(sorted(rows, key=_key), ended=True)

    def _stored(self) -> Iterator[Job]:
        # Elements come behind their array: one that the last page ended in is begun again.
        cursor: str | None = str((self._after >> ELEMENT_BITS << ELEMENT_BITS) - 1 if self._expand else self._after)
        where = replace(self._where, states=None)
        while cursor is not None:
            page = stored.page(self._reader, where, newest_first=False, cursor=cursor, limit=_READ_AT_ONCE)
            yield from page.items
            cursor = page.next

    def _is_latest(self, job: Job) -> bool:
        """Whether no other record of it is in memory. The store's may be old: of another name, of another's job."""
        known = self._view.job(job.id) or self._unwritten.get(job.id)
        return known is None or known is job

    def _sorted(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of the jobs in memory that are rows and match, from the place on."""
        first = self._after >> ELEMENT_BITS
        rows = (job for job in jobs if job.index is None and job.number >= first and self._matches(job))
        return sorted(rows, key=attrgetter("number"))

    def _select(self, rows: Iterable[Job], *, ended: bool) -> Iterator[Job]:
        """The rows, or their elements, from the place on that the page begins at, in the states asked for."""
        if self._after:
            first = self._after >> ELEMENT_BITS
            rows = (job for job in rows if job.number >= first)
        if self._expand:
            rows = chain.from_iterable(self._elements(job, ended) for job in rows)
        if self._after:
            rows = (job for job in rows if _key(job) > self._after)
        states = self._where.states
        return iter(rows) if states is None else (job for job in rows if shown_state(self._controller, job) in states)

    def _matches(self, job: Job) -> bool:
        where = self._where
        return (
            (where.user is None or job.user == where.user)
            and (where.queue is None or job.queue == where.queue)
            and (where.name is None or job.name == where.name)
        )

    def _elements(self, job: Job, ended: bool) -> Iterable[Job]:
        """The elements of an array in the order of their indices; of any other job, itself.

        Those in no state that is asked for need not be made: of 100,000, somebody may want the three that failed.
        """
        if job.array is None:
            return (job,)
        wanted = frozenset(self._where.states or JobState)
        unmade = job.array.waiting if JobState.QUEUED in wanted else ()
        waiting = (element(job, index) for index in arrays.expand(unmade))
        done = self._ended_elements(job, wanted & FINAL) if ended else ()
        return merge(done, self._view.elements(job.id), waiting, key=attrgetter("index"))

    def _ended_elements(self, array: Job, states: frozenset[JobState]) -> Iterator[Job]:
        late = (job for job in self._unwritten.values() if job.array_id == array.id and job.index is not None)
        just_ended = sorted((job for job in late if job.state in states), key=attrgetter("index"))
        ended_before = (job for job in self._stored_elements(array, states) if job.id not in self._unwritten)
        return merge(ended_before, just_ended, key=attrgetter("index"))

    @cached_property
    def _ended_unwritten(self) -> dict[int, dict[JobId, Job]]:
        """Elements by the number of their array: there may be thousands of either."""
        found: dict[int, dict[JobId, Job]] = {}
        for job in self._controller.unwritten.jobs.values():
            if job.index is not None:
                found.setdefault(job.number, {})[job.id] = job
        return found

    def _stored_elements(self, array: Job, states: frozenset[JobState]) -> Iterator[Job]:
        cursor = str(self._after) if self._after >> ELEMENT_BITS == array.number else None
        while True:
            page = stored.elements(self._reader, array.id, states, cursor=cursor, limit=_MAX_STORED)
            yield from page.items
            if page.next is None:
                return
            cursor = page.next


def _key(job: Job) -> int:
    return make_key(job.number, job.index)
