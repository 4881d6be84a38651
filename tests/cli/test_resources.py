from __future__ import annotations

import pytest

from gpuq.cli.resources import Dependency, GpuCount, GpuRequest, gpu_request, parse_dependencies, parse_gpus, parse_gres
from gpuq.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", GpuCount(None, 0)),
        ("8", GpuCount(None, 8)),
        ("H100:2", GpuCount("H100", 2)),
        ("3090:4", GpuCount("3090", 4)),
        ("rtx-6000.ada:1", GpuCount("rtx-6000.ada", 1)),
    ],
)
def test_gpus_are_a_number_with_or_without_type(text: str, count: GpuCount) -> None:
    assert parse_gpus(text) == count


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,1", "is a list: give a number of GPUs"),
        ("H100:1,A100:1", "is a list"),
        ("0.5", "not a whole number"),
        ("H100", "write for example H100:1"),
        ("2:H100", "write for example 2 or H100:2"),
        ("-1", "write for example"),
        ("", "write for example"),
        ("9999999", "more GPUs than"),
        ("\u0663", "write for example"),
    ],
)
def test_gpus_that_are_no_number_get_a_hint(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_gpus(text)
    assert says in caught.value.one_line()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("gpu", GpuCount(None, 1)),
        ("gpu:2", GpuCount(None, 2)),
        ("gpu:a100", GpuCount("a100", 1)),
        ("gpu:a100:2", GpuCount("a100", 2)),
        ("gres:gpu:2", GpuCount(None, 2)),
        ("gres/gpu:2", GpuCount(None, 2)),
    ],
)
def test_gres_counts_one_node(text: str, count: GpuCount) -> None:
    assert parse_gres(text) == count


@pytest.mark.parametrize("text", ["fpga:1", "gpu:1,gpu:2", "gpu:", "gpu:a:b:c", ""])
def test_other_gres_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_gres(text)


def test_total_that_does_not_divide_by_nodes_names_both_flags() -> None:
    with pytest.raises(InvalidRequest, match="--gpus 5 does not divide by --nodes 2"):
        gpu_request(2, GpuCount(None, 5), None, None, None)


def test_total_and_per_node_must_agree() -> None:
    agreed = gpu_request(2, GpuCount("H100", 4), GpuCount(None, 2), GpuCount(None, 2), "h100")
    assert agreed == GpuRequest(4, 2, "h100")
    with pytest.raises(InvalidRequest, match="--gpus 4 is not --nodes 1 times --gres gpu 2"):
        gpu_request(1, GpuCount(None, 4), None, GpuCount(None, 2), None)
    with pytest.raises(InvalidRequest, match="--gpus-per-node 1 and --gres gpu:2 differ"):
        gpu_request(1, None, GpuCount(None, 1), GpuCount(None, 2), None)


def test_two_types_of_gpu_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="--gpus asks for H100 and --gpu-type for A100"):
        gpu_request(1, GpuCount("H100", 1), None, None, "A100")


def test_nothing_asked_is_nothing_sent() -> None:
    assert gpu_request(1, None, None, None, None) == GpuRequest(None, None, None)


def test_dependencies_of_every_kind() -> None:
    assert parse_dependencies("afterok:1:2,afterany:3_4,afternotok:@,singleton,afterok:1") == [
        Dependency("afterok", "1"),
        Dependency("afterok", "2"),
        Dependency("afterany", "3_4"),
        Dependency("afternotok", "@"),
        Dependency("singleton", ""),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1042", "afterok:1042"),
        ("afterok", "names no job"),
        ("afterok:", "names no job"),
        ("afterok:x", "names no job"),
        ("afterok:1?afterany:2", "any of several"),
        ("singleton:1", "not a kind"),
        ("", "not a kind"),
    ],
)
def test_malformed_dependencies_get_a_hint(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_dependencies(text)
    assert says in caught.value.one_line()
