#!/usr/bin/env python3
"""Builds and checks gpuq, from a bare checkout, with nothing but Python 3.10 or newer.

    python3 build.py                   dist/gpuq.pyz
    python3 build.py test [ARG...]     lint, strict types, the whole test suite; with arguments: pytest ARG... only
    python3 build.py lint              ruff, mypy
    python3 build.py demo              builds, then runs packaging/demo.py on the result
    python3 build.py soak --seeds N    the deterministic simulation over N seeds
    python3 build.py soak-tui [ARG...] the dashboard under 1,000 changes a second (--seconds 600)
    python3 build.py lab [NAME...]     tests/lab: hosts of their own with the built file on them; needs root
    python3 build.py bench [NAME]      bench/ against the built file
    python3 build.py lock              renews packaging/*.lock from pyproject.toml

How each is done is in packaging/: commands.py (these verbs), toolchain.py (the environment in .venv-build/), targets.py
(what the file runs on), wheels.py (the packages of every target), pyz.py (how gpuq is packed) and bootstrap/ (how the
packed file starts).

This file keeps to syntax that Python 2.7 can read, so that an old Python gets a sentence and no SyntaxError.
"""

import os
import sys

if sys.version_info < (3, 10):
    found = "%d.%d.%d at %s" % (tuple(sys.version_info[:3]) + (sys.executable,))
    sys.stderr.write("build.py: needs Python 3.10 or newer; this is " + found + "\n")
    sys.exit(2)

if __name__ == "__main__":
    if not sys.flags.isolated:
        # Modules on PYTHONPATH, in the user's site or in the current directory must not become part of a build.
        os.execv(sys.executable, [sys.executable, "-I"] + sys.argv)
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "packaging"))
    from commands import main

    sys.exit(main(sys.argv[1:]))
