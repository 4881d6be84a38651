"""Zips whose bytes depend on what is in them and on nothing else."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

# The oldest time a zip can hold: every member has it.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, prelude: bytes = b"") -> bytes:
    """A zip of the members in the order given, after `prelude`. Deflate: some Pythons are built without lzma."""
    file = io.BytesIO()
    file.write(prelude)
    with zipfile.ZipFile(file, "a", method) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.compress_type = method
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, compresslevel=9)
    return file.getvalue()
