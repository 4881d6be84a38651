"""A daemon's log, cut while it is written to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import os, sys
from gpuq.ownlog import cut_own_log
for n in range(10):
    os.write(2, b"line %d\\n" % n)
    print(cut_own_log(40))
"""


@pytest.mark.parametrize(
    ("name", "mode", "cut"), [("daemon.log", "ab", True), ("other", "ab", False), ("daemon.log", "wb", False)]
)
def test_a_log_that_grew_too_long_is_put_aside_and_written_on(tmp_path: Path, name: str, mode: str, cut: bool) -> None:
    with (tmp_path / name).open(mode) as log:
        done = subprocess.run([sys.executable, "-c", WRITES], stderr=log, stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.split().count("True") == int(cut)
    whole = b"".join(b"line %d\n" % n for n in range(10))
    if cut:
        assert (tmp_path / "daemon.log.1").read_bytes() + (tmp_path / name).read_bytes() == whole
        assert (tmp_path / "daemon.log.1").stat().st_size > 40
    else:
        assert (tmp_path / name).read_bytes() == whole
