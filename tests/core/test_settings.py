"""The cluster's settings as people write them: what is read, what is refused, and what is shown of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq import protocol
from gpuq.codec import decode, encode
from gpuq.config import parse_toml
from gpuq.document import BadSettings, differences, document_of, kept_only, read, render
from gpuq.settings import (
    LEAST_LOST_AFTER,
    MAX_NAME,
    Choice,
    ClusterSettings,
    Duration,
    Flag,
    Names,
    Number,
    Queue,
    Quota,
    Setting,
    Settings,
    Size,
    settings_in,
)
from gpuq.view import Policy

USERS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(
    lambda t: t.isprintable() and t == t.strip()
)
QUEUES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)


def values(setting: Setting) -> st.SearchStrategy[Any]:
    match setting.kind:
        case Duration(low, high) | Number(low, high):
            made: st.SearchStrategy[Any] = st.integers(low, high)
        case Size(low, high):
            made = st.integers(low, high)
        case Flag():
            made = st.booleans()
        case Choice(words):
            made = st.sampled_from(list(words))
        case Names():
            made = st.lists(USERS, max_size=4).map(lambda names: tuple(sorted(set(names))))
    return st.none() | made if setting.default is None else made


def tables(table: type, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(table, **fields, **{setting.name: values(setting) for setting in settings_in(table)})


def by_name(table: type, names: st.SearchStrategy[str], field: str) -> st.SearchStrategy[Any]:
    found = st.dictionaries(names, tables(table, **{field: st.just("")}), max_size=3)
    return found.map(lambda each: tuple(replace(each[name], **{field: name}) for name in sorted(each)))


def consistent(settings: Settings) -> Settings:
    """What no value says alone, put right: times in their order, one default."""
    cluster, queues = settings.cluster, []
    for number, queue in enumerate(settings.queues):
        least = min((t for t in (queue.default_time, queue.max_time) if t is not None), default=None)
        default_time = None if queue.default_time is None else least
        queues.append(replace(queue, default=number == 0, default_time=default_time))
    after = min(cluster.suspect_after, cluster.lost_after - 1)
    return replace(settings, cluster=replace(cluster, suspect_after=after), queues=tuple(queues))


ANY = st.builds(
    Settings,
    st.integers(0, 99),
    tables(ClusterSettings),
    by_name(Queue, QUEUES, "name"),
    by_name(Quota, USERS, "user"),
).map(consistent)


@given(ANY)
def test_what_is_shown_reads_as_the_same_settings(settings: Settings) -> None:
    as_asked = replace(settings, version=0), settings.version
    assert read(parse_toml(render(settings), "shown")) == as_asked
    assert read(document_of(settings)) == as_asked
    assert decode(Settings, encode(settings)) == settings


@given(ANY, ANY)
def test_two_settings_differ_exactly_where_the_difference_says(one: Settings, other: Settings) -> None:
    found = differences(one, other)
    assert (not found) == (replace(one, version=0) == replace(other, version=0))
    assert len({each.path for each in found}) == len(found)
    assert all("\n" not in str(each) for each in found)
    back = [(each.path, each.after, each.before) for each in differences(other, one)]
    assert [(each.path, each.before, each.after) for each in found] == back


def test_an_empty_document_is_the_defaults_and_these_are_the_policy() -> None:
    assert read({}) == (Settings(), None)
    assert Policy().under(Settings()) == Policy()
    assert MAX_NAME == protocol.MAX_NAME
    least = Policy()
    assert least.lease + least.fence_grace + least.kill_margin == LEAST_LOST_AFTER
    shortest = Settings(cluster=ClusterSettings(suspect_after=15, lost_after=LEAST_LOST_AFTER))
    assert Policy().under(shortest).lost_after == LEAST_LOST_AFTER


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"clutser": {}}, "clutser: there is no such table; known: cluster, queues, quotas"),
        ({"version": "1"}, "version: must be the number that `gpuq config show` gave"),
        ({"version": 1 << 63}, "version: must be the number that `gpuq config show` gave"),
        ({"version": True}, "version: must be the number that `gpuq config show` gave"),
        ({"cluster": 3}, "cluster: must be a table, [cluster]"),
        ({"cluster": {"visiblity": "open"}}, "cluster.visiblity: there is no such setting; did you mean visibility?"),
        ({"cluster": {"visibility": "all"}}, 'cluster.visibility: must be one of "private", "open"'),
        ({"cluster": {"lost_after": 90}}, 'cluster.lost_after: must be text with units, such as "90s" or "2h30m"'),
        ({"cluster": {"lost_after": "90"}}, 'cluster.lost_after: must be text with units, such as "90s" or "2h30m"'),
        ({"cluster": {"lost_after": "79s"}}, "cluster.lost_after: must be from 1m20s to 1d"),
        ({"cluster": {"suspect_after": "10s"}}, "cluster.suspect_after: must be from 15s to 1h"),
        ({"cluster": {"suspect_after": "90s"}}, "cluster.lost_after: must be longer than suspect_after, 1m30s"),
        ({"queues": {"a b": {}}}, "queues.a b: a queue's name may hold letters, digits"),
        ({"queues": {"a": 1}}, "queues: must hold tables, such as [queues.NAME]"),
        ({"queues": {"a": {"max_time": "soon"}}}, "queues.a.max_time: 'soon' is not a duration"),
        ({"queues": {"a": {"max_time": "9" * 5000 + "s"}}}, "queues.a.max_time: must be text with units"),
        ({"queues": {f"q{n}": {} for n in range(1001)}}, "queues: there are 1001, at most 1000 may be"),
        ({"queues": {"a": {"default": 1}}}, "queues.a.default: must be true or false"),
        ({"queues": {"a": {"members": "ann"}}}, 'queues.a.members: must be a list of users, such as ["ann", "bob"]'),
        ({"queues": {"a": {"members": ["ann", 3]}}}, "queues.a.members: must be a list of users"),
        ({"queues": {"a": {"max_gpus_per_job": True}}}, "queues.a.max_gpus_per_job: must be a whole number"),
        ({"queues": {"a": {"max_gpus_per_job": -1}}}, "queues.a.max_gpus_per_job: must be from 0 to 1000000"),
        (
            {"queues": {"a": {"max_time": "1h", "default_time": "2h"}}},
            "queues.a.default_time: is longer than max_time, 1h",
        ),
        ({"queues": {"a": {}, "b": {}}}, "queues: exactly one must have default = true, out of a, b"),
        (
            {"queues": {"a": {"default": True}, "b": {"default": True}}},
            "queues: exactly one must have default = true, not a, b",
        ),
        ({"quotas": {"ann\n": {}}}, "is not the name of a user"),
        ({"quotas": {"ann": {"gpu_hours": 1.5}}}, "quotas.ann.gpu_hours: must be a whole number"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_path(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadSettings) as refused:
        read(document)
    (said,) = refused.value.problems
    assert problem in said


def test_all_problems_are_said_at_once_and_many_are_cut_in_the_one_line() -> None:
    with pytest.raises(BadSettings) as refused:
        read({"x": 1, "cluster": {"y": 1}, "queues": {f"q{n}": {"max_time": 1} for n in range(40)}})
    assert len(refused.value.problems) == 43  # 40 times, x, y, and no default
    assert refused.value.one_line().endswith("and 23 more")


def test_what_is_kept_only_is_named_where_it_is_set_and_marked_where_it_is_shown() -> None:
    settings, _ = read(
        {
            "cluster": {"keep_history": "30d", "keep_logs": "30d"},
            "queues": {"a": {"priority": 0, "max_jobs_per_user": 2}},
            "quotas": {"ann": {"gpus": 1, "gpu_hours": 9}},
        }
    )
    assert kept_only(settings) == ["cluster.keep_history"]
    marked = {line.split(":")[0].strip("# ") for line in render(settings).splitlines() if line.endswith("Kept only")}
    assert "how long ended jobs and events are kept; not set" in marked
    assert not {"max_jobs_per_user", "jobs", "gpus", "gpu_hours", "priority", "max_gpus_per_user"} & marked


def test_a_single_queue_is_the_default_one_and_without_any_it_is_main() -> None:
    assert Settings().default_queue.name == "main"
    assert read({"queues": {"a": {}}})[0].default_queue.name == "a"
    several, _ = read({"queues": {"a": {}, "b": {"default": True}}})
    assert several.default_queue.name == "b"
    assert several.queue("main") is None


@pytest.mark.parametrize(
    ("text", "size"), [("1G", 1 << 30), ("1.5G", 3 << 29), ("1025K", 1_049_600), ("1MiB", 1 << 20)]
)
def test_a_size_has_a_unit_and_comes_back_as_it_was(text: str, size: int) -> None:
    settings, _ = read({"cluster": {"log_cap": text}})
    assert settings.cluster.log_cap == size
    assert read(document_of(settings))[0].cluster.log_cap == size


@pytest.mark.parametrize("value", ["5", 5, "1K", "many", "9999999T"])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(BadSettings):
        read({"cluster": {"log_cap": value}})
