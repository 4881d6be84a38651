"""The environment a job sees, and the set-up steps that come before it. Pure: nothing here looks at the machine.

Later wins: the base (the submitter's environment, or the account's login environment on the node), the job's own
changes (--env, --export), the virtual environment, and last what the job was granted, which nobody may replace: a
CUDA_VISIBLE_DEVICES left in somebody's profile must not send a job to another's GPU.

Of Slurm's variables only those that existing scripts read to find their place: SLURM_JOB_ID (as gpuq writes it, '1042'
or '1042_7'), SLURM_ARRAY_JOB_ID, SLURM_ARRAY_TASK_ID, SLURM_NNODES, SLURM_JOB_NUM_NODES, SLURM_NODEID,
SLURM_JOB_NODELIST (names joined by commas), SLURM_PROCID, SLURM_LOCALID, SLURM_CPUS_PER_TASK, SLURM_SUBMIT_DIR.
SLURM_NTASKS is left out on purpose: PyTorch Lightning takes it as proof that srun has started one process for each GPU,
and would use a single one.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from gpuq.model import JobSpec
from gpuq.outfiles import filled_in
from gpuq.protocol import RunOrder

_NOT_PASSED_ON = ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "OLDPWD", "SHLVL", "_")
# Of another job, or of the terminal it was submitted from.
_PREFIXES_NOT_PASSED_ON = ("GPUQ_", "SLURM_", "SSH_", "XDG_")


class Step(NamedTuple):
    """One set-up step: what the log calls it, and the shell line."""

    label: str
    line: str


def build(order: RunOrder, base: Mapping[str, str], cwd: str, by_uuid: bool = False) -> dict[str, str]:
    """The complete environment of this rank's job; base is order.spec.environment or the login environment.

    by_uuid: see `granted`.
    """
    spec, rank = order.spec, order.ranks[order.rank]
    env = {name: value for name, value in base.items() if _passes(name)}
    env["PWD"] = cwd
    env |= spec.changes
    if spec.venv is not None:
        env["VIRTUAL_ENV"] = spec.venv
        env["PATH"] = f"{spec.venv}/bin:{env.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
        env.pop("PYTHONHOME", None)
    if rank.cpus and "OMP_NUM_THREADS" not in env:
        env["OMP_NUM_THREADS"] = str(rank.cpus)
    return env | granted(order, cwd, by_uuid)


def granted(order: RunOrder, cwd: str, by_uuid: bool = False) -> dict[str, str]:
    """What the job is told of its place in the cluster.

    by_uuid names its GPUs to CUDA by uuid: an index is theirs only while CUDA counts as NVML did. Not always, because
    some programs read numbers there: vLLM ends with "invalid literal for int()" (its issue 13815).
    """
    job, rank = order.job, order.ranks[order.rank]
    gpus = ",".join(map(str, rank.gpus))
    nodes = ",".join(r.node for r in order.ranks)
    out = {
        "GPUQ_JOB_ID": job.id,
        "GPUQ_ATTEMPT": order.uid,  # the agent finds survivors of a dead supervisor by it
        "GPUQ_ATTEMPT_NUMBER": str(order.number),
        "GPUQ_RESTART_COUNT": str(order.number - 1),
        "GPUQ_JOB_NAME": job.name,
        "GPUQ_NODELIST": nodes,
        "GPUQ_NNODES": str(len(order.ranks)),
        "GPUQ_NODE_RANK": str(order.rank),
        "GPUQ_NODENAME": rank.node,
        "GPUQ_GPUS": gpus,
        "GPUQ_CPUS": str(rank.cpus),
        "GPUQ_SUBMIT_DIR": cwd,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that CUDA counts as NVML does
        "CUDA_VISIBLE_DEVICES": ",".join(order.gpu_uuids) if by_uuid else gpus,
        "SLURM_JOB_ID": job.id,
        "SLURM_NNODES": str(len(order.ranks)),
        "SLURM_JOB_NUM_NODES": str(len(order.ranks)),
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NODEID": str(order.rank),
        "SLURM_PROCID": str(order.rank),
        "SLURM_LOCALID": "0",
        "SLURM_SUBMIT_DIR": cwd,
    }
    if rank.cpus:
        out["SLURM_CPUS_PER_TASK"] = str(rank.cpus)
    if rank.gpu_share_bytes is not None:
        out["GPUQ_GPU_SHARE_BYTES"] = str(rank.gpu_share_bytes)
    if order.port is not None:
        out |= rendezvous(order)
    if job.index is not None:
        out["GPUQ_ARRAY_JOB_ID"] = out["SLURM_ARRAY_JOB_ID"] = job.array_id
        out["GPUQ_ARRAY_TASK_ID"] = out["SLURM_ARRAY_TASK_ID"] = str(job.index)
    return out


def rendezvous(order: RunOrder) -> dict[str, str]:
    """How the ranks of a gang find each other. torchrun takes its options from PET_*, so it needs none.

    WORLD_SIZE counts processes, one for each GPU, as torch does; RANK is for whoever starts them to say.
    """
    each = max(1, len(order.ranks[order.rank].gpus))
    address, port, nodes, rank = order.address, str(order.port), str(len(order.ranks)), str(order.rank)
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "NODE_RANK": rank,
        "WORLD_SIZE": str(len(order.ranks) * each),
        "PET_NNODES": nodes,
        "PET_NODE_RANK": rank,
        "PET_NPROC_PER_NODE": str(each),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": port,
    }


def output_files(order: RunOrder, cwd: str) -> tuple[str | None, str | None, bool]:
    """The files of standard output and standard error, in full, and whether they are appended to."""
    job, rank, spec = order.job, order.ranks[order.rank], order.spec
    index = "0" if job.index is None else str(job.index)
    values = {"A": job.array_id, "a": index, "j": job.id, "x": job.name, "u": job.user, "N": rank.node}
    values |= {"J": job.id, "n": str(order.rank), "t": str(order.rank)}
    output, error = (
        None if pattern is None else posixpath.join(cwd, filled_in(pattern, values))
        for pattern in (spec.output, spec.error)
    )
    return output, output if error is None else error, spec.append


def setup_steps(spec: JobSpec) -> tuple[Step, ...]:
    """The virtual environment's check, conda's activation and the --setup lines, in this order."""
    steps = []
    if spec.venv is not None:
        python, text = shlex.quote(f"{spec.venv}/bin/python"), shlex.quote(f"no Python in {spec.venv}/bin")
        steps.append(Step(f"venv {spec.venv}", f"[ -x {python} ] || {{ echo {text}; exit 1; }}"))
    if spec.conda_env is not None:
        line = f'eval "$("${{CONDA_EXE:-conda}}" shell.posix hook)" && conda activate {shlex.quote(spec.conda_env)}'
        steps.append(Step(f"conda activate {spec.conda_env}", line))
    return (*steps, *(Step(line, line) for line in spec.setup))


def _passes(name: str) -> bool:
    return bool(name) and name not in _NOT_PASSED_ON and not name.startswith(_PREFIXES_NOT_PASSED_ON)
