"""The cluster's settings over the wire: who reads and who changes them, and what `open` opens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.server import Answer, Running, start

SECRET = {"command": ["a-secret-program"], "cwd": "/a/secret/place", "environment": {"PASSWORD": "hunter2"}}


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A controller of its own: settings are everyone's."""
    controller = start(tmp_path_factory.mktemp("home") / "controller")
    yield controller
    if controller.process.poll() is None:
        assert controller.stop() == 0


def put(running: Running, user: str = "root", query: str = "", **tables: Any) -> Answer:
    return running.ask("POST", f"/settings{query}", user, {"settings": tables})


def test_everyone_reads_the_settings_and_only_admins_change_them(running: Running) -> None:
    assert running.get("/settings", "eve")["settings"]["cluster"]["lost_after"] == "1m30s"
    for user in ("eve", "ann"):
        for query in ("", "?dry_run=true"):
            put(running, user, query, cluster={"visibility": "open"}).refused(403)
    assert running.get("/settings")["settings"]["version"] == 0


def test_what_was_shown_can_be_sent_back_and_a_dry_run_changes_nothing(running: Running) -> None:
    shown = running.get("/settings")["settings"]
    shown["queues"] = {"lab": {"max_jobs_per_user": 3}}
    shown["quotas"] = {"ann": {"gpu_hours": 3}}
    shown["cluster"]["keep_history"] = "9d"
    tried = put(running, query="?dry_run=true", **shown).json
    assert tried["changes"][1:] == [
        {
            "path": "queues.lab",
            "before": None,
            "after": {"max_jobs_per_user": 3},
            "text": "queues.lab: added, max_jobs_per_user = 3",
        },
        {
            "path": "quotas.ann",
            "before": None,
            "after": {"gpu_hours": 3},
            "text": "quotas.ann: added, gpu_hours = 3",
        },
    ]
    assert (tried["from_version"], tried["version"], tried["kept_only"]) == (0, 1, ["cluster.keep_history"])
    assert running.get("/settings")["settings"]["version"] == 0
    assert put(running, **shown).json == tried
    assert running.get("/settings")["kept_only"] == ["cluster.keep_history"]
    assert "at 1 now" in put(running, version=0).refused(409)


def test_all_that_is_wrong_with_a_document_is_in_one_refusal(running: Running) -> None:
    line = put(running, cluster={"lost_after": "1s", "nope": 1}, queues={"a": {"max_time": 3}}).refused(400)
    for path in ("cluster.lost_after", "cluster.nope", "queues.a.max_time"):
        assert path in line
    running.ask("POST", "/settings", "root", {"settings": 3}).refused(400)
    running.ask("POST", "/settings", "root", {}).refused(400)
    running.ask("POST", "/settings", "root", {"settings": {"quotas": {"a\0b": {}}}}).refused(400)


def test_open_shows_everyone_what_jobs_run_and_never_their_environment(running: Running) -> None:
    id = running.submit("ann", **SECRET, script="#!/bin/sh\n")
    assert running.get(f"/jobs/{id}", "eve")["command"] is None
    assert put(running, cluster={"visibility": "open"}).status == 200
    job = running.get(f"/jobs/{id}", "eve")
    assert (job["command"], job["cwd"]) == (["a-secret-program"], "/a/secret/place")
    assert running.ask("GET", f"/jobs/{id}/script", "eve").status == 200
    assert running.ask("GET", f"/jobs/{id}/log", "eve").status == 200
    for user in ("bob", "eve", "root"):
        answer = running.ask("GET", f"/jobs/{id}/environment", user)
        assert answer.status == 403
        assert b"hunter2" not in answer.body
    outcome = running.ask("POST", "/jobs/cancel", "bob", {"ids": [id]}).json["items"][0]["outcome"]
    assert outcome == "not_allowed", "to see is not to do"
    assert put(running, cluster={"visibility": "private"}).status == 200
    assert running.get(f"/jobs/{id}", "eve")["command"] is None
    running.ask("GET", f"/jobs/{id}/log", "eve").refused(403)


def test_settings_are_the_same_after_a_restart(running: Running) -> None:
    put(running, cluster={"lost_after": "2m"}, queues={"lab": {"members": ["bob"], "default_time": "1h"}})
    shown = running.get("/settings")
    assert running.stop() == 0
    again = start(running.home, running.tokens)
    try:
        assert again.get("/settings") == shown
        again.ask("POST", "/jobs", "ann", {"command": ["true"]}).refused(403)
        assert again.get(f"/jobs/{again.submit('bob')}")["time_limit_seconds"] == 3600
    finally:
        assert again.stop() == 0
