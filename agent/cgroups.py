"""What the kernel's control groups allow this agent: where runs may have groups of their own, and what these enforce.

Looked up once, at the start. Where a run's group lies:

    v2    GROUP/gpuq/UID.RANK below the topmost group, from the agent's own upwards, that this account may change: the
          root of the tree for root, user@UID.service for a service of an account's own systemd. So far up, since a
          group that hands out controllers may hold no process itself, and systemd could not start the agent's unit
          again in one that does: no process is moved out of anybody's way here.
    v1    GROUP/gpuq/UID.RANK below the agent's own group, in each hierarchy it may change; and where version 2 is
          mounted beside them, but pids is not, one there, to be killed by. Each costs a job 0.2 ms.

The folder `gpuq` is shared by all agents of an account and stays. run_cgroup.py is the supervisor's side.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gpuq.enforced import Enforced

# Folders of a run's groups, each with what to write into which file, and the group its supervisor is in otherwise.
Groups = list[tuple[str, dict[str, str], str]]

_NAME = "gpuq"
_CONTROLLERS = ("memory", "cpu", "pids")
_PERIOD_US = 100_000  # the kernel's default; a job that used up its share waits for the rest of it
_LEAST_PROCESSES = 1_024


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Folders below which runs have their groups, by what these do; '' where nothing does it.

    One and the same under version 2. processes: the most that one job may have, threads counted. homes: the agent's own
    group in the hierarchy of each. earlier: folders below which agents of the same state had runs before this one.
    """

    version: int = 0  # 2, 1, or 0: there are none
    kill: str = ""
    memory: str = ""
    cpu: str = ""
    pids: str = ""
    processes: int = 0
    note: str = ""  # why not all of it, for people
    homes: tuple[tuple[str, str], ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def roots(self) -> tuple[str, ...]:
        """Folders below which runs that are started now have their groups."""
        return tuple(dict.fromkeys(root for root in (self.kill, self.pids, self.memory, self.cpu) if root))

    @property
    def enforced(self) -> Enforced:
        """As the controller is told of it."""
        mode = f"v{self.version}" if self.version else "none"
        return Enforced(mode, bool(self.memory), bool(self.cpu), bool(self.pids), self.note)

    def of_run(self, name: str, memory_bytes: int, cpus: int) -> Groups:
        """The groups of a run that was granted so much; 0 is no limit, and no memory group is left out for that:
        it counts what the kernel kills for lack of memory.
        """
        found: dict[str, dict[str, str]] = {}
        if self.kill:
            found[f"{self.kill}/{name}"] = {}
        if self.pids:
            found.setdefault(f"{self.pids}/{name}", {})["pids.max"] = str(self.processes)
        if self.memory:
            files = found.setdefault(f"{self.memory}/{name}", {})
            files |= self._memory_files(memory_bytes) if memory_bytes else {}
        if self.cpu and cpus:
            found.setdefault(f"{self.cpu}/{name}", {}).update(self._cpu_files(cpus))
        homes = dict(self.homes)
        return [(path, limits, homes.get(os.path.dirname(path), "")) for path, limits in found.items()]  # noqa: PTH120

    def left_of(self, uid: str) -> list[str]:
        """The groups there are of an attempt's ranks."""
        found = (path for root in self.roots + self.earlier for path in Path(root).glob(f"{uid}.*"))
        return [str(path) for path in found if path.is_dir()]

    def left_of_run(self, name: str) -> list[str]:
        """The groups there are of this run: UID.RANK."""
        return [folder for root in self.roots + self.earlier if os.path.isdir(folder := f"{root}/{name}")]  # noqa: PTH112

    def _memory_files(self, size: int) -> dict[str, str]:
        # Without swap: a job that no longer fits is to end, and not to bring its node to a crawl.
        if self.version == 2:
            return {"memory.max": str(size), "memory.swap.max": "0"}
        return {"memory.limit_in_bytes": str(size), "memory.memsw.limit_in_bytes": str(size)}

    def _cpu_files(self, cpus: int) -> dict[str, str]:
        # The limit, and so much of a node on which jobs without a limit run too.
        if self.version == 2:
            return {"cpu.max": f"{cpus * _PERIOD_US} {_PERIOD_US}", "cpu.weight": str(min(100 * cpus, 10_000))}
        quota = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(cpus * _PERIOD_US)}
        return {**quota, "cpu.shares": str(min(1_024 * cpus, 262_144))}


