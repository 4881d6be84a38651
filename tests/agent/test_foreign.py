from __future__ import annotations

import pytest

from agent.foreign import CALM_SECONDS, UNEXPLAINED_BYTES, ForeignUses, in_words, is_harmless
from gpuq.gpu_use import ForeignUse, GpuProcess

BOB = GpuProcess(42, 1 << 30, "bob", "python")
EVE = GpuProcess(43, 1 << 30, "eve", "train")


def test_foreign_use_is_told_with_who_and_since_when_until_the_gpu_was_calm_for_a_while() -> None:
    uses = ForeignUses()
    assert uses.observe("a", [], 0, 0, 1_000) is None
    told = uses.observe("a", [BOB], 0, 5, 1_005)
    assert told == ForeignUse(1_005, 42, "bob", "python")
    assert uses.observe("a", [EVE, BOB], 0, 10, 1_010) == told  # the one that is there longest
    assert uses.observe("a", [EVE], 0, 15, 1_015) == ForeignUse(1_010, 43, "eve", "train")
    assert uses.observe("a", [], 0, 15 + CALM_SECONDS - 1, 1_100) is not None
    assert uses.observe("a", [], 0, 15 + CALM_SECONDS, 1_101) is None


def test_memory_that_nobody_accounts_for_counts_from_the_second_reading() -> None:
    uses = ForeignUses()
    assert uses.observe("a", [], UNEXPLAINED_BYTES + 1, 0, 1_000) is None
    told = uses.observe("a", [], UNEXPLAINED_BYTES + 1, 5, 1_005)
    assert told == ForeignUse(1_000, memory_used_bytes=UNEXPLAINED_BYTES + 1)
    assert uses.observe("a", [], UNEXPLAINED_BYTES + 99, 10, 1_010) == told  # the figure does not flicker
    uses = ForeignUses()
    for now in range(0, 60, 10):  # what a job leaves behind is gone by the next reading
        assert uses.observe("a", [], UNEXPLAINED_BYTES + 1, now, 1_000) is None
        assert uses.observe("a", [], UNEXPLAINED_BYTES, now + 5, 1_000) is None


def test_gpus_are_told_apart() -> None:
    uses = ForeignUses()
    assert uses.observe("a", [BOB], 0, 0, 0) is not None
    assert uses.observe("b", [], 0, 0, 0) is None


@pytest.mark.parametrize("name", ["Xorg", "gnome-shell", "nvidia-smi", "nvidia-persiste", "nv-hostengine"])
def test_displays_monitors_and_the_drivers_own_never_count(name: str) -> None:
    assert is_harmless(GpuProcess(1, 5 << 30, "root", name))
    assert not is_harmless(GpuProcess(1, 5 << 30, "root", "python"))


def test_words_name_the_user_or_the_job() -> None:
    assert in_words(ForeignUse(0, 42, "bob", "python")) == "in use by bob, pid 42 (python)"
    assert in_words(ForeignUse(0, 42, "bob", None, "17")) == "in use by job 17, which was not given it, pid 42"
    assert in_words(ForeignUse(0, memory_used_bytes=3 << 30)) == "3.0 GiB in use by no process that can be seen"
