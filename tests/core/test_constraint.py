"""Constraints on nodes: how they are written, their normal form, and which nodes meet them."""

from __future__ import annotations

import pytest

from gpuq.constraint import MAX_CONSTRAINT, holds, label, normal
from gpuq.errors import InvalidRequest
from gpuq.node import Gpu, Inventory

GPUS = (Gpu(0, "u0", "NVIDIA H100 80GB HBM3", 80 << 30),)
LABELS = {"nvlink": "", "rack": "7", "cuda": "12.4"}
NODE = Inventory("n1", GPUS, 8, 1 << 30, False, "1", driver_version="550.54.15", labels=LABELS)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("h100", "h100"),
        (" H100 | A100 ", "h100|a100"),
        ("nvlink,rack=7", "nvlink&rack=7"),
        ("!(a|b)&(c|d)", "!(a|b)&(c|d)"),
        ("a&(b&c)|((d))", "a&b&c|d"),
        ("!!a", "a"),
        ("rack != 7", "!rack=7"),
        ("driver >= 550.54", "driver>=550.54"),
    ],
)
def test_a_constraint_has_one_normal_form(text: str, same: str) -> None:
    assert normal(text) == same
    assert normal(same) == same


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a&",
        "|a",
        "a b",
        "(a",
        "a)",
        "a=",
        "=a",
        "a=b=c",
        "!",
        "a;b",
        "a*2",
        "[a|b]",
        "x" * (MAX_CONSTRAINT + 1),
        "(" * 60 + "a" + ")" * 60,
        "!" * 100 + "a",
    ],
)
def test_what_is_no_constraint_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normal(text)
    assert "\n" not in refused.value.one_line()


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("h100", True),
        ("a100", False),
        ("nvlink", True),
        ("rack", True),
        ("gpu=h100", True),
        ("gpu=nvlink", False),
        ("rack=7", True),
        ("rack!=7", False),
        ("rack!=8&!a100", True),
        ("a100|rack=7", True),
        ("a100&rack=7|nvlink", True),
        ("a100&(rack=7|nvlink)", False),
        ("driver>=550", True),
        ("driver>=550.100", False),
        ("driver<560", True),
        ("cuda>=12.10", False),
        ("cuda>12.3", True),
        ("absent=1", False),
        ("absent>=1", False),
        ("nvlink>=1", False),
    ],
)
def test_a_node_meets_what_its_attributes_say(text: str, met: bool) -> None:
    assert holds(normal(text), NODE) is met


def test_no_constraint_is_met_by_every_node() -> None:
    assert holds("", NODE)


def test_a_label_is_a_word_or_a_word_with_a_value() -> None:
    assert label("NVLink") == ("nvlink", "")
    assert label("rack=7") == ("rack", "7")
    for text in ("", "a b", "a=", "gpu=h100", "driver", "a=b=c", "x" * 65):
        with pytest.raises(InvalidRequest, match="not a label"):
            label(text)
