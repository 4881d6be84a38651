"""Log shipping from real files to a controller that loses, refuses and forgets."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.logs import BODY_BYTES, BYTES_PER_SECOND, LogShipper
from agent.spool import Spool
from gpuq.errors import GpuqError, InvalidRequest, Unavailable
from gpuq.holes import Hole, punch
from gpuq.model import AttemptUid
from gpuq.protocol import MAX_LOG_POST_BYTES, LogAck, LogReply, LogShipment
from gpuq.store.logfiles import LogFiles
from tests.agent.orders import uid


class FakeController:
    """Appends what fits, as the real one: a piece beyond the end is left out, one that overlaps is trimmed."""

    def __init__(self) -> None:
        self.logs: dict[str, bytes] = {}
        self.shipments: list[LogShipment] = []
        self.faults: list[GpuqError] = []
        self.loses_answers = 0
        self.refuses: set[AttemptUid] = set()

    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply:
        await asyncio.sleep(0)
        assert len(body) == sum(c.length for c in shipment.chunks)
        assert len(body) < MAX_LOG_POST_BYTES
        if self.faults:
            raise self.faults.pop(0)
        if any(c.uid in self.refuses for c in shipment.chunks):
            raise InvalidRequest("not this one")
        self.shipments.append(shipment)
        acks, start = [], 0
        for chunk in shipment.chunks:
            have = self.logs.get(chunk.uid, b"")
            data = body[start : start + chunk.length]
            start += chunk.length
            if chunk.hole_start <= len(have) < chunk.hole_end == chunk.offset:
                have = have.ljust(chunk.offset, b"\0")
            if chunk.offset <= len(have) < chunk.offset + len(data):
                have = have[: chunk.offset] + data
            self.logs[chunk.uid] = have
            acks.append(LogAck(chunk.uid, chunk.rank, len(have)))
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unavailable("lost")
        return LogReply(tuple(acks))


class Node:
    """Real spools in a folder, and what the shipper says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: dict[str, int] = {}
        self.drops = ""  # logs dropped whenever the shipper tells of one
        self.pauses = 0
        self.paused = 0.0
        self.controller = FakeController()
        self.shipper = LogShipper(self.controller, self._shipped, self._pause)

    async def _shipped(self, name: AttemptUid, rank: int, size: int) -> None:
        self.told[name] = size
        for other in self.drops:
            self.shipper.dropped(uid(other), 0)

    async def _pause(self, seconds: float) -> None:
        self.pauses += 1
        self.paused += seconds
        await asyncio.sleep(0)

    def path(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, data: bytes) -> None:
        with self.path(name).open("ab") as file:
            file.write(data)

    def watch(self, name: str, fresh: bool = True, cap: int = 0) -> None:
        self.shipper.watch(uid(name), 0, self.path(name), fresh, cap)

    def end(self, name: str, size: int | None = None) -> int:
        size = self.path(name).stat().st_size if size is None else size
        self.shipper.ended(uid(name), 0, size)
        return size


def play(folder: Path, scene: Callable[[Node], Awaitable[None]]) -> Node:
    async def main() -> Node:
        node = Node(folder)
        task = asyncio.ensure_future(node.shipper.run())
        try:
            await scene(node)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return node

    return asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 20)


