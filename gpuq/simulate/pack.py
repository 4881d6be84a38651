"""How full a cluster gets: tasks placed one by one until nothing fits, by the choice the controller uses.

The method is that of the published figures for this trace (Weng et al., 'Beware of Fragmentation', USENIX ATC 2023):
every task once, then tasks drawn at random, until what was asked for reaches a percentage of all GPUs. Nothing
leaves, and what does not fit is dropped.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpuq.errors import InvalidRequest
from gpuq.model import NodeName, Request
from gpuq.node import Inventory
from gpuq.scheduler.choose import Chooser
from gpuq.scheduler.fit import Room
from gpuq.simulate.pack_trace import WHOLE_GPU

# The controller looks at what is asked for whenever it plans; here whenever that has become one part in a hundred more.
_MORE = 1.01


@dataclass(frozen=True, slots=True)
class Packed:
    """Percent of all GPUs that were allocated once so many percent of them had been asked for, by that percentage."""

    allocated_percent: Mapping[int, float]


def pack(
    tasks: Sequence[Request], machines: Mapping[NodeName, Inventory], placing: str, seed: int, until_percent: int
) -> Packed:
    """Places tasks until their requests reach until_percent of all GPUs: figures at 100 % (if it gets there) and then.

    A pure function of what it is given.
    """
    gpus = WHOLE_GPU * sum(len(inventory.gpus) for inventory in machines.values())
    chooser = Chooser([_room(name, machines[name]) for name in machines], {}, placing)
    seen: Counter[Request] = Counter()
    asked = allocated = weighed = 0
    marks: dict[int, float] = {}
    for number, task in enumerate(_arrivals(tasks, gpus * until_percent, seed), 1):
        seen[task] += 1
        if number >= weighed * _MORE:
            weighed = number
            chooser.weigh(seen)
        asked += _size(task)
        ranks = chooser.choose(task)
        if ranks is not None:
            chooser.take(ranks)
            allocated += _size(task)
        if 100 not in marks and asked >= gpus and until_percent >= 100:
            marks[100] = 100 * allocated / gpus
    marks.setdefault(until_percent, 100 * allocated / gpus)
    return Packed(marks)


def _arrivals(tasks: Sequence[Request], until: int, seed: int) -> Iterator[Request]:
    """Tasks in a random order, then repeats, while less than `until` is asked for, in percent of `_size`."""
    if not any(map(_size, tasks)):
        raise InvalidRequest("no task asks for a GPU", "give the jobs' file of the trace to --jobs")
    drawing = random.Random(seed)
    order = list(tasks)
    drawing.shuffle(order)
    asked = 0
    while asked * 100 < until:
        task = order.pop() if order else drawing.choice(tasks)
        asked += _size(task)
        yield task


def _size(task: Request) -> int:
    return task.gpus * (task.gpu_share_bytes or WHOLE_GPU)


def _room(name: NodeName, inventory: Inventory) -> Room:
    every = tuple(gpu.index for gpu in inventory.gpus)
    return Room(name, inventory, every, inventory.cpus, inventory.memory_total_bytes, ranks=1 << 30)
