"""How gpuq is packed into one file.

    gpuq.pyz        #!/bin/sh lines that find python3, then a zip of five members:
      __main__.py     packaging/bootstrap/__main__.py with its constants filled in
      __main__.pyc    the same compiled: 2 ms less at every start; a Python of another version takes the source
      gpuq_install.py unpacks payload.zip
      build.json      what was built, for `build` to see whether it is out of date
      payload.zip     gpuq, agent, tui and the locked packages, gathered by shiv; unpacked at the first start

The same sources, locks and Python give the same bytes: names are sorted, times fixed, and the build id is a hash of
everything inside. Compiled packages tie the file to one Python ABI and machine; both are in the cache directory's name,
so a later file may carry several.
"""

from __future__ import annotations

import fnmatch
import io
import json
import os
import platform
import py_compile
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from toolchain import ENVIRONMENT, ROOT, RUNTIME_LOCK, BuildError, digest, pip_install, run, say

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

# Not needed to run: pip's own book-keeping, command wrappers, tests, stubs, C headers. Licences and metadata stay.
_LEFT_OUT = re.compile(
    r"^bin/|\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|WHEEL)$|(^|/)tests?/|(^|/)__pycache__/|\.(pyi|pyc|h|c)$"
)
# What tools and editors leave among the sources.
_NOT_SOURCES = ("__pycache__", ".*", "*~")
# The oldest time a zip can hold: every member has it, so that a build depends on contents alone.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def build(python: Path) -> Path:
    """Builds dist/gpuq.pyz unless it is up to date, and returns its path. Call it under toolchain.locked()."""
    inputs = digest(sys.version, platform.machine(), *_contents(ROOT, *PACKAGES, "packaging"))
    if _built_from(PYZ) == inputs:
        return PYZ
    packages = _runtime_packages(python)
    with tempfile.TemporaryDirectory(prefix="gpuq-build-") as scratch:
        sources = Path(scratch, "sources")
        for package in PACKAGES:
            shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns(*_NOT_SOURCES))
        say("packing")
        stock = gather(python, Path(scratch, "stock.pyz"), ENTRY, packages, sources)
        PYZ.parent.mkdir(exist_ok=True)
        build_id = pack(stock, PYZ, ENTRY, inputs)
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


def _runtime_packages(python: Path) -> Path:
    """The locked packages, installed once per change of packaging/runtime.lock."""
    target = ENVIRONMENT / "runtime"
    stamp = ENVIRONMENT / "runtime-key"
    key = digest(RUNTIME_LOCK.read_bytes())
    if not (stamp.is_file() and stamp.read_text() == key and target.is_dir()):
        say("fetching the packages that go into the file (once per change of packaging/runtime.lock)")
        shutil.rmtree(target, ignore_errors=True)
        pip_install(python, "--no-compile", "--no-deps", "--target", str(target), "--requirement", str(RUNTIME_LOCK))
        stamp.write_text(key)
    return target


def gather(python: Path, output: Path, entry: str, *folders: Path) -> Path:
    """shiv's own zipapp of the folders."""
    command: list[str | Path] = [python, "-I", "-m", "shiv", "--entry-point", entry, "--reproducible", "--uncompressed"]
    command += ["--output-file", output]
    for folder in folders:
        command += ["--site-packages", folder]
    if run(command) != 0 or not output.is_file():
        raise BuildError("shiv could not make the archive; its own words are above")
    return output


def pack(stock: Path, output: Path, entry: str, inputs: str = "") -> str:
    """Turns shiv's zipapp into ours, replacing `output` whole; returns the build id.

    The parts that differ from shiv: the members are compressed once inside and not again outside, and the start is
    ours. shiv's own start reads the index of all members and imports much of the standard library: 40 ms.
    """
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(stock) as archive:
        for name in sorted(archive.namelist()):
            inside = name.removeprefix("site-packages/")
            if name != inside and not name.endswith("/") and not _LEFT_OUT.search(inside):
                members[inside] = archive.read(name)
    abi, machine = sys.implementation.cache_tag + sys.abiflags, platform.machine()
    start = {path.name: path.read_text() for path in sorted(BOOTSTRAP.glob("*.py"))}
    flat = [part for name, data in members.items() for part in (name.encode(), data)]
    build_id = digest(PRELUDE, entry, abi, machine, *start.values(), *flat)[:16]
    for constant, value in {"BUILD_ID": build_id, "ABI": abi, "MACHINE": machine, "ENTRY": entry}.items():
        start["__main__.py"] = start["__main__.py"].replace(f"@{constant}@", value)

    payload = io.BytesIO()
    _write_zip(payload, members, zipfile.ZIP_DEFLATED)
    described = {"build_id": build_id, "abi": abi, "machine": machine, "inputs": inputs}
    outer = {name: text.encode() for name, text in start.items()}
    outer["__main__.pyc"] = _compiled(start["__main__.py"])
    outer |= {"build.json": json.dumps(described, indent=1).encode(), "payload.zip": payload.getvalue()}
    whole = io.BytesIO()
    whole.write(PRELUDE.encode())
    _write_zip(whole, outer, zipfile.ZIP_STORED)  # stored: a start that inflates must first import zlib
    half = output.with_name(f".{output.name}.{os.getpid()}")
    half.write_bytes(whole.getvalue())
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


def _write_zip(file: io.BytesIO, members: dict[str, bytes], method: int) -> None:
    with zipfile.ZipFile(file, "a", method, compresslevel=9) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.compress_type = method
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, compresslevel=9)
