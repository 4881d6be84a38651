"""The environment that builds and checks gpuq: one per Python, in .venv-build/, made from packaging/dev.lock.

It is made once and again when the lock file or the Python changes. Builds and tests that start at the same moment wait
for each other at a lock file, so a test may call the build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".venv-build"
ENVIRONMENT = WORK / (sys.implementation.cache_tag + sys.abiflags)
PYTHON = ENVIRONMENT / "bin" / "python"
DEV_LOCK = ROOT / "packaging" / "dev.lock"
RUNTIME_LOCK = ROOT / "packaging" / "runtime.lock"

# What pip and uv print -> what it means. The first that matches wins, so causes stand before their consequences.
_TROUBLE = {
    "No space left on device": "the disk is full",
    "DO NOT MATCH THE HASHES": "a download differs from its hash in the lock file: do not use it, find out why",
    "Hash mismatch": "a download differs from its hash in the lock file: do not use it, find out why",
    "Failed to establish a new connection": "no network: the package index cannot be reached",
    "NameResolutionError": "no network: the package index's name cannot be resolved",
    "dns error": "no network: the package index's name cannot be resolved",
    "tcp connect error": "no network: the package index cannot be reached",
    "Temporary failure in name resolution": "no network: the package index's name cannot be resolved",
    "Read timed out": "the package index does not answer",
    "timed out": "the package index does not answer",
    "ProxyError": "the proxy for the package index refuses",
    "SSLError": "the package index's certificate is not trusted",
    "invalid peer certificate": "the package index's certificate is not trusted",
    "No matching distribution": "a locked package has no wheel for this Python and machine, or the index lacks it",
    "no usable wheels": "a locked package has no wheel for this Python and machine",
    "No solution found": "a locked package has no wheel for this Python and machine, or the index lacks it",
}


class BuildError(Exception):
    """A build that cannot go on; its text is the one line that says what failed and what to do."""


def say(line: str) -> None:
    """One line of progress."""
    print(f"build.py: {line}", flush=True)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without what would let foreign modules into our Pythons."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, **(extra or {})}


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Holds .venv-build/ for this process alone."""
    WORK.mkdir(exist_ok=True)
    with (WORK / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is running, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(*parts: bytes | str) -> str:
    """One hash over parts in order; lengths keep ("ab", "c") apart from ("a", "bc")."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()


def ensure_environment() -> Path:
    """Makes the environment if it is absent or out of date, and returns its Python. Call it under `locked`."""
    key = digest(DEV_LOCK.read_bytes(), sys.version, sys.base_prefix)
    stamp = ENVIRONMENT / "gpuq-key"
    if stamp.is_file() and stamp.read_text() == key and PYTHON.exists():
        return PYTHON
    say(
        f"making {os.path.relpath(ENVIRONMENT, ROOT)} (once per Python and change of packaging/dev.lock; half a minute)"
    )
    if ENVIRONMENT.exists():
        shutil.rmtree(ENVIRONMENT)
    _make_venv()
    pip_install(PYTHON, "--requirement", str(DEV_LOCK))
    stamp.write_text(key)
    return PYTHON


def _make_venv() -> None:
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    absent = f"{sys.executable} has no working venv module: install it (Debian, Ubuntu: apt install {package})"
    try:
        import ensurepip  # noqa: F401  Debian ships venv without it, and venv then fails half-way
        import venv
    except ImportError as error:
        raise BuildError(absent) from error
    try:
        venv.create(ENVIRONMENT, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        raise BuildError(absent) from error


def pip_install(python: Path, *arguments: str, log: Path = WORK / "pip.log") -> None:
    """pip install of hashed wheels, nothing else; its output goes to `log`.

    Wheels only: what is locked has them for every Python we support, and a source package would run its own code here.
    """
    command = [str(python), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=off", "--require-hashes", "--only-binary=:all:", *arguments]
    logged(command, log, "cannot install the locked packages")


def logged(command: Sequence[str], log: Path, failed: str, extra: Mapping[str, str] | None = None) -> None:
    """Runs a tool that fetches, its output in `log`; raises BuildError, `failed` and the cause, if it fails.

    extra: variables besides the caller's.
    """
    with log.open("w") as output:
        status = subprocess.run(
            command, cwd=ROOT, env=clean_environment(extra), stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status != 0:
        words = log.read_text(errors="replace")
        cause = next((meaning for said, meaning in _TROUBLE.items() if said in words), f"status {status}")
        raise BuildError(f"{failed}: {cause} (the tool's own words: {os.path.relpath(log, ROOT)})")


def index_environment(python: Path) -> dict[str, str]:
    """The package index that pip is configured for, as uv is told of it; uv's own variable comes first."""
    asked = [str(python), "-I", "-m", "pip", "config", "get", "global.index-url"]
    answer = subprocess.run(asked, env=clean_environment(), capture_output=True, text=True, check=False)
    index = os.environ.get("PIP_INDEX_URL") or answer.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index and "UV_DEFAULT_INDEX" not in os.environ else {}


def run(command: Sequence[str | Path], **environment: str) -> int:
    """Runs a tool in the repository's root, its output shown as it comes; returns its exit status."""
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=clean_environment(environment), check=False
    ).returncode
