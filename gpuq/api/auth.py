"""Who asks: tokens made, and looked up. Only their SHA-256 is ever kept or compared."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable

from gpuq.api.backoff import Backoff
from gpuq.changes import PutToken
from gpuq.errors import NotAuthenticated, NotAuthorised
from gpuq.model import ROLES, NodeName, Now
from gpuq.service.commands import Actor
from gpuq.view import ClusterView

_SECRET_CHARACTERS = 32  # of base64: 192 random bits
_ID_CHARACTERS = 12  # of a token's hash: what it is called in lists
_MAX_TOKEN = 512  # characters; a longer one is not hashed

# Least role of a route -> roles that may use it. 'node' and 'join' are apart: what an agent has is of no use elsewhere.
MAY: dict[str, frozenset[str]] = {
    "viewer": frozenset({"viewer", "user", "admin"}),
    "user": frozenset({"user", "admin"}),
    "admin": frozenset({"admin"}),
    "node": frozenset({"node"}),
    "join": frozenset({"join"}),
}
_WANTED = {"node": "the agent of a node", "join": "a join token"}


def new_token(
    role: str,
    user: str,
    ca_sha256: str,
    now: float,
    *,
    node: NodeName | None = None,
    secret: str | None = None,
    expires_at: float | None = None,
) -> tuple[str, PutToken]:
    """A token's text, to be shown once, and what the store keeps of it."""
    text = f"gpuq_{role}_{secret or secrets.token_urlsafe(24)}_{ca_sha256}"
    digest = sha256(text)
    return text, PutToken(digest[:_ID_CHARACTERS], digest, role, user, node, now, expires_at)


def derived_secret(key: bytes, whose: str, request_id: str) -> str:
    """The secret for a token asked for with this request id: a request sent twice gets the same token twice.

    The store keeps only hashes, so the answer could not be repeated from there.
    """
    mac = hmac.new(key, f"{whose}\0{request_id}".encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(mac).decode()[:_SECRET_CHARACTERS]


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Tokens:
    """Says whose a token is.

    view is the cluster of now, with the tokens that count; find gives, by a secret's SHA-256, also those that do not
    count any more, for their holder to be told why.
    """

    def __init__(
        self, view: Callable[[], ClusterView], find: Callable[[str], PutToken | None], clock: Callable[[], Now]
    ) -> None:
        self._view, self._find, self._clock = view, find, clock
        self._backoff = Backoff()

    def actor(self, header: str | None, address: str | None = None) -> Actor:
        """Who the Authorization header stands for; raises NotAuthenticated, in words that tell a thief nothing.

        An address that fails again and again is told to wait (TooManyFailures). A good token gets in all the same:
        nobody is kept out by what others do, not even behind the same router.
        """
        if not header:
            raise NotAuthenticated("this needs a token", "log in with gpuq login, or set GPUQ_TOKEN")
        now = self._clock()
        try:
            return self._holder(header, now, address)
        except NotAuthenticated:
            if address is not None:
                self._backoff.failed(address, now.monotonic)
            raise

    def _holder(self, header: str, now: Now, address: str | None) -> Actor:
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
            raise NotAuthenticated("the Authorization header holds no gpuq token", "send 'Bearer gpuq_...'")
        digest = sha256(token)
        view = self._view()
        record = view.tokens.get(digest[:_ID_CHARACTERS])
        if record is None or not hmac.compare_digest(record.secret_sha256, digest):
            raise self._refused(self._find(digest))
        if record.expires_at is not None and record.expires_at <= now.wall:
            raise NotAuthenticated("the token has expired", "ask an admin for another, or log in again")
        role = record.role
        if role in ROLES:
            user = view.users.get(record.user)
            if user is None:
                raise NotAuthenticated(f"the token's user {record.user} is not known here", "ask an admin")
            role = user.capped(role)
        return Actor(record.user, role, record.node, address)

    @staticmethod
    def _refused(record: PutToken | None) -> NotAuthenticated:
        if record is None:
            return NotAuthenticated("the token is not known here", "ask an admin for one, or log in again")
        if record.node is not None:
            return NotAuthenticated(
                f"the token of node {record.node} was revoked: the node was removed, or given another token",
                "to bring it back: gpuq token create --role join, then gpuq agent --token - with it",
            )
        return NotAuthenticated("the token was revoked", "ask an admin for another")


def check_role(actor: Actor, least: str) -> None:
    if actor.role not in MAY[least]:
        wanted = _WANTED.get(least, f"role {least}")
        raise NotAuthorised(f"a token of role {actor.role} may not do this", f"it takes {wanted}")
