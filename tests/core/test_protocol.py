from __future__ import annotations

import dataclasses
import json

from gpuq.codec import decode, encode
from gpuq.model import AttemptUid, EndReason, ExitRecord, Job, JobId, JobSpec, NodeName, Rank, RankPhase, Request
from gpuq.node import Gpu, Inventory
from gpuq.protocol import (
    MAX_ARGUMENT_BYTES,
    MAX_BODY_BYTES,
    MAX_COMMAND_BYTES,
    MAX_ENVIRONMENT_BYTES,
    MAX_REPORTS,
    MAX_SYNC_BYTES,
    RankReport,
    RunOrder,
    Submission,
    SyncReply,
    SyncRequest,
)
from gpuq.states import JobState

UID = AttemptUid("f" * 24)


def test_a_sync_with_every_report_it_may_hold_is_within_its_cap() -> None:
    exit = ExitRecord(EndReason.EXITED, 1.7e9, 1, None, None, "x" * 200, 1.7e9, 2**40, 1e6, 2**40)
    report = RankReport(UID, 0, RankPhase.ENDED, True, 1.7e9, exit, 2**40)
    gpus = tuple(Gpu(i, f"GPU-{'0' * 36}", "NVIDIA H100 80GB HBM3", 80 << 30) for i in range(16))
    request = SyncRequest(
        1, NodeName("n" * 128), "b" * 36, 2**50, 2**40, holds=(UID,) * 5_000, reports=(report,) * MAX_REPORTS,
        inventory=Inventory("h" * 64, gpus, 256, 2**41, False, "1.0"),
    )  # fmt: skip
    assert len(json.dumps(encode(request))) < MAX_SYNC_BYTES


def test_the_largest_submission_allowed_fits_its_body_and_its_order_fits_a_sync() -> None:
    command = ("x" * MAX_ARGUMENT_BYTES,) * (MAX_COMMAND_BYTES // MAX_ARGUMENT_BYTES)
    environment = {f"K{i:05}": "v" * 1_000 for i in range(MAX_ENVIRONMENT_BYTES // 1_008)}
    submission = Submission(command=command, environment=environment, changes=environment)
    assert len(json.dumps(encode(submission))) < MAX_BODY_BYTES
    job = Job(JobId("1"), 1, None, "n", "u", "main", 0, Request(), JobState.ALLOCATED, 0.0, 0.0)
    spec = JobSpec(command, None, "/", environment, environment)
    order = RunOrder(UID, job, spec, 1, 0, (Rank(NodeName("n"), (), 0, 0),))
    assert len(json.dumps(encode(SyncReply(1, 1, 1, 1, run=(order,))))) < MAX_SYNC_BYTES


def test_an_idle_heartbeat_is_small() -> None:
    request = SyncRequest(1, NodeName("gpu-17"), "b" * 36, 1_763_704_392_042, 5, 1, 1_042, inventory_hash="h" * 16)
    assert len(json.dumps(encode(request))) < 400


def test_a_submission_and_its_spec_share_their_fields() -> None:
    """So that nothing asked for at submit is lost on the way to the node."""
    asked = {f.name for f in dataclasses.fields(Submission)}
    assert {f.name for f in dataclasses.fields(JobSpec)} <= asked


def test_an_order_of_an_older_controller_is_read_with_defaults() -> None:
    old = {
        "uid": UID,
        "job": encode(Job(JobId("1"), 1, None, "n", "u", "main", 0, Request(), JobState.ALLOCATED, 0.0, 0.0)),
        "spec": {"command": ["true"], "script": None, "cwd": None},
        "number": 1,
        "rank": 0,
        "ranks": [{"node": "n", "gpus": [0], "cpus": 0, "memory_bytes": 0}],
    }
    order = decode(RunOrder, old)
    assert (order.gpu_uuids, order.granted_at, order.job.grace_seconds) == ((), 0.0, 30)
