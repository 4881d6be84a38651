"""What a running controller looks after by itself: an administrator's token, and a certificate that never runs out."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gpuq.api import serve as serving
from gpuq.api import upkeep as upkeeping
from gpuq.api.certificates import Certificates, ensure_certificates
from gpuq.api.upkeep import CERTIFICATE_SECONDS, Upkeep, ensure_admin
from gpuq.errors import GpuqError
from gpuq.model import Now
from gpuq.protocol import TLS_NAME
from gpuq.service.commands import Actor, AddUser, DisableUser, RevokeToken
from gpuq.service.live import LiveController
from tests.api.server import DEADLINE, Running, launch, start

DAY = 86_400.0
MADE = 1_700_000_000.0


class Clock:
    """Both clocks, turned by hand."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._ahead = 0.0  # of the wall clock's start

    def wall_is(self, wall: float) -> None:
        """Somebody sets the wall clock; the monotonic one goes on."""
        self._ahead = wall - MADE - self.passed

    def __call__(self) -> Now:
        return Now(self.passed, MADE + self.passed + self._ahead)


def server_context(files: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


@asynccontextmanager
async def kept(home: Path, clock: Clock) -> AsyncIterator[tuple[Upkeep, ssl.SSLContext]]:
    """A controller's upkeep, without its server."""
    home.mkdir(mode=0o700, exist_ok=True)
    files = ensure_certificates(home, clock().wall)
    live = await LiveController.open(home / "gpuq.db")
    context = server_context(files)
    site = serving._site(home, "https://x:1", live, files)
    try:
        await ensure_admin(home, site, clock().wall)
        yield Upkeep(home, site, files, context, clock), context
    finally:
        await live.close()


NO_CHECK_TIME = (
    0x200000  # X509_V_FLAG_NO_CHECK_TIME: OpenSSL would look at the machine's clock; `shown_by` looks at ours
)


def shown_by(context: ssl.SSLContext, ca: Path, now: float) -> bytes:
    """The certificate (DER) a new connection is shown; fails if it is not good, at `now`, to who knows the CA."""
    client = ssl.create_default_context(cafile=str(ca))
    client.verify_flags |= NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    asking = client.wrap_bio(to_client, to_server, server_hostname=TLS_NAME)
    for _ in range(4):
        for end in (asking, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    shown = asking.getpeercert(binary_form=True)
    described = asking.getpeercert()
    assert shown is not None
    assert described is not None
    for each in (described, *client.get_ca_certs()):
        assert ssl.cert_time_to_seconds(str(each["notBefore"])) < now < ssl.cert_time_to_seconds(str(each["notAfter"]))
    return shown


def test_a_certificate_is_renewed_and_shown_to_new_connections_before_it_runs_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kept(tmp_path, clock) as (upkeep, context):
            first = shown_by(context, tmp_path / "ca.pem", clock().wall)
            clock.passed = 360 * DAY
            await upkeep.look()
            assert shown_by(context, tmp_path / "ca.pem", clock().wall) == first
            clock.passed = 369 * DAY  # under 30 days are left
            await upkeep.look()
            second = shown_by(context, tmp_path / "ca.pem", clock().wall)
            assert second != first
            assert ssl.PEM_cert_to_DER_cert((tmp_path / "server.pem").read_text()) == second

    asyncio.run(scenario())


def test_a_certificate_made_while_the_clock_was_ahead_is_made_again_once_it_is_right(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kept(tmp_path, clock) as (upkeep, context):
            clock.passed = 700 * DAY
            await upkeep.look()
            with pytest.raises(AssertionError):
                shown_by(context, tmp_path / "ca.pem", MADE)
            clock.wall_is(MADE)
            clock.passed += CERTIFICATE_SECONDS
            await upkeep.look()
            shown_by(context, tmp_path / "ca.pem", clock().wall)

    asyncio.run(scenario())


def test_ten_years_pass_and_the_one_ca_still_vouches_for_the_certificate_shown(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kept(tmp_path, clock) as (upkeep, context):
            ca = (tmp_path / "ca.pem").read_bytes()
            shown = set()
            while clock.passed < 3650 * DAY:
                await upkeep.look()
                shown.add(shown_by(context, tmp_path / "ca.pem", clock().wall))
                clock.passed += 7 * DAY
            assert len(shown) == 10
            assert (tmp_path / "ca.pem").read_bytes() == ca

    asyncio.run(scenario())


def test_a_certificate_that_cannot_be_renewed_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kept(tmp_path, clock) as (upkeep, context):
            (tmp_path / "ca.key").rename(tmp_path / "elsewhere")
            clock.passed = 380 * DAY
            monkeypatch.setattr(upkeeping, "TOKEN_SECONDS", 0.0)
            running = asyncio.create_task(upkeep.run())
            first = shown_by(context, tmp_path / "ca.pem", clock().wall)
            while "ca.key" not in caplog.text:
                await asyncio.sleep(0)
            (tmp_path / "elsewhere").rename(tmp_path / "ca.key")
            clock.passed += CERTIFICATE_SECONDS
            while shown_by(context, tmp_path / "ca.pem", clock().wall) == first:
                await asyncio.sleep(0)
            running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


@pytest.mark.parametrize("harm", ["deleted", "emptied", "revoked", "disabled"])
def test_whoever_reads_the_home_is_an_administrator_whatever_became_of_the_token(tmp_path: Path, harm: str) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kept(tmp_path, clock) as (upkeep, _):
            path, site = tmp_path / "admin.token", upkeep._site
            before = path.read_text().strip()
            owner = site.tokens.actor(f"Bearer {before}").user
            other = Actor("other", "admin")
            await site.controller.execute(AddUser(other, "other", "admin"), "request-0")
            await upkeep.look()
            assert path.read_text().strip() == before
            if harm == "deleted":
                path.unlink()
            elif harm == "emptied":
                path.write_bytes(b"\xff\n")
            elif harm == "revoked":
                (id,) = [token.id for token in site.controller.view.tokens.values() if token.user == owner]
                await site.controller.execute(RevokeToken(other, id), "request-1")
            else:
                await site.controller.execute(DisableUser(other, owner), "request-1")
            await upkeep.look()
            after = path.read_text().strip()
            assert after != before
            assert site.tokens.actor(f"Bearer {after}").admin
            assert path.stat().st_mode & 0o777 == 0o600

    asyncio.run(scenario())


def test_a_full_disk_does_not_end_the_looking_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        clock, looked = Clock(), 0
        async with kept(tmp_path, clock) as (upkeep, _):

            async def look() -> None:
                nonlocal looked
                looked += 1
                raise [GpuqError("full"), OSError(28, "no space", "x"), RuntimeError("defect")][looked % 3]

            monkeypatch.setattr(upkeep, "look", look)
            monkeypatch.setattr(upkeeping, "TOKEN_SECONDS", 0.0)
            running = asyncio.create_task(upkeep.run())
            while looked < 6:
                await asyncio.sleep(0)
            running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


# ---------------------------------------------------------------- what others are told to connect to


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Running]]:
    """Controllers of one home, each stopped before the next is started."""
    runs: list[Running] = []
    yield runs
    if runs:
        runs[-1].stop()


def told(runs: list[Running], home: Path, *address: str) -> tuple[str, str]:
    """(what others are told, where this machine's own clients go), of the next start with this --address."""
    tokens = runs[-1].tokens if runs else None
    if runs:
        runs[-1].stop()
    runs.append(start(home, tokens, "127.0.0.1:0", *address))
    return runs[-1].get("/cluster")["url"], json.loads((home / "controller.json").read_text())["url"]


def test_an_address_that_was_given_is_told_to_others_and_kept(started: list[Running], tmp_path: Path) -> None:
    home = tmp_path / "controller"
    first, own = told(started, home)
    assert first == own
    assert told(started, home, "head.lab:7443") == ("https://head.lab:7443", own)
    assert told(started, home) == ("https://head.lab:7443", own)
    join = started[-1].ask("POST", "/tokens", "root", {"role": "join"}).json
    assert join["url"] == "https://head.lab:7443"
    assert told(started, home, "head.lab") == (f"https://head.lab:{own.rpartition(':')[2]}", own)
    assert told(started, home, "[2001:db8::1]:7000") == ("https://[2001:db8::1]:7000", own)
    assert told(started, home, "") == (own, own)


@pytest.mark.parametrize("address", ["http://head:7443", "head:port", "a b", "head:0"])
def test_an_address_that_is_none_is_refused_in_one_line(tmp_path: Path, address: str) -> None:
    process = launch(tmp_path / "controller", "127.0.0.1:0", address)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 9
    assert "is not a controller's address" in errors
