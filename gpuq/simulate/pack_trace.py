"""Reads the traces of `gpuq simulate pack`: tasks that ask for parts of GPUs, and the machines they are placed on."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gpuq import constraint
from gpuq.errors import InvalidRequest
from gpuq.model import NodeName, Request
from gpuq.node import Gpu, Inventory
from gpuq.simulate.cells import ENCODING, UNREADABLE, number

# A trace asks for thousandths of a GPU, whatever its memory is, and of a CPU. So every GPU has 1,000 bytes here, of
# which a share takes its thousandths, and a node a thousand times as many CPUs as it has.
WHOLE_GPU = 1_000
_MIB = 1 << 20
_Row = dict[str, str]
_Made = TypeVar("_Made")


def tasks(path: Path, constraints: bool) -> list[Request]:
    """What each task asks for, in the trace's order; of GPU models those it names, if constraints are wanted.

    Raises InvalidRequest, with the line, for what cannot be read.
    """

    def task(row: _Row) -> Request:
        gpus, share = _count(row, "num_gpu"), _count(row, "gpu_milli")
        if share > WHOLE_GPU or (gpus > 0) != (share > 0):
            raise ValueError(f"{gpus} GPUs of {share} thousandths each")
        models = (row.get("model33") or "") if constraints else ""
        return Request(
            gpus_per_node=gpus,
            gpu_share_bytes=share if 0 < share < WHOLE_GPU else None,
            cpus=_count(row, "cpu_milli"),
            memory_bytes=_count(row, "mem_mib") * _MIB,
            constraint=constraint.normal("|".join(f"gpu={model}" for model in models.split("|"))) if models else "",
        )

    return _rows(path, ("num_gpu", "gpu_milli", "cpu_milli", "mem_mib"), task)


def machines(path: Path) -> dict[NodeName, Inventory]:
    """The nodes that have GPUs, by name; raises InvalidRequest, with the line, for what cannot be read."""

    known: dict[NodeName, Inventory] = {}

    def machine(row: _Row) -> None:
        name = NodeName(row["node"])
        if name in known:
            raise ValueError(f"node {name} is there twice")
        gpus = tuple(Gpu(i, f"{name}-{i}", row["model"] or "", WHOLE_GPU) for i in range(_count(row, "gpus")))
        cpus, memory = _count(row, "cpu_milli"), _count(row, "mem_mib") * _MIB
        known[name] = Inventory(name, gpus, cpus, memory, True, "")

    _rows(path, ("node", "gpus", "model", "cpu_milli", "mem_mib"), machine)
    known = {name: inventory for name, inventory in known.items() if inventory.gpus}
    if not known:
        raise InvalidRequest(f"{path} has no node with GPUs", "give the nodes' file of the trace to --nodes-file")
    return known


def _count(row: _Row, column: str) -> int:
    count = number(row, column, int)
    if count < 0:
        raise ValueError(f"{column} is {count}, less than nothing")
    return count


def _rows(path: Path, columns: tuple[str, ...], make: Callable[[_Row], _Made]) -> list[_Made]:
    try:
        with gzip.open(path, "rt", encoding=ENCODING, newline="") as file:
            rows = csv.DictReader(file)
            missing = [column for column in columns if column not in (rows.fieldnames or ())]
            if missing:
                raise InvalidRequest(f"{path} has no column {missing[0]}", f"it needs {', '.join(columns)}")
            made = []
            for row in rows:
                try:
                    made.append(make(row))
                except (ValueError, InvalidRequest) as error:
                    raise InvalidRequest(f"{path}, line {rows.line_num}: {error}", "correct the trace") from error
            return made
    except UNREADABLE as error:
        raise InvalidRequest(f"{path} is not a gzip file of text: {error}", "compress the trace with gzip") from error
