"""Tokens: expiry, revocation, and how long a look-up may be remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuq.api.auth import Tokens, derived_secret, new_token, sha256
from gpuq.errors import NotAuthenticated
from gpuq.model import PutToken

CA = "ab" * 32


class Records:
    """A store of tokens, and a clock to turn."""

    def __init__(self) -> None:
        self.found: dict[str, PutToken] = {}
        self.asked = 0
        self.now = 1000.0
        self.tokens = Tokens(self.find, lambda: (self.now, self.now))

    def find(self, digest: str) -> PutToken | None:
        self.asked += 1
        return self.found.get(digest)

    def add(self, role: str = "user", expires_at: float | None = None) -> str:
        text, record = new_token(role, "ann", CA, self.now)
        self.found[record.secret_sha256] = replace(record, expires_at=expires_at)
        return text


@pytest.fixture
def records() -> Records:
    return Records()


def test_a_token_names_its_role_and_its_ca_and_is_kept_as_a_hash() -> None:
    text, record = new_token("user", "ann", CA, 5.0)
    assert text.startswith("gpuq_user_")
    assert text.endswith(f"_{CA}")
    assert record.secret_sha256 == sha256(text)
    assert text[10:42] not in str(record)
    assert len(text) == len("gpuq_user_") + 32 + 1 + 64


def test_two_tokens_are_never_alike() -> None:
    assert new_token("user", "ann", CA, 5.0)[0] != new_token("user", "ann", CA, 5.0)[0]


def test_a_derived_secret_is_the_same_for_the_same_request_only() -> None:
    assert derived_secret(b"key", "ann", "r1") == derived_secret(b"key", "ann", "r1")
    asked = [(b"key", "ann", "r1"), (b"key", "ann", "r2"), (b"key", "bob", "r1"), (b"k", "ann", "r1")]
    others = {derived_secret(*each) for each in asked}
    assert len(others) == 4
    assert {len(secret) for secret in others} == {32}


def test_an_expired_token_is_refused_from_that_second_on(records: Records) -> None:
    header = f"Bearer {records.add(expires_at=1002.0)}"
    assert records.tokens.actor(header).user == "ann"
    records.now = 1002.0
    with pytest.raises(NotAuthenticated, match="expired"):
        records.tokens.actor(header)


def test_a_revoked_token_is_refused_at_once_when_told_and_soon_when_not(records: Records) -> None:
    text = records.add()
    header = f"bearer  {text}"
    records.tokens.actor(header)
    digest = sha256(text)
    records.found[digest] = replace(records.found[digest], revoked_at=1000.0)
    records.tokens.actor(header)
    records.now += 3.1
    with pytest.raises(NotAuthenticated, match="revoked"):
        records.tokens.actor(header)
    records.found[digest] = replace(records.found[digest], revoked_at=None)
    records.tokens.forget()
    assert records.tokens.actor(header).role == "user"


def test_a_token_in_use_is_looked_up_once_in_a_while(records: Records) -> None:
    header = f"Bearer {records.add()}"
    for _ in range(100):
        records.tokens.actor(header)
    assert records.asked == 1


def test_guesses_are_not_remembered(records: Records) -> None:
    for guess in range(50):
        with pytest.raises(NotAuthenticated):
            records.tokens.actor(f"Bearer gpuq_user_{guess}")
    good = records.add()
    assert records.tokens.actor(f"Bearer {good}").user == "ann"
