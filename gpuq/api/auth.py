"""Who asks: tokens made, looked up and remembered for a moment. Only their SHA-256 is ever kept or compared."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable

from gpuq.errors import NotAuthenticated, NotAuthorised
from gpuq.model import NodeName, PutToken
from gpuq.service.commands import Actor

_SECRET_CHARACTERS = 32  # of base64: 192 random bits
_REMEMBER_SECONDS = 3.0  # how long another process' revocation may go unnoticed; changes made here count at once
_REMEMBERED = 4096  # more tokens than that in use at once only cost a look-up each
_MAX_TOKEN = 512  # characters; a longer one is not hashed

# Least role of a route -> roles that may use it. 'node' is apart: an agent's token is of no use anywhere else.
MAY: dict[str, frozenset[str]] = {
    "viewer": frozenset({"viewer", "user", "admin"}),
    "user": frozenset({"user", "admin"}),
    "admin": frozenset({"admin"}),
    "node": frozenset({"node"}),
}


def new_token(
    role: str, user: str, ca_sha256: str, now: float, *, node: NodeName | None = None, secret: str | None = None
) -> tuple[str, PutToken]:
    """A token's text, to be shown once, and what the store keeps of it. It does not expire."""
    text = f"gpuq_{role}_{secret or secrets.token_urlsafe(24)}_{ca_sha256}"
    digest = sha256(text)
    return text, PutToken(digest[:12], digest, role, user, node, now, None)


def derived_secret(key: bytes, user: str, request_id: str) -> str:
    """The secret for a token asked for with this request id: a request sent twice gets the same token twice.

    The store keeps only hashes, so the answer could not be repeated from there.
    """
    mac = hmac.new(key, f"{user}\0{request_id}".encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(mac).decode()[:_SECRET_CHARACTERS]


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Tokens:
    """Looks tokens up through `find` (secret's SHA-256 -> record) and remembers those that are good for a moment."""

    def __init__(self, find: Callable[[str], PutToken | None], clock: Callable[[], tuple[float, float]]) -> None:
        self._find = find
        self._clock = clock  # (monotonic, wall) seconds
        self._known: OrderedDict[str, tuple[float, PutToken, Actor]] = OrderedDict()

    def actor(self, header: str | None) -> Actor:
        """Who the Authorization header stands for; raises NotAuthenticated, in words that tell a thief nothing."""
        if not header:
            raise NotAuthenticated("this needs a token", "log in with gpuq login, or set GPUQ_TOKEN")
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
            raise NotAuthenticated("the Authorization header holds no gpuq token", "send 'Bearer gpuq_...'")
        monotonic, wall = self._clock()
        digest = sha256(token)
        known = self._known.get(digest)
        if known is None or known[0] < monotonic:
            record = self._find(digest)
            if record is None:
                raise NotAuthenticated("the token is not known here", "ask an admin for one, or log in again")
            known = monotonic + _REMEMBER_SECONDS, record, Actor(record.user, record.role, record.node)
            self._known[digest] = known
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        _, record, actor = known
        if record.revoked_at is not None:
            raise NotAuthenticated("the token was revoked", "ask an admin for another")
        if record.expires_at is not None and record.expires_at <= wall:
            raise NotAuthenticated("the token has expired", "ask an admin for another, or log in again")
        return actor

    def forget(self) -> None:
        """To be called whenever tokens changed."""
        self._known.clear()


def check_role(actor: Actor, least: str) -> None:
    if actor.role not in MAY[least]:
        wanted = "the agent of a node" if least == "node" else f"role {least}"
        raise NotAuthorised(f"a token of role {actor.role} may not do this", f"it takes {wanted}")
