"""`python -m gpuq`: gpuq from a source checkout."""

from __future__ import annotations

import sys

from gpuq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
