"""What no agent of ours would say: refused before anything of it is taken, looked up or kept.

A node's token is all it takes to send a report, so a report may cost the controller only so much.
"""

from __future__ import annotations

from gpuq.errors import InvalidRequest
from gpuq.gpu_use import CURVE_POINTS, ForeignUse, GpuProcess
from gpuq.model import ExitRecord
from gpuq.node import MAX_GPU_PROCESSES, Gpu, Inventory, NodeSample
from gpuq.protocol import MAX_AHEAD_SECONDS, MAX_GPUS, MAX_HOLDS, MAX_REPORTS, SyncRequest

MAX_UID = 64  # characters; an attempt's has 20 to 30
MAX_WORDS = 4_096  # characters of a name or note
MAX_REFUSED = 256  # accounts a node says it has not; an agent names no more
MAX_LABELS = 64
_MAX_CPUS = 1 << 16
_MAX_MEMORY_BYTES = 1 << 60


def check_report(request: SyncRequest, wall: float) -> None:
    """Raises InvalidRequest, in one line, for a report that is too large or says what cannot be. wall is now."""
    if len(request.holds) > MAX_HOLDS or len(request.reports) > MAX_REPORTS:
        named, detailed = len(request.holds), len(request.reports)
        raise InvalidRequest(
            f"the report names {named:,} attempts and details {detailed:,}",
            f"at most {MAX_HOLDS:,} and {MAX_REPORTS:,}",
        )
    beyond = [over.uid for over in request.overuse]
    if len(set(beyond)) < len(beyond) or len(beyond) > MAX_REPORTS:
        raise InvalidRequest(
            f"the report tells {len(beyond):,} times of overuse", f"at most {MAX_REPORTS:,}, each attempt once"
        )
    if not all(
        len(uid) <= MAX_UID and uid.isprintable()
        for uid in (*request.holds, *beyond, *(word.uid for word in request.reports))
    ):
        raise InvalidRequest(f"the report names an attempt by what is not text of at most {MAX_UID} characters")
    # An incarnation is taken for good, in this life of the controller: one from a far future would lock out the agent.
    if not 0 <= request.incarnation <= (wall + MAX_AHEAD_SECONDS) * 1000:
        raise InvalidRequest(
            f"the incarnation {request.incarnation} is no time up to a day ahead of the controller's clock",
            "set the clocks of both machines",
        )
    if len(request.boot_id) > MAX_WORDS:
        raise InvalidRequest(f"boot_id has more than {MAX_WORDS:,} characters")
    for word in request.reports:
        if word.exit is not None:
            _check_end(word.uid, word.exit)
    if request.sample is not None:
        _check_sample(request.sample)
    if request.inventory is not None:
        _check_inventory(request.inventory)


def _check_end(uid: str, end: ExitRecord) -> None:
    receipt = end.gpu_receipt
    if len(end.gpu_fault) > MAX_WORDS:
        raise InvalidRequest(f"the fault that ended {uid} has more than {MAX_WORDS:,} characters")
    if receipt is not None and max(len(receipt.busy_percent), len(receipt.memory_mib)) > CURVE_POINTS:
        raise InvalidRequest(f"a curve of {uid} has more than {CURVE_POINTS} points")


def _check_sample(sample: NodeSample) -> None:
    if len(sample.gpus) > MAX_GPUS:
        raise InvalidRequest(f"the sample has {len(sample.gpus):,} GPUs", f"a node has at most {MAX_GPUS:,}")
    for gpu in sample.gpus:
        if len(gpu.processes) > MAX_GPU_PROCESSES or len(gpu.throttled or ()) > MAX_GPU_PROCESSES:
            raise InvalidRequest(
                f"the sample names {len(gpu.processes):,} processes of a GPU", f"at most {MAX_GPU_PROCESSES}"
            )
        texts = (*(gpu.throttled or ()), *(text for process in gpu.processes for text in _texts(process)))
        if max(map(len, texts), default=0) > MAX_WORDS:
            raise InvalidRequest(f"a name in the sample has more than {MAX_WORDS:,} characters")


def _texts(of: GpuProcess | ForeignUse) -> tuple[str, ...]:
    return of.user or "", of.command or "", of.job or ""


def _check_inventory(inventory: Inventory) -> None:
    gpus = inventory.gpus
    if len(gpus) > MAX_GPUS:
        raise InvalidRequest(f"the inventory has {len(gpus):,} GPUs", f"a node has at most {MAX_GPUS:,}")
    for gpu in gpus:
        if not 0 <= gpu.index < MAX_GPUS:
            raise InvalidRequest(f"a GPU has the index {gpu.index}", f"indices are 0 to {MAX_GPUS - 1}")
        if gpu.distances and not (
            gpu.distances.isascii() and gpu.distances.isdigit() and len(gpu.distances) <= MAX_GPUS
        ):
            raise InvalidRequest(f"GPU {gpu.index} says how far others are by '{gpu.distances[:40]}'", "digits only")
        if not 0 <= (gpu.memory_total_bytes or 0) <= _MAX_MEMORY_BYTES:
            raise InvalidRequest(f"GPU {gpu.index} has {gpu.memory_total_bytes} bytes of memory, which cannot be")
    if not 0 <= inventory.cpus <= _MAX_CPUS:
        raise InvalidRequest(f"the inventory has {inventory.cpus} CPUs, which cannot be")
    if not 0 <= inventory.memory_total_bytes <= _MAX_MEMORY_BYTES:
        raise InvalidRequest(f"the inventory has {inventory.memory_total_bytes} bytes of memory, which cannot be")
    accounts = inventory.accounts
    if len(accounts.refused) > MAX_REFUSED:
        raise InvalidRequest(f"the inventory refuses {len(accounts.refused):,} accounts", f"at most {MAX_REFUSED}")
    if len(inventory.labels) > MAX_LABELS:
        raise InvalidRequest(f"the inventory has {len(inventory.labels):,} labels", f"at most {MAX_LABELS}")
    texts = [inventory.hostname, inventory.agent_version, inventory.driver_version or "", inventory.gpu_note]
    texts += [inventory.trouble, inventory.address, *inventory.labels.keys(), *inventory.labels.values()]
    texts += [inventory.enforced.cgroup, inventory.enforced.note]
    texts += [accounts.owner, *(text for refusal in accounts.refused for text in (refusal.account, refusal.text))]
    if max(map(len, texts)) > MAX_WORDS or any(_longest(gpu) > MAX_WORDS for gpu in gpus):
        raise InvalidRequest(f"a name or note in the inventory has more than {MAX_WORDS:,} characters")


def _longest(gpu: Gpu) -> int:
    return max(map(len, (gpu.uuid, gpu.name, gpu.health_text, *(_texts(gpu.foreign) if gpu.foreign else ()))))