def test_log_is_followed_while_it_grows_and_complete_when_it_ends(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.watch("a")
        node.write("a", b"one\n")
        await until(lambda: node.told.get(uid("a")) == 4)
        node.write("a", b"two\n")
        await until(lambda: node.told.get(uid("a")) == 8)
        node.write("a", b"three\n")
        node.end("a")
        await until(lambda: node.told.get(uid("a")) == 14)
        assert node.controller.logs == {"a": b"one\ntwo\nthree\n"}

    play(tmp_path, scene)


def test_log_larger_than_a_shipment_arrives_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * (BODY_BYTES // 100)

    async def scene(node: Node) -> None:
        node.write("a", data)
        node.watch("a")
        size = node.end("a")
        await until(lambda: node.told.get(uid("a")) == size)
        assert node.controller.logs["a"] == data
        assert len(node.controller.shipments) == 3

    play(tmp_path, scene)


def test_no_byte_is_lost_or_doubled_whatever_fails_on_the_way(tmp_path: Path) -> None:
    data = {f"r{i}": bytes([i]) * 100_000 + b"end" for i in range(5)}

    async def scene(node: Node) -> None:
        for i, (name, content) in enumerate(data.items()):
            node.watch(name, fresh=i % 2 == 0)
            for start in range(0, len(content), 30_000):
                node.write(name, content[start : start + 30_000])
                node.controller.faults += [Unavailable("down")] * (i % 3)
                node.controller.loses_answers += i % 2
                await asyncio.sleep(0)
            node.end(name)
        await until(lambda: node.told == {n: len(c) for n, c in data.items()})
        assert node.controller.logs == data

    node = play(tmp_path, scene)
    assert node.pauses


def test_after_a_restart_shipping_goes_on_where_the_controller_stands(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.controller.logs[uid("a")] = b"x" * 1_000
        node.write("a", b"x" * 1_000 + b"rest")
        node.watch("a", fresh=False)
        node.end("a")
        await until(lambda: node.told.get(uid("a")) == 1_004)
        assert [[(c.offset, c.length) for c in s.chunks] for s in node.controller.shipments] == [[(0, 0)], [(1_000, 4)]]

    play(tmp_path, scene)


def test_restored_controller_gets_again_what_it_lost(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.watch("a")
        node.write("a", b"one\ntwo\n")
        await until(lambda: node.told.get(uid("a")) == 8)
        node.controller.logs[uid("a")] = b"one\n"
        node.shipper.ask_again()
        await until(lambda: node.controller.logs["a"] == b"one\ntwo\n")

    play(tmp_path, scene)


def test_shipment_is_shared_out_fairly(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.write("big", b"b" * (3 * BODY_BYTES))
        node.write("bigger", b"B" * (4 * BODY_BYTES))
        node.write("small", b"s" * 10)
        for name in ("big", "bigger", "small"):
            node.watch(name)
        await until(lambda: len(node.controller.shipments) == 1)
        lengths = {str(c.uid): c.length for c in node.controller.shipments[0].chunks}
        assert lengths["small"] == 10
        assert abs(lengths["big"] - lengths["bigger"]) <= 1
        assert sum(lengths.values()) >= BODY_BYTES - 1

    play(tmp_path, scene)


def test_log_the_controller_refuses_keeps_no_other_back(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.controller.refuses.add(uid("bad"))
        for name in ("a", "bad", "b", "c"):
            node.write(name, b"text")
            node.watch(name)
            node.end(name)
        await until(lambda: node.told == {"a": 4, "b": 4, "c": 4})

    play(tmp_path, scene)


def test_truncated_or_missing_spool_is_told_as_complete_when_all_of_it_has_arrived(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.write("short", b"abc")
        for name in ("short", "gone", "empty"):
            node.watch(name)
        node.end("short", 1_000)
        node.end("gone", 1_000)
        node.end("empty", 0)  # nobody waits for the log of a run that wrote nothing
        await until(lambda: node.told == {"short": 1_000, "gone": 1_000})
        assert node.controller.logs == {"short": b"abc"}

    play(tmp_path, scene)


def test_unreadable_spool_is_told_as_complete_once_its_run_has_ended(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.path("a").mkdir()  # has a size, and cannot be read by anyone
        node.watch("a")
        node.end("a", 500)
        await until(lambda: node.told.get(uid("a")) == 500)

    play(tmp_path, scene)


def test_dropped_log_is_shipped_no_further(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.write("a", b"text")
        node.watch("a")
        node.shipper.dropped(uid("a"), 0)
        node.write("b", b"text")
        node.watch("b")
        node.end("b")
        await until(lambda: node.told.get(uid("b")) == 4)
        assert "a" not in node.controller.logs

    play(tmp_path, scene)


def test_log_told_as_complete_may_drop_others_at_once(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.drops = "abc"
        for name in "abc":
            node.write(name, b"text")
            node.watch(name)
            node.end(name)
        await until(lambda: node.told.keys() == set("abc"))

    play(tmp_path, scene)


def test_a_controller_that_is_back_has_the_rest_at_once(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        paused = asyncio.Event()

        async def long_pause(seconds: float) -> None:
            del seconds
            paused.set()
            await asyncio.Event().wait()

        node.shipper._pause = long_pause
        node.controller.faults = [Unavailable("away")] * 3
        node.write("a", b"last words")
        node.watch("a")
        node.end("a")
        for _ in range(3):
            await paused.wait()
            paused.clear()
            assert node.told == {}
            node.shipper.reachable()
        await until(lambda: node.told)

    assert play(tmp_path, scene).controller.logs[uid("a")] == b"last words"


def test_what_the_cap_released_is_not_shipped_and_the_rest_arrives_behind_it(tmp_path: Path) -> None:
    mib = 1 << 20

    async def scene(node: Node) -> None:
        node.write("a", b"h" * 2 * mib + b"m" * 8 * mib + b"t" * mib)
        with node.path("a").open("r+b") as file:
            assert punch(file.fileno(), Hole(2 * mib, 10 * mib))
        node.watch("a", cap=4 * mib)
        size = node.end("a")
        await until(lambda: node.told.get(uid("a")) == size)
        assert node.controller.logs["a"] == b"h" * 2 * mib + bytes(8 * mib) + b"t" * mib
        chunks = [chunk for shipment in node.controller.shipments for chunk in shipment.chunks]
        assert sum(chunk.length for chunk in chunks) == 3 * mib
        assert {(chunk.hole_start, chunk.hole_end) for chunk in chunks} == {(2 * mib, 10 * mib)}

    play(tmp_path, scene)


def test_what_the_controller_has_of_a_log_outlives_that_somebody_cut_it_here(tmp_path: Path) -> None:
    files, mib = LogFiles(tmp_path / "controller"), 1 << 20
    log = AttemptUid("0123456789abcdef"), 0

    class Controller:
        async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply:
            (chunk,) = shipment.chunks
            hole = Hole(chunk.hole_start, chunk.hole_end) if chunk.hole_end else None
            return LogReply((LogAck(*log, files.append(log, [(chunk.offset, body)], hole)),))

    async def told(uid: AttemptUid, rank: int, size: int) -> None:
        pass

    async def scene() -> None:
        spool = Spool(threaded=False, cap=16 * mib)
        folder = os.open(tmp_path, os.O_RDONLY)
        spool.open(folder)
        shipper = LogShipper(Controller(), told)
        shipping = asyncio.ensure_future(shipper.run())
        try:
            spool.put(b"b" * 2 * mib)
            shipper.watch(*log, tmp_path / "log", fresh=True, cap=16 * mib)
            await until(lambda: files.size(log) == 2 * mib)
            os.truncate(tmp_path / "log", 0)
            spool.put(b"after")
            shipper.ended(*log, spool.finish())
            await until(lambda: files.size(log) > 2 * mib)
            assert files.read(log, 0, 3 * mib)[1][: 2 * mib] == b"b" * 2 * mib
            assert files.read(log, files.size(log) - 5, 5)[1] == b"after"
        finally:
            shipping.cancel()
            await asyncio.gather(shipping, return_exceptions=True)
            spool.close()
            os.close(folder)

    asyncio.run(scene())


def test_a_job_that_prints_without_end_leaves_room_for_others(tmp_path: Path) -> None:
    async def scene(node: Node) -> None:
        node.write("a", b"x" * 12 * (1 << 20))
        node.watch("a")
        size = node.end("a")
        began = time.monotonic()
        await until(lambda: node.told.get(uid("a")) == size)
        assert node.paused + time.monotonic() - began > size / BYTES_PER_SECOND - 0.05

    play(tmp_path, scene)
