"""Starts gpuq from its one file. `build.py` puts this at the root of gpuq.pyz and fills in the three constants.

The program itself lies in zips beside this file. What this Python on this machine needs of them is unpacked once, by
gpuq_install.py, into a directory of the user's cache. A start then costs this file, some stat calls and the program's
own imports. Python reads the index of a zip from end to end at every start, so the outer archive holds some thirty
members and not two thousand.

An unpacked program has this file too, and starts as a directory (`python3 -I -S DIRECTORY`) without cache or archive:
so do daemons, from copies of their own.

What gpuq's code may ask of a start, through `sys.modules.get("gpuq_bootstrap")` (this module; None when gpuq runs from
a source checkout, where `[sys.executable, "-m", "gpuq"]` takes the place of command()):

    PYZ         absolute path of what was started: the file, or an unpacked directory
    SITE        the directory that gpuq was unpacked to; caches are emptied, so daemons run from a copy
    BUILD_ID    hash of everything packed: the same sources and locks give the same id
    TARGETS     names of all that the file runs on, such as cpython-311-linux-x86_64
    command()   the words that start this same file again, isolated, with the same Python: for daemons and re-execs

os.environ is the user's: jobs inherit PYTHONPATH and the like, gpuq does not. What protects gpuq is that it
only ever runs as `python3 -I -S`: no PYTHON* variable, no user site, no site-packages, no .pth file, no sitecustomize.

Only syntax that Python 2.7 can read, so that an old Python gets a sentence and no SyntaxError.
"""

import os
import sys

BUILD_ID = "@BUILD_ID@"
TARGETS = "@TARGETS@".split()  # noqa: SIM905  many, once they are filled in
ENTRY = "@ENTRY@"

GLIBC = (2, 28)  # what the compiled modules were linked against: Debian 10, RHEL 8, Ubuntu 18.10 and newer
DAY_SECONDS = 86400


def refuse(line):
    sys.stderr.write("gpuq: " + line + "\n")
    sys.exit(2)


def target():
    """cpython-311-linux-x86_64; cpython-313t-... where there is no GIL."""
    return "-".join((sys.implementation.cache_tag + sys.abiflags, sys.platform, os.uname().machine))


def unsupported():
    """What of this Python or machine the file has no modules for, in words; None if it has them."""
    name = sys.implementation.name.replace("cpython", "CPython").replace("pypy", "PyPy")
    python = "%s %d.%d" % ((name,) + tuple(sys.version_info[:2]))
    if not hasattr(os, "uname"):
        return "Windows"
    if "t" in sys.abiflags:
        return "a free-threaded " + python
    if target() not in TARGETS or sys.maxsize < 2**32:
        bits = "" if sys.maxsize > 2**32 else "32-bit "
        return bits + python + " on " + spoken(sys.platform, os.uname().machine)
    if sys.platform == "linux":
        try:
            name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
            old = tuple(map(int, version.split("."))) < GLIBC
        except (ValueError, OSError):  # musl has no answer
            return "a Linux without glibc"
        if old:
            return name + " " + version
    return None


def spoken(system, machine):
    return system.replace("linux", "Linux").replace("darwin", "macOS") + " " + machine


def where():
    """What the file runs on, in words: CPython 3.10 to 3.14 on Linux x86_64, ..."""
    pythons = sorted(int(name.split("-")[1][1:]) for name in TARGETS)
    machines = sorted({spoken(*name.split("-")[2:]) + ("", " (as a client)")["darwin" in name] for name in TARGETS})
    return "CPython 3.%d to 3.%d on %s" % (pythons[0], pythons[-1], ", ".join(machines))


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


def cache_homes():
    """Where the program may be unpacked to, in the order to try.

    The first is $GPUQ_CACHE, $XDG_CACHE_HOME or ~/.cache, then /gpuq. HOME counts only when it is ours: sudo leaves the
    caller's, and root must neither run code from there nor leave files there that the caller cannot replace. The others
    are for homes that are full, read-only or noexec; everybody can make them, so is_ours() looks whose they are.
    """
    shared = [os.environ["TMPDIR"]] if os.environ.get("TMPDIR") else ["/var/tmp", "/tmp"]
    homes = [os.path.join(own_cache(), "gpuq")] + [os.path.join(home, "gpuq-%d" % os.geteuid()) for home in shared]
    return [os.path.realpath(home) for home in homes]


def own_cache():
    chosen = os.environ.get("GPUQ_CACHE")
    if chosen:
        return os.path.abspath(chosen)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        return xdg
    home = os.environ.get("HOME", "")
    try:
        ours = os.path.isabs(home) and os.stat(home).st_uid == os.geteuid()
    except OSError:
        ours = False
    if not ours:
        import pwd

        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:  # a container's made-up user id; the install then finds that this cannot be written to
            home = "/nonexistent"
    return os.path.join(home, ".cache")


def is_ours(directory):
    """Whether nobody else can put anything into this directory. Raises OSError if there is none."""
    import stat

    found = os.lstat(directory)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def is_complete(site):
    """Whether `site` is ours and nothing is missing from it.

    Caches get emptied, and by halves: cleaners delete file by file what was not read lately. Deleting changes the
    directory's mtime, so looking at the top directories, and at all of gpuq's own, costs microseconds on every start.
    Once a day every file's size is compared too; that also finds what a power cut left empty.
    """
    import time

    try:
        if not (is_ours(os.path.dirname(site)) and is_ours(site)):
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
_trouble = unsupported()
if _trouble:
    refuse(
        "cannot run on %s; it runs on %s. This Python is %s: start gpuq.pyz with another one"
        % (_trouble, where(), sys.executable)
    )
if not (sys.flags.isolated and sys.flags.no_site):
    # Started as `python3 gpuq.pyz`: site has run, anybody's modules may be loaded already. orig_argv keeps -X and -W.
    os.execv(sys.executable, [sys.executable, "-I", "-S"] + sys.orig_argv[1:])
PYZ = os.path.abspath(sys.argv[0])
if os.path.isdir(PYZ):
    SITE = PYZ
else:
    _sites = [os.path.join(home, BUILD_ID + "-" + target()) for home in cache_homes()]
    SITE = next(filter(is_complete, _sites), None)
    if SITE is None:
        import gpuq_install

        SITE = gpuq_install.install(PYZ, BUILD_ID, target(), _sites, is_ours, is_complete)

# The standard library first: nothing packed can shadow it. The archive itself (sys.path[0]) has done its part.
sys.path[:] = sys.path[1:] + [SITE]
sys.modules["gpuq_bootstrap"] = sys.modules["__main__"]

_module, _function = ENTRY.split(":")
sys.exit(getattr(__import__(_module, fromlist=[_function]), _function)())
