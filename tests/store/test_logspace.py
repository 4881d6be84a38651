"""Which logs go when room or time runs out."""

from __future__ import annotations

from pathlib import Path

from gpuq.model import AttemptUid
from gpuq.store.logfiles import LogFiles
from gpuq.store.logspace import Kept, survey, to_delete

DAY = 86_400.0
NOW = 100 * DAY


def log(name: str, size: int, days_old: float) -> Kept:
    return Kept(AttemptUid(name), 0, size, NOW - days_old * DAY)


LOGS = [log("c", 30, 1), log("a", 50, 9), log("d", 10, 0), log("b", 10, 5)]


def deleted(keep_days: int | None = None, limit: int | None = None, live: str = "") -> str:
    keep = None if keep_days is None else keep_days * 86_400
    return "".join(log.uid for log in to_delete(LOGS, lambda uid: uid in live, NOW, keep, limit))


def test_without_limits_everything_stays() -> None:
    assert deleted() == ""
    assert deleted(limit=100) == ""  # full, but not over


def test_what_is_too_old_goes_unless_it_lives() -> None:
    assert deleted(keep_days=5) == "a"
    assert deleted(keep_days=1) == "ab"
    assert deleted(keep_days=1, live="a") == "b"


def test_of_what_is_too_much_the_oldest_go_until_there_is_some_room() -> None:
    assert deleted(limit=99) == "a"
    assert deleted(limit=43) == "ab"
    assert deleted(limit=42) == "abc"  # 40 would be more than 95 % of it
    assert deleted(limit=0) == "abcd"
    assert deleted(limit=50, live="ac") == "bd"


def test_both_at_once_delete_no_more_than_either_asks_for() -> None:
    assert deleted(keep_days=5, limit=60) == "a"


def test_logs_are_found_with_what_they_take_on_disk(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    files.append((AttemptUid("0123456789abcdef"), 1), [(0, b"x" * 10_000)])
    files.append((AttemptUid("fedcba9876543210"), 0), [(0, b"y")])
    (tmp_path / "01" / "note.txt").write_text("not a log")
    found = {(kept.uid, kept.rank): kept for kept in survey(tmp_path)}
    assert set(found) == {("0123456789abcdef", 1), ("fedcba9876543210", 0)}
    first = found[AttemptUid("0123456789abcdef"), 1]
    assert 10_000 <= first.size < 20_000
    (path,) = tmp_path.rglob("0123456789abcdef.1.log")
    assert first.changed_at == path.stat().st_mtime
    assert list(survey(tmp_path / "nowhere")) == []
