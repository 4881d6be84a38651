"""How gpuq is packed into one file.

    gpuq.pyz        #!/bin/sh lines that find python3, then a zip of:
      __main__.py     packaging/bootstrap/__main__.py with its constants filled in
      __main__.pyc    the same compiled: 2 ms less at every start; a Python of another version takes the source
      gpuq_install.py unpacks what follows
      build.json      what was built, for `build` to see whether it is out of date; which part is for which targets
      common.zip      gpuq, agent, tui and the pure files of the locked packages, gathered by shiv
      packages-*.zip  files that only some targets have, mostly compiled modules (wheels.py)

A target is one CPython on one machine (targets.py); it unpacks common.zip and its parts at its first start. The same
sources, locks and Python give the same bytes: names are sorted, times fixed, and the build id is a hash of everything
inside.
"""

from __future__ import annotations

import fnmatch
import json
import os
import py_compile
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from archive import zipped
from targets import TARGETS
from toolchain import ROOT, BuildError, digest, run, say
from wheels import locked_parts

PYZ = ROOT / "dist" / "gpuq.pyz"
PACKAGES = ("gpuq", "agent", "tui")
ENTRY = "gpuq.cli.main:main"
BOOTSTRAP = ROOT / "packaging" / "bootstrap"

# A zip may begin with anything, so it begins with a shell script: `env -S`, the usual way to pass -I -S, is absent from
# busybox and from coreutils before 8.30, whose systems should be told about their Python and not about env.
PRELUDE = """#!/bin/sh
command -v python3 >/dev/null || { echo "gpuq: needs Python 3.10 or newer; there is no python3 in PATH" >&2; exit 2; }
exec python3 -I -S "$0" "$@"
"""

# What tools and editors leave among the sources.
_NOT_SOURCES = ("__pycache__", ".*", "*~")
# More would be a burden to copy around, and to keep: every version of every user unpacks its parts.
LARGEST_BYTES = 50_000_000


def build(python: Path) -> Path:
    """Builds dist/gpuq.pyz unless it is up to date, and returns its path. Call it under toolchain.locked()."""
    inputs = digest(sys.version, *_contents(ROOT, *PACKAGES, "packaging"))
    if _built_from(PYZ) == inputs:
        return PYZ
    parts = locked_parts(python)
    with tempfile.TemporaryDirectory(prefix="gpuq-build-") as scratch:
        sources = Path(scratch, "sources")
        for package in PACKAGES:
            shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns(*_NOT_SOURCES))
        say("packing")
        stock = gather(python, Path(scratch, "stock.pyz"), ENTRY, parts.common, sources)
        PYZ.parent.mkdir(exist_ok=True)
        build_id = pack(stock, PYZ, ENTRY, map(str, TARGETS), parts.zips, inputs)
    say(f"built {PYZ.relative_to(ROOT)}, {PYZ.stat().st_size / 1e6:.1f} MB, id {build_id}")
    return PYZ


def _contents(root: Path, *folders: str) -> list[bytes]:
    """Names and bytes of every source under the folders, in a fixed order."""
    parts = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*") if path.is_file()):
        name = path.relative_to(root)
        if not any(fnmatch.fnmatch(part, pattern) for part in name.parts for pattern in _NOT_SOURCES):
            parts += [str(name).encode(), path.read_bytes()]
    return parts


def _built_from(pyz: Path) -> str | None:
    try:
        with zipfile.ZipFile(pyz) as archive:
            return str(json.loads(archive.read("build.json"))["inputs"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def gather(python: Path, output: Path, entry: str, *folders: Path) -> Path:
    """shiv's own zipapp of the folders."""
    command: list[str | Path] = [python, "-I", "-m", "shiv", "--entry-point", entry, "--reproducible", "--uncompressed"]
    command += ["--output-file", output]
    for folder in folders:
        command += ["--site-packages", folder]
    if run(command) != 0 or not output.is_file():
        raise BuildError("shiv could not make the archive; its own words are above")
    return output


def pack(
    stock: Path,
    output: Path,
    entry: str,
    targets: Iterable[str],
    parts: Mapping[Path, Sequence[str]] | None = None,
    inputs: str = "",
) -> str:
    """Makes our file of shiv's zipapp and the parts, replacing `output` whole; returns the build id.

    parts: zips with the targets that unpack them. shiv's zipapp is opened up: its own start reads the index of all
    members and imports much of the standard library (40 ms), and it knows one target.
    """
    with zipfile.ZipFile(stock) as archive:
        names = [name for name in archive.namelist() if name.startswith("site-packages/") and not name.endswith("/")]
        members = {name.removeprefix("site-packages/"): archive.read(name) for name in sorted(names)}
    carried = {"common.zip": (zipped(members), list(targets))}
    carried |= {path.name: (path.read_bytes(), list(takers)) for path, takers in (parts or {}).items()}
    table = {name: takers for name, (_, takers) in carried.items()}
    start = {path.name: path.read_text() for path in sorted(BOOTSTRAP.glob("*.py"))}
    contents = [part for name, (data, _) in carried.items() for part in (name.encode(), data)]
    build_id = digest(PRELUDE, entry, json.dumps(table), *start.values(), *contents)[:16]
    for constant, value in {"BUILD_ID": build_id, "TARGETS": " ".join(table["common.zip"]), "ENTRY": entry}.items():
        start["__main__.py"] = start["__main__.py"].replace(f"@{constant}@", value)

    outer = {name: text.encode() for name, text in start.items()}
    outer["__main__.pyc"] = _compiled(start["__main__.py"])
    outer["build.json"] = json.dumps({"build_id": build_id, "inputs": inputs, "parts": table}, indent=1).encode()
    outer |= {name: data for name, (data, _) in carried.items()}
    # Stored: a start that inflates must first import zlib.
    whole = zipped(outer, zipfile.ZIP_STORED, prelude=PRELUDE.encode())
    if len(whole) > LARGEST_BYTES:
        raise BuildError(f"{output.name} would have {len(whole) / 1e6:.1f} MB, more than {LARGEST_BYTES / 1e6:.0f} MB")
    half = output.with_name(f".{output.name}.{os.getpid()}")
    half.write_bytes(whole)
    half.chmod(0o755)
    half.replace(output)  # never written in place: programs that run from the old file go on reading it
    return build_id


def _compiled(source: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="gpuq-build-") as scratch:
        file, compiled = Path(scratch, "__main__.py"), Path(scratch, "__main__.pyc")
        file.write_text(source)
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(file), str(compiled), dfile="gpuq.pyz/__main__.py", doraise=True, invalidation_mode=mode)
        return compiled.read_bytes()
