"""The controller as a process: its home, its certificates, its port, and how it comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import ssl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpuq import codec
from gpuq.api import serve as serving
from gpuq.api.certificates import ensure_certificates
from gpuq.protocol import TLS_NAME
from gpuq.service.live import LiveController
from tests.api.server import DEADLINE, Agent, Running, launch, start


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "controller"


@pytest.fixture
def started(home: Path) -> Iterator[Running]:
    running = start(home)
    yield running
    if running.process.poll() is None:
        running.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_home_keeps_secrets_to_its_account(started: Running) -> None:
    assert mode(started.home) == 0o700
    for name in ("ca.key", "server.key", "admin.token", "gpuq.db", "port"):
        assert mode(started.home / name) == 0o600, name
    assert mode(started.home / "ca.pem") == 0o644


def test_the_admin_token_of_the_home_works_and_survives_a_restart(started: Running) -> None:
    token = (started.home / "admin.token").read_text().strip()
    assert started.get("/whoami", token)["role"] == "admin"
    assert token.rpartition("_")[2] == ensure_certificates(started.home, 0).ca_sha256()
    started.stop()
    again = start(started.home, started.tokens)
    assert (again.home / "admin.token").read_text().strip() == token
    assert again.get("/whoami", token)["role"] == "admin"
    again.stop()


def test_a_lost_admin_token_is_replaced(started: Running) -> None:
    path = started.home / "admin.token"
    started.stop()
    path.write_text("gpuq_admin_forged_00\n")
    again = start(started.home, started.tokens)
    assert again.get("/whoami", path.read_text().strip())["role"] == "admin"
    assert mode(path) == 0o600
    again.stop()


def test_a_restarted_controller_keeps_its_url_its_ca_and_its_jobs(started: Running) -> None:
    id = started.submit("ann", name="kept")
    url, cluster, ca = started.url, started.get("/version", None), started.ask("GET", "/ca", None).body
    started.stop()
    again = start(started.home, started.tokens)
    assert again.url == url
    assert again.get("/version", None) == cluster
    assert again.ask("GET", "/ca", None).body == ca == (started.home / "ca.pem").read_bytes()
    assert again.get(f"/jobs/{id}")["name"] == "kept"
    repeated = again.ask("POST", "/jobs", "ann", {"command": ["a"]}, request_id="after-restart")
    assert repeated.status == 201
    again.stop()


def test_an_answer_given_before_a_kill_is_true_after_it(started: Running) -> None:
    ids = [started.submit("ann") for _ in range(20)]
    first = started.ask("POST", "/jobs", "ann", {"command": ["a"]}, request_id="told-before-kill").body
    started.process.kill()
    started.wait()
    again = start(started.home, started.tokens)
    found = {item["id"] for item in again.get("/jobs")["items"]}
    assert found.issuperset(ids)
    assert again.ask("POST", "/jobs", "ann", {"command": ["a"]}, request_id="told-before-kill").body == first
    again.stop()


def test_the_notice_is_there_while_it_answers_and_gone_after(started: Running) -> None:
    notice = started.home / "controller.json"
    told = json.loads(notice.read_text())
    assert told == {"url": started.url, "pid": started.process.pid, "version": started.get("/version", None)["version"]}
    assert started.stop() == 0
    assert not notice.exists()


def test_stopping_answers_those_who_wait(started: Running) -> None:
    agent = Agent(started, "waits")
    agent.sync()
    id = started.submit("ann", hold=True)
    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(started.get, f"/jobs/{id}?wait=5&seen=QUEUED")
        follower = pool.submit(started.ask, "GET", f"/jobs/{id}/log?wait=5", "ann")
        held = pool.submit(agent.post, "/agent/sync", _held(agent))
        # All three are on their way once the controller has answered something that was asked after them.
        for _ in range(20):
            started.get("/whoami")
        assert started.stop() == 0
        assert reader.result(DEADLINE)["state"] == "QUEUED"
        assert follower.result(DEADLINE).status == 200
        assert held.result(DEADLINE).json["superseded"]


def test_stopping_ends_open_streams(started: Running) -> None:
    connection = started.connect()
    send = {"authorization": f"Bearer {started.tokens['ann']}"}
    connection.request("GET", "/api/v1/events/stream?after=0", headers=send)
    stream = connection.getresponse()
    assert json.loads(stream.readline())["kind"] == "user.added"
    assert started.stop() == 0
    while stream.readline():
        pass
    connection.close()


def test_stopping_leaves_idle_clients_in_order_and_without_a_word(started: Running) -> None:
    context = ssl.create_default_context(cafile=str(started.home / "ca.pem"))
    plain = socket.create_connection(("127.0.0.1", started.port), DEADLINE)
    with context.wrap_socket(plain, server_hostname=TLS_NAME, suppress_ragged_eofs=False) as idle:
        idle.sendall(b"GET /api/v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b""
        while b"cluster_id" not in said:
            said += idle.recv(4096)
        started.process.terminate()
        _, errors = started.process.communicate(timeout=DEADLINE)
        while idle.recv(4096):  # ends with TLS' own goodbye: a cut would raise
            pass
    assert started.process.returncode == 0
    assert "ERROR" not in errors


def test_stopping_does_not_wait_for_the_goodbye_of_who_was_left_already(started: Running) -> None:
    context = ssl.create_default_context(cafile=str(started.home / "ca.pem"))
    plain = socket.create_connection(("127.0.0.1", started.port), DEADLINE)
    with context.wrap_socket(plain, server_hostname=TLS_NAME) as leaving:
        leaving.sendall(b"GET /api/v1/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while leaving.recv(4096):  # up to the controller's goodbye, which gets no answer
            pass
        started.process.terminate()
        _, errors = started.process.communicate(timeout=DEADLINE)
    assert started.process.returncode == 0, errors


def test_who_connects_and_does_not_shake_hands_is_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HANDSHAKE_SECONDS", 0.1)
    said: list[bytes] = []

    def connect(url: str) -> None:
        try:
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), DEADLINE) as silent:
                said.append(silent.recv(1))
        finally:
            signal.raise_signal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(serving.serve(home, "127.0.0.1:0", lambda url: void(pool.submit(connect, url)))) == 0
    assert said == [b""]


def void(_: object) -> None:
    """What is started is not waited for."""


def _held(agent: Agent) -> bytes:
    return json.dumps(codec.encode(agent.request(wait_seconds=5.0))).encode()


def test_an_interrupt_ends_it_in_order_too(started: Running) -> None:
    started.process.send_signal(signal.SIGINT)
    assert started.wait() == 0


def test_a_second_controller_of_a_home_is_refused_in_one_line(started: Running) -> None:
    second = launch(started.home)
    out, errors = second.communicate(timeout=DEADLINE)
    assert (second.returncode, out) == (9, "")
    assert "in use by another controller" in errors
    assert "Traceback" not in errors
    assert started.get("/version", None)


def test_a_port_in_use_is_refused_in_one_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = launch(home, f"127.0.0.1:{taken.getsockname()[1]}")
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 9
    assert "cannot listen on" in errors
    assert "in use" in errors
    assert "Traceback" not in errors


def test_a_remembered_port_that_was_taken_is_given_up(home: Path) -> None:
    first = start(home)
    first.stop()
    with socket.create_server(("127.0.0.1", first.port)):
        again = start(home, first.tokens)
        assert again.port != first.port
        assert again.get("/version", None)
        again.stop()


@pytest.mark.parametrize("listen", ["7443", "host:port", "127.0.0.1:99999", ""])
def test_a_listen_address_that_is_none_is_refused(home: Path, listen: str) -> None:
    process = launch(home, listen)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 9
    assert "is not an address to listen on" in errors


def test_an_address_that_is_not_ours_is_refused(home: Path) -> None:
    process = launch(home, "192.0.2.1:7443")
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 9
    assert "cannot listen on 192.0.2.1:7443" in errors


# ---------------------------------------------------------------- TLS


def shake_hands(running: Running, ca: Path, name: str = TLS_NAME) -> str | None:
    with socket.create_connection(("127.0.0.1", running.port), DEADLINE) as plain:
        context = ssl.create_default_context(cafile=str(ca))
        with context.wrap_socket(plain, server_hostname=name) as secured:
            return secured.version()


def test_the_pinned_ca_is_believed_for_the_one_name(started: Running) -> None:
    assert shake_hands(started, started.home / "ca.pem") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(started, started.home / "ca.pem", "elsewhere.example")


def test_another_clusters_ca_is_not_believed(started: Running, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(started, ensure_certificates(other, 1.7e9).ca)


def test_plain_http_and_old_tls_get_nothing(started: Running) -> None:
    with socket.create_connection(("127.0.0.1", started.port), DEADLINE) as plain:
        plain.sendall(b"GET /api/v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    assert started.get("/version", None)


def test_the_server_certificate_is_renewed_when_few_days_are_left(tmp_path: Path) -> None:
    day = 86_400.0
    files = ensure_certificates(tmp_path, 1.7e9)
    ca, first = files.ca.read_bytes(), files.certificate.read_bytes()
    ensure_certificates(tmp_path, 1.7e9 + 360 * day)
    assert files.certificate.read_bytes() == first
    ensure_certificates(tmp_path, 1.7e9 + 370 * day)
    assert files.certificate.read_bytes() != first
    assert files.ca.read_bytes() == ca


def test_a_server_certificate_that_is_missing_is_made_again(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path, 1.7e9)
    for gone in (files.certificate, files.key):
        gone.unlink()
        ensure_certificates(tmp_path, 1.7e9)
        assert gone.exists()
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


def test_a_home_that_moved_still_proves_itself(started: Running, tmp_path: Path) -> None:
    started.stop()
    moved = tmp_path / "moved"
    shutil.move(started.home, moved)
    again = start(moved, started.tokens)
    assert shake_hands(again, moved / "ca.pem") == "TLSv1.3"
    again.stop()


# ---------------------------------------------------------------- a store that fails


def test_a_broken_store_ends_the_process_with_status_1(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[LiveController] = []
    really = LiveController.open

    async def opening(path: Path) -> LiveController:
        opened.append(await really(path))
        return opened[-1]

    monkeypatch.setattr(LiveController, "open", opening)

    def break_store(_: str) -> None:
        opened[0].failed.set_result("disk I/O error")

    status: Any = asyncio.run(serving.serve(home, "127.0.0.1:0", break_store))
    assert status == 1
    assert not (home / "controller.json").exists()
    assert "disk I/O error" in caplog.text
