"""Starts gpuq from its one file. `build.py` puts this at the root of gpuq.pyz and fills in the four constants.

The program itself lies in payload.zip beside this file and is unpacked once, by gpuq_install.py, into a directory of
the user's cache. A start then costs this file, some stat calls and the program's own imports. Python reads the index of
a zip from end to end at every start, so the outer archive holds five members and not two thousand.

What gpuq's code may ask of a start, through `sys.modules.get("gpuq_bootstrap")` (this module; None when gpuq runs from
a source checkout, where `[sys.executable, "-m", "gpuq"]` takes the place of command()):

    PYZ         absolute path of the file that was started
    SITE        the directory that gpuq was unpacked to; caches are emptied, so a long-lived process imports early
    BUILD_ID    hash of everything packed: the same sources and locks give the same id
    command()   the words that start this same file again, isolated, with the same Python: for daemons and re-execs

os.environ is the user's: jobs inherit PYTHONPATH and the like, gpuq does not. What protects gpuq is that it
only ever runs as `python3 -I -S`: no PYTHON* variable, no user site, no site-packages, no .pth file, no sitecustomize.

Only syntax that Python 2.7 can read, so that an old Python gets a sentence and no SyntaxError.
"""

import os
import sys

BUILD_ID = "@BUILD_ID@"
ABI = "@ABI@"  # of the compiled modules inside, as python_abi() below says it
MACHINE = "@MACHINE@"
ENTRY = "@ENTRY@"

DAY_SECONDS = 86400


def refuse(line):
    sys.stderr.write("gpuq: " + line + "\n")
    sys.exit(2)


def python_abi():
    """cpython-311, or cpython-313t where there is no GIL."""
    return sys.implementation.cache_tag + sys.abiflags


def spoken(abi, machine):
    """cpython-311, x86_64 -> CPython 3.11 x86_64"""
    return abi.replace("cpython-3", "CPython 3.") + " " + machine


def command():
    return [sys.executable, "-I", "-S", PYZ]


def undo_locale_coercion():
    """Takes back the LC_CTYPE that Python puts into its own environment where the locale is C: jobs are not to get it.

    It has had its effect on this process; programs that we start decide for themselves.
    """
    if os.environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):
        try:
            with open("/proc/self/environ", "rb") as given:
                ours = not any(entry.startswith(b"LC_CTYPE=") for entry in given.read().split(b"\0"))
        except OSError:
            ours = False
        if ours:
            del os.environ["LC_CTYPE"]


def cache_home():
    """$GPUQ_CACHE, $XDG_CACHE_HOME or ~/.cache, then /gpuq.

    HOME counts only when it is ours: sudo leaves the caller's, and root must neither run code from there nor leave
    files there that the caller cannot replace.
    """
    chosen = os.environ.get("GPUQ_CACHE")
    if chosen:
        return os.path.join(os.path.abspath(chosen), "gpuq")
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        return os.path.join(xdg, "gpuq")
    home = os.environ.get("HOME", "")
    try:
        ours = os.path.isabs(home) and os.stat(home).st_uid == os.geteuid()
    except OSError:
        ours = False
    if not ours:
        import pwd

        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:  # a container's made-up user id; the install then says that this cannot be written to
            home = "/nonexistent"
    return os.path.join(home, ".cache", "gpuq")


def is_complete(site):
    """Whether `site` is ours and nothing is missing from it.

    Caches get emptied, and by halves: cleaners delete file by file what was not read lately. Deleting changes the
    directory's mtime, so looking at the top directories, and at all of gpuq's own, costs microseconds on every start.
    Once a day every file's size is compared too; that also finds what a power cut left empty.
    """
    import stat
    import time

    try:
        found = os.lstat(site)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return False
        with open(os.path.join(site, ".complete")) as listing:
            directories, files = listing.read().split("\n\n")
            old = time.time() - os.fstat(listing.fileno()).st_mtime > DAY_SECONDS
        for line in directories.split("\n"):
            mtime_ns, name = line.split(" ", 1)
            if os.stat(os.path.join(site, name)).st_mtime_ns != int(mtime_ns):
                return False
        if old:
            for line in files.split("\n"):
                size_bytes, name = line.split(" ", 1)
                if os.stat(os.path.join(site, name)).st_size != int(size_bytes):
                    return False
            os.utime(os.path.join(site, ".complete"))
    except (OSError, ValueError):
        return False
    return True


if sys.version_info < (3, 10):
    refuse("needs Python 3.10 or newer; this is %d.%d.%d at %s" % (tuple(sys.version_info[:3]) + (sys.executable,)))
undo_locale_coercion()
if not (sys.flags.isolated and sys.flags.no_site):
    # Started as `python3 gpuq.pyz`: site has run, anybody's modules may be loaded already. orig_argv keeps -X and -W.
    os.execv(sys.executable, [sys.executable, "-I", "-S"] + sys.orig_argv[1:])
if (python_abi(), os.uname().machine) != (ABI, MACHINE):
    refuse(
        "this file was built for %s; this Python is %s at %s: start it with the one it was built for, "
        "or run build.py with this one"
        % (spoken(ABI, MACHINE), spoken(python_abi(), os.uname().machine), sys.executable)
    )

PYZ = os.path.abspath(sys.argv[0])
SITE = os.path.join(cache_home(), "-".join((BUILD_ID, ABI, MACHINE)))
if not is_complete(SITE):
    import gpuq_install

    SITE = gpuq_install.install(PYZ, BUILD_ID, SITE, is_complete)

# The standard library first: nothing packed can shadow it. The archive itself (sys.path[0]) has done its part.
sys.path[:] = sys.path[1:] + [SITE]
sys.modules["gpuq_bootstrap"] = sys.modules["__main__"]

_module, _function = ENTRY.split(":")
sys.exit(getattr(__import__(_module, fromlist=[_function]), _function)())
