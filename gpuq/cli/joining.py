"""Who this machine is in its cluster: as it was kept, or as it now joins.

AGENT/node.token is the node's own token, AGENT/node.json its name and where its controller was last.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from gpuq.cli.connect import client_for, context, given_controller, given_token, trusted_ca
from gpuq.cli.terminal import note
from gpuq.client.http import Client, jittered
from gpuq.client.tls import Impostor, fingerprint_in
from gpuq.config import Context, kept_ca, read_text, write_private
from gpuq.errors import Conflict, NotAuthenticated, NotAuthorised, Unavailable

T = TypeVar("T")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0  # as the agent's own between two tries of its exchange


class Identity(NamedTuple):
    """A node as its agent starts: url is its controller's."""

    name: str
    url: str
    token: str
    ca_pem: str


class _Kept(NamedTuple):
    token: str
    name: str | None
    url: str | None


def identity(home: str, name: str | None) -> Identity:
    """This machine as the node it is, or under a join or administrator's token becomes; kept from then on.

    Waits for a controller that does not answer, and says so once. Raises Conflict if the name is taken,
    NotAuthenticated or NotAuthorised without a token that will do.
    """
    kept = _kept(home)
    token = given_token() or (kept.token if kept else os.environ.get("GPUQ_TOKEN"))
    if token is None:
        hint = "an admin makes one: gpuq token create --role join; give it with --token -"
        raise NotAuthenticated("this machine is no node yet, and has no token to become one", hint)
    url = given_controller() or (kept.url if kept else None) or context(token).url
    role = "".join(token.split("_")[1:2])
    if role == "node":
        own, known = token, kept.name if kept and kept.token == token else None
        if name is not None and known not in (None, name):
            raise Conflict(
                f"this machine is node {known} (by {token_path(home)})", "to join as another, give a join token"
            )
        name = name or known or node_name()
    elif role in ("join", "admin"):
        name = name or (kept.name if kept else None) or node_name()
        own = _joined(home, name, Context(url, token, None, ""), "/join" if role == "join" else "/nodes", kept)
    else:
        raise NotAuthorised(
            "a person's token makes no node", "give its own, or a join token: gpuq token create --role join"
        )
    ca_pem = _patiently(lambda: trusted_ca(Context(url, own, kept_ca(own), "")))
    keep(home, name, url, own)
    return Identity(name, url, own, ca_pem)


def _joined(home: str, name: str, by: Context, path: str, kept: _Kept | None) -> str:
    """The node's token. One that is kept for this very cluster will do where joining again is refused."""
    try:
        return _patiently(lambda: enrol(client_for(by._replace(ca_pem=kept_ca(by.token))), home, name, path))
    except (Conflict, NotAuthenticated) as error:
        if kept is None or kept.name not in (None, name) or fingerprint_in(kept.token) != fingerprint_in(by.token):
            raise
        note(f"node {name} joined earlier and goes on under its own token ({error.message})")
        return kept.token


def enrol(client: Client, home: str, name: str, path: str = "/nodes") -> str:
    """The token of a node newly made in the cluster; raises Conflict if there is one of that name.

    The request's id is on disk before it is sent: interrupted anywhere, the next try gets the same node's token.
    """
    pending = f"{home}/agent/enrol.id"
    request_id = read_text(pending) or os.urandom(16).hex()
    write_private(pending, request_id)
    try:
        answer = client.post(path, {"name": name}, request_id=request_id)
    except Conflict:
        Path(pending).unlink()
        raise
    finally:
        client.close()
    write_private(token_path(home), answer["token"])
    Path(pending).unlink()
    return str(answer["token"])


def _patiently(act: Callable[[], T]) -> T:
    """What `act` gives once the controller answers, however long that takes."""
    said, pause = False, FIRST_PAUSE_SECONDS
    while True:
        try:
            return act()
        except Impostor:
            raise
        except Unavailable as error:
            if not said:
                note(f"waiting for the controller: {error.message}")
                said = True
            time.sleep(jittered(pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _kept(home: str) -> _Kept | None:
    token = read_text(token_path(home))
    if not token:
        return None
    try:
        found = json.loads(read_text(_description(home)) or "{}")
        return _Kept(token.strip(), str(found["name"]), str(found["url"]))
    except (ValueError, LookupError, TypeError):
        return _Kept(token.strip(), None, None)


def keep(home: str, name: str, url: str, token: str) -> None:
    """Makes this what an agent of `home` is that is told nothing else."""
    if _kept(home) != _Kept(token, name, url):
        write_private(token_path(home), token)
        write_private(_description(home), json.dumps({"name": name, "url": url}))


def node_name() -> str:
    """The host's name, as a node may be called."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return kept.strip("._-")[:128] or "node"


def token_path(home: str) -> str:
    return f"{home}/agent/node.token"


def _description(home: str) -> str:
    return f"{home}/agent/node.json"
