"""What a person is shown of lines that were overwritten, however the output was cut into pieces."""

from __future__ import annotations

import pytest

from gpuq.cli.fold import Fold

AGAIN = "\r\x1b[K"


def on_screen(text: str) -> list[str]:
    """The lines a terminal ends up with."""
    return [line.split("\r\x1b[K")[-1] for line in text.split("\n")]


BAR = "epoch 1\n\r 10%|#\r 55%|#####\r100%|##########\nloss 0.3\r\nepoch 2\n\r  1%|"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_only_the_last_state_of_a_line_is_left_in_whatever_pieces_it_comes(size: int) -> None:
    fold = Fold()
    shown = "".join(fold(BAR[at : at + size]) for at in range(0, len(BAR), size))
    assert on_screen(shown) == ["epoch 1", "100%|##########", "loss 0.3", "epoch 2", "  1%|"]


def test_a_million_states_cost_one_line() -> None:
    assert Fold()("".join(f"\r{n}" for n in range(1_000_000)) + "\n") == "999999\n"


def test_an_unfinished_line_is_shown_at_once_and_then_replaced() -> None:
    fold = Fold()
    assert [fold("\r50%"), fold("\r60%"), fold("\r"), fold("\ndone")] == ["50%", AGAIN + "60%", "", "\ndone"]


def test_text_without_overwriting_passes_unchanged() -> None:
    fold = Fold()
    assert fold("a\nb") + fold("c\n\n") + fold("d") == "a\nbc\n\nd"
