from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuq import changes, gpu_use, model, node, protocol, spec
from gpuq.codec import decode, encode
from gpuq.errors import InvalidRequest
from gpuq.model import Job, JobSpec, OnLost, Rank, Stop, StopKind
from gpuq.node import Gpu, NodeSample
from gpuq.protocol import RankReport, Submission, SyncReply, SyncRequest
from gpuq.states import JobState

CLASSES = [
    cls
    for module in (gpu_use, spec, model, node, changes, protocol)
    for cls in vars(module).values()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls.__module__ == module.__name__
    if cls is not model.PastRun  # stays in memory
]
# Mapping is abstract: hypothesis is told what a mapping of strings is. Everything is within what SQLite can hold.
anything = st.text(max_size=8)
LARGEST = 2**63 - 1
st.register_type_strategy(Mapping, st.dictionaries(anything, anything, max_size=3))
st.register_type_strategy(str, anything)
st.register_type_strategy(int, st.integers(-LARGEST, LARGEST))
st.register_type_strategy(float, st.floats(-9e18, 9e18))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_is_encoded_decodes_to_the_same(cls: type) -> None:
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.from_type(cls))
    def round_trip(value: Any) -> None:
        wire = json.dumps(encode(value))
        assert decode(cls, json.loads(wire)) == value

    round_trip()


def test_every_class_of_the_vocabulary_is_tried() -> None:
    assert {Job, JobSpec, Submission, SyncRequest, SyncReply} <= set(CLASSES)
    assert len(CLASSES) > 25


def test_defaults_are_left_out_and_unknown_fields_ignored() -> None:
    assert encode(Submission(command=("a",))) == {"command": ["a"]}
    assert decode(Submission, {"command": ["a"], "from_the_future": {"x": [1]}}) == Submission(command=("a",))


JOB = encode(Job(model.JobId("1"), 1, None, "n", "u", "main", 0, model.Request(), JobState.QUEUED, 1.0, 1.0))


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Job) if f.default is dataclasses.MISSING])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"Job\.{field} is missing"):
        decode(Job, {name: value for name, value in JOB.items() if name != field})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", True),
        ("number", 1.0),
        ("number", "1"),
        ("number", None),
        ("number", 2**63),
        ("number", -(2**63) - 1),
        ("number", 10**400),
        ("requeue", 1),
        ("requeue", 0),
        ("name", "\ud800"),
        ("name", 5),
        ("name", None),
        ("name", ["a"]),
        ("submitted_at", True),
        ("submitted_at", "1.0"),
        ("submitted_at", float("nan")),
        ("submitted_at", float("inf")),
        ("submitted_at", float("-inf")),
        ("submitted_at", 10**400),
        ("submitted_at", 1e300),
        ("eligible_at", float("nan")),
        ("state", "PENDING"),
        ("state", 1),
        ("state", []),
        ("state", {}),
        ("state", None),
        ("request", []),
        ("request", "x"),
        ("request", None),
        ("waits_for", {}),
        ("waits_for", "1042"),
        ("waits_for", None),
        ("waits_for", [None]),
        ("waits_for", [[]]),
        ("waits_for", [{"kind": "afterok"}]),
        ("waits_for", [{"kind": "after", "job": "1"}]),
        ("array", []),
        ("array", {"ranges": [{"start": 0, "last": True}], "waiting": []}),
        ("cause", {"code": "bored", "text": ""}),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(Job, JOB | {field: value})
    assert "." in caught.value.message or "JSON object" in caught.value.message


@pytest.mark.parametrize("data", [None, [], "x", 1, True, 1.5])
def test_only_an_object_is_a_record(data: object) -> None:
    with pytest.raises(InvalidRequest, match="SyncRequest must be a JSON object"):
        decode(SyncRequest, data)


@pytest.mark.parametrize("field", ["environment", "changes"])
@pytest.mark.parametrize("value", [[], "x", {"a": 1}, {"a": None}, {"a": ["b"]}])
def test_a_mapping_holds_text_alone(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"JobSpec\.{field}"):
        decode(JobSpec, {"command": [], "script": None, "cwd": None, field: value})


def test_a_whole_number_does_for_a_time() -> None:
    stop = decode(Stop, {"kind": "cancel", "by": "ada", "at": 5})
    assert stop == Stop(StopKind.CANCEL, "ada", 5.0)
    assert type(stop.at) is float


def test_null_is_what_is_not_known() -> None:
    gpu = {"index": 0, "uuid": "u", "name": "n", "memory_total_bytes": None}
    assert decode(Gpu, gpu) == Gpu(0, "u", "n", None)
    assert encode(decode(Gpu, gpu)) == gpu, "a field without a default is said even when it is null"


def test_a_list_is_not_shared_with_what_it_came_from() -> None:
    gpus = [1, 2]
    rank = decode(Rank, {"node": "n", "gpus": gpus, "cpus": 0, "memory_bytes": 0})
    gpus.append(3)
    assert rank.gpus == (1, 2)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=12,
)
NAMES = {cls: [f.name for f in dataclasses.fields(cls)] for cls in CLASSES}


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(CLASSES), st.data())
def test_hostile_input_is_refused_and_nothing_else_happens(cls: type, data: st.DataObject) -> None:
    body = data.draw(st.dictionaries(st.sampled_from([*NAMES[cls], "other"]), json_values) | json_values)
    try:
        value: Any = decode(cls, body)
    except InvalidRequest:
        return
    assert decode(cls, encode(value)) == value


def test_depth_does_no_harm() -> None:
    deep: Any = json.loads("[" * 900 + "]" * 900)  # json itself refuses more
    with pytest.raises(InvalidRequest):
        decode(SyncRequest, {"protocol": deep})
    with pytest.raises(InvalidRequest):
        decode(RankReport, {"uid": "u", "rank": 0, "phase": deep})


class Colour(str, Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Sample:
    colours: tuple[Colour, ...] = ()
    inner: NodeSample | None = None
    lost: OnLost = OnLost.KEEP


def test_enums_and_records_inside_tuples_and_options() -> None:
    value = Sample((Colour.RED,), NodeSample(cpu_percent=5.0), OnLost.FENCE)
    assert encode(value) == {"colours": ["red"], "inner": {"cpu_percent": 5.0}, "lost": "fence"}
    assert decode(Sample, encode(value)) == value
    assert decode(Sample, {"inner": None}) == Sample()
