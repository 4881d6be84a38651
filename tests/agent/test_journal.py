"""The journal on a real disk: what was written is there again, whatever moment the agent died at."""

from __future__ import annotations

import json
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import journal as journal_module
from agent.actions import Accept, Action, Bar, Drop, RecordEnd
from agent.journal import Journal, JournalLost
from gpuq.errors import Incompatible
from gpuq.model import AttemptUid
from tests.agent.orders import exited, run_order, uid


def opened(path: Path, wall: float = 1.0) -> Journal:
    return Journal(path / "state" / "journal", "boot1", wall)


def accept(name: str, **spec: object) -> Accept:
    return Accept(run_order(name, **spec), None)  # type: ignore[arg-type]


def reopened(path: Path, *writes: list[Action]) -> Journal:
    """The journal after the writes and a restart of the agent."""
    journal = opened(path)
    for actions in writes:
        journal.write(actions)
    journal.close()
    journal = opened(path)
    journal.close()
    return journal


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """Files of this process cannot grow past `size`: the next write is cut short, then refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_everything_written_is_there_after_a_restart(tmp_path: Path) -> None:
    order = run_order("a", environment={"SECRET": "ä\n"})
    journal = reopened(
        tmp_path,
        [Accept(order, 140.0), accept("b"), accept("c")],
        [RecordEnd(uid("b"), 0, exited(3, log_size=10)), Bar(uid("d"), "no"), Drop(uid("c"), 0)],
    )
    assert [(h.order.uid, h.boot_id, h.exit) for h in journal.held] == [
        ("a", "boot1", None),
        ("b", "boot1", exited(3, log_size=10)),
    ]
    assert journal.held[0].order == order
    assert journal.barred == ("d",)


def test_forgotten_tombstone_is_gone(tmp_path: Path) -> None:
    assert reopened(tmp_path, [Bar(uid("d"), "no")], [Drop(uid("d"), 0)]).barred == ()


def test_incarnation_rises_with_each_start_even_with_a_clock_set_back_or_the_state_erased(tmp_path: Path) -> None:
    seen = []
    for wall in (10.0, 10.0, 3.0, 20.0):
        journal = opened(tmp_path, wall)
        seen.append(journal.incarnation)
        journal.close()
    assert seen == [10_000, 10_001, 10_002, 20_000]
    (tmp_path / "state" / "journal").unlink()
    journal = opened(tmp_path, 21.0)
    journal.close()
    assert journal.incarnation == 21_000


def test_a_start_under_a_clock_years_ahead_does_not_shut_later_ones_out(tmp_path: Path) -> None:
    opened(tmp_path, 2_000_000_000.0).close()
    journal = opened(tmp_path, 1_000_000_000.0)
    journal.close()
    assert journal.incarnation == 1_000_000_000_000


def test_epoch_is_remembered(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.write([], epoch=4)
    journal.close()
    journal = opened(tmp_path)
    journal.close()
    assert journal.epoch == 4


def test_secrets_are_for_the_owner_only(tmp_path: Path) -> None:
    reopened(tmp_path, [accept("a", environment={"SECRET": "x"})])
    state = tmp_path / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [stat.S_IMODE(p.stat().st_mode) for p in state.iterdir()] == [0o600]


def test_write_torn_at_any_byte_keeps_all_that_was_durable_before(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.write([accept("a")])
    path = tmp_path / "state" / "journal"
    whole = path.stat().st_size
    journal.write([accept("b")])
    journal.close()
    data = path.read_bytes()
    for cut in range(whole, len(data), 37):
        path.write_bytes(data[:cut])
        journal = opened(tmp_path)
        assert [h.order.uid for h in journal.held] == ["a"]
        journal.write([accept("c")])  # not glued to the torn line
        journal.close()
        journal = opened(tmp_path)
        journal.close()
        assert [h.order.uid for h in journal.held] == ["a", "c"]


def test_damaged_line_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reopened(tmp_path, [accept("a")], [accept("b")])
    path = tmp_path / "state" / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\0" * 50 + b"\n", *lines[3:]]))
    journal = opened(tmp_path)
    journal.close()
    assert [h.order.uid for h in journal.held] == ["a", "b"]
    assert "journal.damaged" in caplog.text


def test_order_of_another_version_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    reopened(tmp_path, [accept("a")])
    path = tmp_path / "state" / "journal"
    before = path.read_bytes().replace(b'"ALLOCATED"', b'"HOVERING"')
    path.write_bytes(before)
    with pytest.raises(Incompatible, match="another version"):
        opened(tmp_path)
    assert path.read_bytes() == before


def test_full_disk_refuses_the_whole_write_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.write([accept("a")])
    path = tmp_path / "state" / "journal"
    size = path.stat().st_size
    with disk_full_after(size + 100), pytest.raises(OSError, match="File too large"):
        journal.write([accept("b"), accept("c")])
    assert path.stat().st_size == size
    journal.write([accept("d")])
    journal.close()
    journal = opened(tmp_path)
    journal.close()
    assert [h.order.uid for h in journal.held] == ["a", "d"]


def test_agent_starts_on_a_full_disk_with_what_it_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = reopened(tmp_path, [accept("a")])
    path = tmp_path / "state" / "journal"
    before = path.read_bytes()
    path.write_bytes(before + b'{"held":{"ui')
    with disk_full_after(100):
        journal = opened(tmp_path)
    journal.close()
    assert [h.order.uid for h in journal.held] == ["a"]
    assert journal.incarnation > first.incarnation
    assert path.read_bytes() == before
    assert "journal.full" in caplog.text
    assert sorted(p.name for p in path.parent.iterdir()) == ["journal"]


def test_journal_that_cannot_even_be_undone_is_not_built_upon(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.close()
    with pytest.raises(JournalLost, match="cannot be written"):
        journal.write([accept("a")])


def test_file_stays_small_while_runs_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "REWRITE_BYTES", 20_000)
    journal = opened(tmp_path)
    journal.write([accept("keeper"), Bar(uid("barred"), "no")], epoch=2)
    path = tmp_path / "state" / "journal"
    for i in range(300):
        name = AttemptUid(f"r{i}")
        journal.write([accept(name)])
        journal.write([RecordEnd(name, 0, exited(0))])
        journal.write([Drop(name, 0)])
        assert path.stat().st_size < 25_000
    journal.close()
    again = opened(tmp_path)
    again.close()
    assert [h.order.uid for h in again.held] == ["keeper"]
    assert (again.barred, again.epoch) == (("barred",), 2)
    assert again.incarnation == journal.incarnation + 1


def test_rewrite_on_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "REWRITE_BYTES", 1)
    journal = opened(tmp_path)
    journal.write([accept("a")])
    path = tmp_path / "state" / "journal"
    (path.parent / "journal.new").mkdir()  # nothing can be written under that name
    for i in range(10):
        journal.write([accept(f"b{i}")])
    journal.close()
    assert sum("held" in json.loads(line) for line in path.read_bytes().splitlines()) == 11
