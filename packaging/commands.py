"""The verbs of build.py. Each returns an exit status: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyz
from lab import lacking, run_lab
from toolchain import (
    DEV_LOCK,
    ROOT,
    RUNTIME_LOCK,
    WORK,
    BuildError,
    ensure_environment,
    index_environment,
    locked,
    run,
    say,
)

# uv resolves once for all Pythons and machines ("universal") and writes environment markers, which pip-tools cannot.
# No comments and no index: whoever builds uses the index their own pip is configured for.
_LOCK_OPTIONS = [
    "--universal", "--python-version=3.10", "--fork-strategy=fewest", "--generate-hashes", "--upgrade",
    "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet",
]  # fmt: skip


# Tests wait for processes half of their time, so one worker more than there are cores; with more, those that have
# deadlines would be late. Which worker gets what, and in which order, says tests/conftest.py.
_WORKERS = min(4, (os.cpu_count() or 1) + 1)
_SEVERAL_AT_ONCE = [f"--numprocesses={_WORKERS}", "--dist=loadfile", "--no-loadscope-reorder"]


def build(arguments: Sequence[str]) -> int:
    _no_arguments("build", arguments)
    built_pyz()
    return 0


def test(arguments: Sequence[str]) -> int:
    """Lint, types and the whole suite. With arguments, those go to pytest and nothing else runs."""
    python = _environment()
    arguments = [word for word in arguments if word != "--"] if arguments[:1] == ["--"] else list(arguments)
    if arguments:
        return run([python, "-m", "pytest", *arguments])
    return lint([]) or run([python, "-m", "pytest", *_SEVERAL_AT_ONCE])


def lint(arguments: Sequence[str]) -> int:
    """Runs every check even when one fails: a second round for the second finding wastes a developer's time."""
    _no_arguments("lint", arguments)
    python = _environment()
    checks: list[list[str | Path]] = [
        [python, "-m", "ruff", "check"],
        [python, "-m", "ruff", "format", "--check"],
        [python, "-m", "mypy"],
    ]
    failed = [" ".join(map(str, check[2:4])) for check in checks if run(check) != 0]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def demo(arguments: Sequence[str]) -> int:
    python = _environment()
    return run([python, "packaging/demo.py", built_pyz(), *arguments])


def soak(arguments: Sequence[str]) -> int:
    return run([_environment(), "-m", "tests.simulation.soak", *arguments])


def soak_tui(arguments: Sequence[str]) -> int:
    return run([_environment(), "-m", "tests.tui.soak", *arguments])


def lab(arguments: Sequence[str]) -> int:
    if trouble := lacking():
        say(f"the lab is skipped: {trouble}")
        return 0
    python = _environment()
    return run_lab(python, built_pyz(), arguments)


def bench(arguments: Sequence[str]) -> int:
    python = _environment()
    return run([python, "-m", "bench", *arguments], GPUQ_PYZ=str(built_pyz()))


def lock(arguments: Sequence[str]) -> int:
    _no_arguments("lock", arguments)
    python = _environment()
    uv: list[str | Path] = [python, "-m", "uv", "pip", "compile", "pyproject.toml", *_LOCK_OPTIONS]
    runtime = RUNTIME_LOCK.relative_to(ROOT)
    dev = DEV_LOCK.relative_to(ROOT)
    say("resolving pyproject.toml")
    index = index_environment(python)
    # The tools are resolved around the run-time versions: tests then run with exactly what is packed.
    if run([*uv, "-o", runtime], **index) or run([*uv, "--group=dev", f"--constraint={runtime}", "-o", dev], **index):
        raise BuildError("cannot resolve pyproject.toml; uv's own words are above")
    say(f"wrote {runtime} and {dev}")
    return 0


def built_pyz() -> Path:
    """Builds dist/gpuq.pyz unless it is up to date, and returns its path."""
    with locked():
        python = ensure_environment()
        return pyz.build(python)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "build": build,
    "test": test,
    "lint": lint,
    "demo": demo,
    "soak": soak,
    "soak-tui": soak_tui,
    "lab": lab,
    "bench": bench,
    "lock": lock,
}


def main(arguments: Sequence[str]) -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("build", [])
    if verb in ("-h", "--help"):
        print((ROOT / "build.py").read_text().split('"""')[1].strip())
        return 0
    if verb not in VERBS:
        return _wrong(f"no such command: {verb}")
    try:
        return VERBS[verb](rest)
    except _WrongUsageError as error:
        return _wrong(str(error))
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
    except OSError as error:
        full = f"; {WORK.parent} is on a full disk" if error.errno == errno.ENOSPC else ""
        print(f"build.py: {error}{full}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


class _WrongUsageError(Exception):
    """A verb called in a way it does not know."""


def _no_arguments(verb: str, arguments: Sequence[str]) -> None:
    if arguments:
        raise _WrongUsageError(f"{verb} takes no arguments: {' '.join(arguments)}")


def _wrong(what: str) -> int:
    print(f"build.py: {what} (one of: {', '.join(VERBS)}; see build.py --help)", file=sys.stderr)
    return 2


def _environment() -> Path:
    with locked():
        return ensure_environment()
