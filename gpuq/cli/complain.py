"""The one line on stderr that a failure is. Imports nothing: it must work when everything else does not."""

from __future__ import annotations

import sys


def complain(line: str, status: int = 1, speaker: str = "gpuq") -> int:
    """Writes the one line that a failure is, and gives back its exit status."""
    text = "".join(c if c.isprintable() else " " for c in f"{speaker}: {line}")
    try:
        sys.stdout.flush()  # what was printed before it failed comes first
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except UnicodeEncodeError:
        sys.stderr.write(text.encode("ascii", "backslashreplace").decode() + "\n")
    except OSError:
        return status  # nobody is there to read it
    return status
