from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gpuq import config
from gpuq.cli.main import main
from tests.cli.fake_api import FakeApi


class Result(NamedTuple):
    status: int
    out: str
    err: str


Gpuq = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and the test's folder as the current one."""
    monkeypatch.setenv("GPUQ_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def api(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """A fake controller, and this machine as one of its cluster, logged in by GPUQ_URL and GPUQ_TOKEN."""
    home.mkdir()
    fake = FakeApi(home)
    monkeypatch.setenv("GPUQ_URL", fake.server.url)
    monkeypatch.setenv("GPUQ_TOKEN", fake.server.token)
    config.keep_ca(fake.server.ca_pem, fake.server.certificates.ca_sha256())
    config.write_private(f"{config.host_home()}/agent/node.token", fake.server.token)
    yield fake
    fake.server.close()


@pytest.fixture
def outside(api: FakeApi) -> FakeApi:
    """The same, but this machine is not of the cluster."""
    Path(config.host_home(), "agent", "node.token").unlink()
    return api


@pytest.fixture
def gpuq(capsysbinary: pytest.CaptureFixture[bytes]) -> Gpuq:
    """Runs a command line in this process; output as text, bytes that are no UTF-8 as surrogates."""

    def run(*arguments: str) -> Result:
        status = main(list(arguments))
        out, err = capsysbinary.readouterr()
        return Result(status, out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape"))

    return run
