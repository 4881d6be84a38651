from __future__ import annotations

import pytest

from gpuq.cli.hostlist import MAX_HOSTS, expand_hostlist
from gpuq.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n2,n1,n2", ["n1", "n2"]),
        ("n[01-03]", ["n01", "n02", "n03"]),
        ("n[8-10]", ["n10", "n8", "n9"]),
        ("n[08-10]", ["n08", "n09", "n10"]),
        ("n[1,3-4]x,m", ["m", "n1x", "n3x", "n4x"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("gpu-head.lab", ["gpu-head.lab"]),
    ],
)
def test_hostlist_names_every_node_once(text: str, names: list[str]) -> None:
    assert expand_hostlist(text) == names


@pytest.mark.parametrize(
    "text", ["", "n[", "n]", "n[1-", "n[3-1]", "n[a-b]", "n[1-2", "n 1", "n[]", "n1,,n2", "-n", "n/1"]
)
def test_malformed_hostlist_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        expand_hostlist(text)


@pytest.mark.parametrize("text", ["n[0-999999999]", "n[1-100]m[1-100]", "a[1-40]b[1-40]c[1-40]d[1-40]e[1-40]"])
def test_huge_hostlist_is_refused_before_it_is_built(text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_HOSTS:,}"):
        expand_hostlist(text)
