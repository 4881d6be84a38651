from __future__ import annotations

from gpuq.model import NodeName
from gpuq.service.liveness import Liveness
from gpuq.states import NodeState
from gpuq.view import Policy

A, B = NodeName("a"), NodeName("b")


def ticked(liveness: Liveness, since: float, until: float, names: tuple[NodeName, ...] = (A,)) -> list[NodeName]:
    """A tick a second, as in life; gives who was lost on the way."""
    lost: list[NodeName] = []
    at = since
    while at < until:
        at = min(at + 1.0, until)
        lost += liveness.newly_lost(names, at)
    return lost


def test_a_silent_node_is_suspect_after_30_seconds_and_lost_after_90_once() -> None:
    liveness = Liveness(Policy(), 0.0)
    liveness.heard(A, 0.0)
    assert ticked(liveness, 0.0, 29.9) == []
    assert liveness.state(A) is NodeState.UP
    assert ticked(liveness, 29.9, 30.0) == []
    assert liveness.state(A) is NodeState.SUSPECT
    assert ticked(liveness, 30.0, 89.9) == []
    assert liveness.state(A) is NodeState.SUSPECT
    assert ticked(liveness, 89.9, 300.0) == [A]
    assert liveness.state(A) is NodeState.LOST
    liveness.heard(A, 300.0)
    assert liveness.state(A) is NodeState.UP
    assert ticked(liveness, 300.0, 389.0) == []
    assert ticked(liveness, 389.0, 391.0) == [A]


def test_a_controller_that_starts_gives_everyone_a_full_grace_and_no_work() -> None:
    liveness = Liveness(Policy(), 1_000.0)
    assert liveness.state(A) is NodeState.SUSPECT
    assert ticked(liveness, 1_000.0, 1_089.0) == []
    assert liveness.state(A) is NodeState.SUSPECT
    assert ticked(liveness, 1_089.0, 1_092.0) == [A]


def test_a_controller_that_was_stalled_itself_gives_everyone_a_full_grace() -> None:
    liveness = Liveness(Policy(), 0.0)
    liveness.heard(A, 0.0)
    ticked(liveness, 0.0, 50.0)
    assert liveness.newly_lost([A], 500.0) == [], "450 s without a tick are the controller's own silence"
    assert liveness.state(A) is NodeState.SUSPECT
    assert ticked(liveness, 500.0, 589.0) == []
    assert ticked(liveness, 589.0, 591.0) == [A]


def test_a_slow_tick_is_no_stall() -> None:
    liveness = Liveness(Policy(), 0.0)
    liveness.heard(A, 0.0)
    lost = []
    for at in range(4, 120, 4):
        lost += liveness.newly_lost([A], float(at))
    assert lost == [A]


def test_a_node_added_later_is_not_lost_before_it_could_report() -> None:
    liveness = Liveness(Policy(), 0.0)
    liveness.heard(A, 0.0)
    ticked(liveness, 0.0, 1_000.0)
    assert liveness.state(B) is NodeState.SUSPECT
    assert ticked(liveness, 1_000.0, 1_090.0, (B,)) == []
    assert liveness.state(B) is NodeState.SUSPECT
    assert ticked(liveness, 1_090.0, 1_092.0, (B,)) == [B]


def test_a_node_with_something_unexplained_gets_no_work_until_it_is_explained() -> None:
    liveness = Liveness(Policy(), 0.0)
    liveness.heard(A, 0.0, explained=False)
    assert liveness.state(A) is NodeState.SUSPECT
    liveness.heard(A, 1.0)
    assert liveness.state(A) is NodeState.UP


def test_words_that_arrive_out_of_order_do_not_age_a_node() -> None:
    liveness = Liveness(Policy(), 0.0)
    liveness.heard(A, 50.0)
    liveness.heard(A, 10.0)
    ticked(liveness, 0.0, 79.0)
    assert liveness.state(A) is NodeState.UP
