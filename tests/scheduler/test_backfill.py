"""Room that is kept, gaps that are filled, and that neither is at anyone's cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gpuq.model import JobId, Now, Request
from gpuq.scheduler import plan
from gpuq.scheduler.backfill import RUNS_ON_SECONDS, Hold, ends_in_order, reserve, reserve_in_order
from gpuq.scheduler.fit import Room, empty, fits, rooms
from gpuq.scheduler.order import LEAST_SECONDS
from gpuq.scheduler.plan import PATIENCE, SCHEMES
from gpuq.settings import DAY
from gpuq.view import Policy
from tests.scheduler.virtual import START, Line, Work, an_odd_line, odd_work, some_work

SEEDS = range(30)
HOUR = 3_600.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("scheme", "predicts"), [("easy", True), ("ours", False), ("ours", True)])
def test_the_room_kept_for_the_first_never_slips_because_of_backfill(scheme: str, predicts: bool, seed: int) -> None:
    line = Line(3, 4, scheme, predicts)
    line.run(some_work(seed))
    assert line.promised, "or nothing was tried"
    for number, promises in line.promised.items():
        assert all(kept.bounded for _, kept in promises)
        starts = [kept.at for _, kept in promises]
        assert line.started[number] + START <= min(starts), number


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("scheme", "predicts"), [("easy", True), ("ours", False), ("ours", True)])
def test_nor_where_shares_models_and_cpus_decide_what_is_left(scheme: str, predicts: bool, seed: int) -> None:
    line = an_odd_line(seed, scheme, predicts)
    line.run(odd_work(seed))
    for number, promises in line.promised.items():
        assert line.started[number] + START <= min(kept.at for _, kept in promises), number


@pytest.mark.parametrize("seed", SEEDS)
def test_nor_does_what_was_promised_at_the_latest_among_jobs_of_which_nobody_knows_how_long_they_run(seed: int) -> None:
    line = Line(3, 4)
    line.run([replace(work, limit=None) if i % 4 == 0 else work for i, work in enumerate(some_work(seed))])
    promises = [(number, kept) for number, each in line.promised.items() for _, kept in each if kept.bounded]
    assert promises, "or nothing was tried"
    assert all(line.started[number] + START <= kept.at for number, kept in promises)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_expected_run_times_too_everything_starts_and_no_limit_is_passed_over(seed: int) -> None:
    line = Line(3, 4)
    line.run(some_work(seed, limits=seed % 2 == 0))
    assert len(line.started) == 60


def test_a_small_job_fills_a_gap_that_it_leaves_in_time_and_a_long_one_does_not() -> None:
    work = [
        Work(0, HOUR, 3, limit=3_600),
        Work(1, HOUR, 4, limit=3_600),
        Work(2, 600, 1, limit=600),
        Work(3, 2 * HOUR, 1, limit=7_200),
    ]
    for scheme in ("easy", "ours"):
        line = Line(1, 4, scheme, predicts=False)
        line.run(work)
        assert line.started == {1: 0, 2: HOUR, 3: 2, 4: 2 * HOUR}, scheme


def test_what_the_first_leaves_free_is_for_anyone_however_long() -> None:
    line = Line(1, 4, "easy")
    line.run([Work(0, HOUR, 2, limit=3_600), Work(1, HOUR, 3, limit=3_600), Work(2, 9 * HOUR, 1, limit=99_999)])
    assert line.started == {1: 0, 2: HOUR, 3: 2}


def test_without_backfill_nobody_starts_before_the_first_and_first_fit_lets_it_starve() -> None:
    work = [Work(0, HOUR, 3), Work(1, HOUR, 4), *(Work(2 + i * 1_200, HOUR, 1) for i in range(12))]
    strict, loose = Line(1, 4, "fifo"), Line(1, 4, "first-fit")
    strict.run(work)
    loose.run(work)
    assert strict.started[2] == HOUR
    assert min(at for number, at in strict.started.items() if number > 2) == 2 * HOUR
    assert loose.started[2] > 4 * HOUR


def test_a_stream_of_small_jobs_without_limits_delays_a_large_one_by_a_bounded_time() -> None:
    """Their run times look short, so they would fill its gap for ever."""
    stream = [Work(10 + 240.0 * i, 1_500 + (i % 7) * 100) for i in range(2_500)]
    large = Work(HOUR, HOUR, 4, nodes=2, name="large")
    line = Line(2, 4)
    line.run([*stream, large], until=6 * 86_400)
    longest, backlog = 2_100, 2 * HOUR
    assert line.start_of(large) - large.at <= DAY + LEAST_SECONDS + longest + PATIENCE * backlog
    starving = Line(2, 4, "first-fit")
    starving.run([*stream, large], until=6 * 86_400)
    assert large not in starving.work_started()


def test_what_has_run_for_long_is_expected_to_go_on_for_long() -> None:
    """One of two nodes has to be kept for the third job: the one whose job has just begun."""
    long, young, first = Work(0, 20 * HOUR, 4), Work(9 * HOUR, 10 * HOUR, 4), Work(9 * HOUR + 60, HOUR, 4)
    small = [Work(9 * HOUR + 120 + i, 10 * HOUR, 1, name="small") for i in range(4)]
    line = Line(3, 4)
    line.run([long, young, Work(0, 9.5 * HOUR, 2), first, *small], until=9 * HOUR + 300)
    assert [kept.at - START for _, kept in line.promised[4]][:2] == [
        9 * HOUR + 240 + RUNS_ON_SECONDS,
        9 * HOUR + 242 + RUNS_ON_SECONDS,
    ]
    assert [line.start_of(work) for work in small[:2]] == [work.at for work in small[:2]], "beside what is kept"


def test_a_reservation_looks_at_no_more_ends_than_it_needs() -> None:
    line = Line(3, 4, "first-fit")
    line.run([Work(0, HOUR, 4), Work(0, 2 * HOUR, 4), Work(0, 3 * HOUR, 4), Work(1, 1, 4)], until=1)
    looked, view = [], line.cluster

    def ends() -> Iterator[Hold]:
        for number, attempt in enumerate(view.attempts.values()):
            looked.append(number)
            yield Hold(START + 10 * number + 10, True, attempt.ranks)

    job = view.job(JobId("4"))
    assert job is not None
    kept = reserve_in_order(job, Now(1, START + 1), rooms(view, Policy()), ends())
    assert kept is not None
    assert (kept.at, looked) == (START + 10, [0, 1])


def test_a_node_with_enough_gpus_but_too_few_cpus_is_looked_at_again_when_more_come_free() -> None:
    all_cpus, some = Request(gpus_per_node=1, cpus=16), Request(gpus_per_node=3, cpus=4)
    held = [Work(0, HOUR, 1, limit=20), Work(0, HOUR, 2, limit=50), Work(0, HOUR, limit=100, asks=all_cpus)]
    line = Line(1, 4)
    line.run([*held, Work(1, HOUR, asks=some)], until=1)
    job = line.cluster.job(JobId("4"))
    assert job is not None
    now = Now(1, START + 1)
    kept = reserve_in_order(job, now, rooms(line.cluster, Policy()), ends_in_order(line.cluster, now, True, ()))
    assert kept is not None
    assert (kept.at, kept.bounded) == (START + 100, True)


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("seed", range(10))
def test_an_impossible_job_blocks_no_other(scheme: str, seed: int) -> None:
    work = some_work(seed)
    impossible = Work(0.0, 60, 64, user="eve", name="too large", priority=5, limit=60)
    alone, beside = Line(3, 4, scheme), Line(3, 4, scheme)
    alone.run(work)
    beside.run([impossible, *work])
    assert 1 not in beside.started
    assert len(beside.started) == len(work)
    assert sorted(beside.started.values()) == sorted(alone.started.values())


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_equal_views_give_equal_plans_under_every_scheme(scheme: str) -> None:
    for seed in range(8):
        line = Line(3, 4, scheme)
        line.run(some_work(seed), until=8_000)
        now = Now(line.now, START + line.now)
        assert plan(line.cluster, now, Policy(), SCHEMES[scheme]) == plan(line.cluster, now, Policy(), SCHEMES[scheme])


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_time_room_is_kept_for_is_the_earliest_there_is(seed: int, odd: bool) -> None:
    """Against trying every end, one after the other, from the start."""
    line, work = (an_odd_line(seed, "first-fit"), odd_work(seed)) if odd else (Line(3, 4, "first-fit"), some_work(seed))
    line.run(work, until=6_000)
    view, now = line.cluster, Now(line.now, START + line.now)
    holds = [Hold(now.wall + 9 + 13 * i, True, a.ranks) for i, a in enumerate(reversed(list(view.attempts.values())))]
    for lanes in view.ready().values():
        for _, members in lanes:
            job = next(iter(members))
            kept = reserve(job, now, rooms(view, Policy()), holds)
            if kept is None:
                assert odd, "only there it may be that not even all nodes together could run it"
                assert not _could_ever(rooms(view, Policy()), job.request)
                continue
            for number in range(len(holds) + 1):
                left = {room.name: room for room in rooms(view, Policy())}
                for hold in holds[:number]:
                    for rank in hold.ranks:
                        left[rank.node].give(rank)
                if sum(fits(room, job.request) for room in left.values()) >= job.request.nodes:
                    assert kept.at == (holds[number - 1].until if number else now.wall)
                    break


def _could_ever(nodes: list[Room], request: Request) -> bool:
    return sum(fits(empty(room, Policy()), request) for room in nodes) >= request.nodes
