"""The plain filter, and the order of names."""

from __future__ import annotations

import pytest

from tui.words import natural, wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", True),
        ("  ", True),
        ("N01", True),
        ("h100 lost", True),
        ("h100 up", False),
        ("!lost", False),
        ("!up h100", True),
        ("!", True),
        ("[", False),
    ],
)
def test_a_line_has_all_words_and_none_of_the_refused(text: str, found: bool) -> None:
    check = wanted(text)
    assert (check is None or check(["n01", "LOST", None, "NVIDIA H100"])) is found


def test_words_do_not_match_across_texts() -> None:
    check = wanted("1lost")
    assert check is not None
    assert not check(["n01", "lost"])


def test_names_are_in_the_order_of_their_numbers() -> None:
    names = ["n10", "n2", "gpu-2-b", "n02", "gpu-10", "²", "n" + "9" * 5_000]
    ordered = sorted(names, key=natural)
    assert ordered.index("n2") < ordered.index("n10")
    assert ordered.index("gpu-2-b") < ordered.index("gpu-10") < ordered.index("n2")
