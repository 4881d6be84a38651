"""Fixtures for the dashboard's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder the dashboard runs in, to which it saves what it is told to."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