NONE = Cgroups(note="control groups are not looked for")


def find_cgroups(proc: Path = Path("/proc")) -> Cgroups:
    """What there is for this process; makes the folders that runs' groups come to lie in."""
    own = _own_groups(proc)
    own_v2 = own[""][0] if "" in own else ""
    processes = _most_processes(proc)
    unified = _below_topmost(*own[""]) if "" in own else None
    if unified is not None:
        given = set(_read(f"{unified}/cgroup.subtree_control").split())
        if given & set(_CONTROLLERS):
            roots = {name: unified if name in given else "" for name in _CONTROLLERS}
            return _limiting(2, roots, unified, ((unified, own_v2),), processes)
    roots = {name: _made(own[name][0]) if name in own else "" for name in _CONTROLLERS}
    if any(roots.values()):
        kill = "" if roots["pids"] else unified or ""
        homes = tuple((root, own[name][0]) for name, root in roots.items() if root)
        homes += ((kill, own_v2),) if kill else ()
        return _limiting(1, roots, kill, homes, processes)
    if unified is not None:
        note = f"{Path(unified).parent} may not hand out memory, cpu or pids"
        return Cgroups(2, kill=unified, note=note, homes=((unified, own_v2),))
    there = "this account may not change its control group" if own else "there are no control groups"
    return Cgroups(note=there)


def with_earlier(found: Cgroups, kept: Path) -> Cgroups:
    """With the folders that earlier agents have noted in this file, as far as they are there still, and the own noted.

    An agent may be started in another group than the one before it, whose runs live on. Raises OSError.
    """
    noted = _read(str(kept)).splitlines()
    earlier = tuple(root for root in noted if root not in found.roots and os.path.isdir(root))  # noqa: PTH112
    if noted != [*found.roots, *earlier]:
        kept.write_text("".join(f"{root}\n" for root in found.roots + earlier))
    return replace(found, earlier=earlier)


def _limiting(version: int, roots: dict[str, str], kill: str, homes: tuple[tuple[str, str], ...], most: int) -> Cgroups:
    missing = [name for name, root in roots.items() if not root]
    note = f"without the controller {' and '.join(missing)}" if missing else ""
    memory, cpu, pids = (roots[name] for name in _CONTROLLERS)
    return Cgroups(version, kill, memory, cpu, pids, most, note, homes)


def _own_groups(proc: Path) -> dict[str, tuple[str, str]]:
    """The folder of this process' group and where its tree is mounted, by controller; '' stands for version 2."""
    mounts = dict(_mounts(proc))
    found = {}
    for line in _read(f"{proc}/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            # A path that leads out of the namespace names no folder in here.
            if name in mounts and not path.startswith("/.."):
                root, point = mounts[name]
                inside = path.removeprefix(root.rstrip("/"))
                found[name] = f"{point}{inside}".rstrip("/"), point
    return found


def _mounts(proc: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for line in _read(f"{proc}/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split(" ")[3:5]
        if kind == "cgroup2":
            yield "", (root, point)
        elif kind == "cgroup":
            yield from ((name, (root, point)) for name in options.split(","))


def _below_topmost(own: str, mount: str) -> str | None:
    """The folder for runs under version 2, with all controllers that can be had; None if there can be none."""
    topmost, folder = None, own
    while folder.startswith(mount) and os.access(folder, os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK):
        topmost, folder = folder, os.path.dirname(folder)  # noqa: PTH120
    made = "" if topmost is None else _made(topmost)
    if not made:
        return None
    for name in _CONTROLLERS:
        for group in (str(topmost), made):
            handed_on = f"{group}/cgroup.subtree_control"
            if name not in _read(handed_on).split():
                with suppress(OSError):  # not offered, or processes are in it
                    Path(handed_on).write_text(f"+{name}")
    return made


def _made(parent: str) -> str:
    """The folder for runs below this group, or ''."""
    folder = f"{parent}/{_NAME}"
    try:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    except OSError:
        return ""
    return folder if os.access(f"{folder}/cgroup.procs", os.W_OK) else ""


def _most_processes(proc: Path) -> int:
    """A quarter of what the kernel has numbers and room for: a fork bomb takes no more, and no honest job so much."""
    bounds = [int(_read(f"{proc}/sys/kernel/{name}") or 1 << 15) for name in ("pid_max", "threads-max")]
    return max(_LEAST_PROCESSES, min(bounds) // 4)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
