"""Tokens: what they hold, when they stop counting, and what a user's role takes from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuq.api.auth import Tokens, derived_secret, new_token, sha256
from gpuq.api.backoff import FORGOTTEN_SECONDS, FREE_FAILURES, LONGEST_SECONDS, MOST_ADDRESSES, Backoff
from gpuq.changes import PutToken, PutUser
from gpuq.cluster import Cluster
from gpuq.errors import NotAuthenticated, TooManyFailures
from gpuq.model import NodeName, Now, User
from tests.service.builders import Desk

CA = "ab" * 32
HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


class Records:
    """A cluster with the user ann, what a store would know of her tokens, and a clock to turn."""

    def __init__(self) -> None:
        self.found: dict[str, PutToken] = {}
        self.now = 1000.0
        self.cluster: Cluster = Desk().cluster
        self.cluster.apply([PutUser(User("ann", "admin", 1.0))])
        self.tokens = Tokens(lambda: self.cluster, self.found.get, lambda: Now(self.now, self.now))

    def add(self, role: str = "user", expires_at: float | None = None, node: str | None = None) -> str:
        name = None if node is None else NodeName(node)
        text, record = new_token(role, "ann", CA, self.now, expires_at=expires_at, node=name)
        self.put(record)
        return text

    def put(self, record: PutToken) -> None:
        self.found[record.secret_sha256] = record
        self.cluster.apply([record])

    def revoke(self, text: str) -> None:
        self.put(replace(self.found[sha256(text)], revoked_at=self.now))

    def ask(self, token: str, address: str | None = HERE) -> str:
        return self.tokens.actor(f"Bearer {token}", address).role

    def fail(self, times: int, address: str = HERE) -> None:
        for guess in range(times):
            with pytest.raises(NotAuthenticated, match="not known here"):
                self.ask(f"gpuq_user_{guess}", address)


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


def test_an_actor_says_who_asks_and_from_where(records: Records) -> None:
    actor = records.tokens.actor(f"bearer  {records.add()}", HERE)
    assert (actor.user, actor.role, actor.address) == ("ann", "user", HERE)


def test_an_expired_token_is_refused_from_that_second_on(records: Records) -> None:
    text = records.add(expires_at=1002.0)
    assert records.ask(text) == "user"
    records.now = 1002.0
    with pytest.raises(NotAuthenticated, match="expired"):
        records.ask(text)


def test_a_revoked_token_is_refused_at_once(records: Records) -> None:
    text = records.add()
    assert records.ask(text) == "user"
    records.revoke(text)
    with pytest.raises(NotAuthenticated, match="revoked"):
        records.ask(text)


def test_an_agent_of_a_removed_node_is_told_so_and_what_to_do(records: Records) -> None:
    text = records.add("node", node="n7")
    assert records.tokens.actor(f"Bearer {text}").node == "n7"
    records.revoke(text)
    with pytest.raises(NotAuthenticated, match="node n7 was revoked: the node was removed") as refused:
        records.ask(text)
    assert "gpuq token create --role join" in refused.value.hint


def test_a_token_never_does_more_than_its_user_may(records: Records) -> None:
    texts = {role: records.add(role) for role in ("viewer", "user", "admin")}
    for most, expected in (
        ("viewer", "viewer viewer viewer"),
        ("user", "viewer user user"),
        ("admin", " ".join(texts)),
    ):
        records.cluster.apply([PutUser(User("ann", most, 1.0))])
        assert " ".join(records.ask(text) for text in texts.values()) == expected


def test_a_token_that_begins_like_a_good_one_is_not_good(records: Records) -> None:
    good = records.add()
    digest = sha256(good)
    records.cluster.apply([replace(records.found[digest], secret_sha256=digest[:12] + "0" * 52)])
    with pytest.raises(NotAuthenticated):
        records.ask(good)


# ---------------------------------------------------------------- who fails again and again


def test_failures_are_free_at_first_then_cost_a_wait_that_doubles(records: Records) -> None:
    records.fail(FREE_FAILURES)
    with pytest.raises(TooManyFailures) as refused:
        records.ask("gpuq_user_x")
    assert refused.value.seconds == 2
    waits = []
    for _ in range(12):
        records.now += LONGEST_SECONDS + 1
        records.fail(1)
        with pytest.raises(TooManyFailures) as refused:
            records.ask("gpuq_user_x")
        waits.append(refused.value.seconds)
    assert waits[:4] == [3, 5, 9, 17]
    assert waits[-1] == LONGEST_SECONDS + 1


def test_what_is_tried_while_waiting_does_not_make_the_wait_longer(records: Records) -> None:
    records.fail(FREE_FAILURES)
    for _ in range(100):
        with pytest.raises(TooManyFailures):
            records.ask("gpuq_user_x")
    records.now += 1.0
    records.fail(1)


def test_a_good_token_is_never_kept_out_not_even_from_an_address_that_fails(records: Records) -> None:
    good = records.add()
    records.fail(FREE_FAILURES)
    for address in (HERE, ELSEWHERE, None):
        assert records.ask(good, address) == "user"


def test_one_address_does_not_make_another_wait(records: Records) -> None:
    records.fail(FREE_FAILURES)
    records.fail(1, ELSEWHERE)


def test_an_address_that_has_stopped_failing_is_forgotten(records: Records) -> None:
    records.fail(FREE_FAILURES)
    records.now += FORGOTTEN_SECONDS + 1
    records.fail(FREE_FAILURES)


def test_who_sends_no_token_has_not_failed(records: Records) -> None:
    for _ in range(2 * FREE_FAILURES):
        with pytest.raises(NotAuthenticated, match="needs a token"):
            records.tokens.actor(None, HERE)
    records.fail(1)


def test_an_ipv6_host_does_not_escape_by_its_many_addresses() -> None:
    backoff = Backoff()
    for host in range(FREE_FAILURES):
        backoff.failed(f"2001:db8:1:2::{host:x}", 0.0)
    with pytest.raises(TooManyFailures):
        backoff.failed("2001:db8:1:2:ffff::1", 0.0)
    backoff.failed("2001:db8:1:3::1", 0.0)
    backoff.failed("::ffff:192.0.2.1", 0.0)


def test_addresses_without_end_take_bounded_memory() -> None:
    backoff = Backoff()
    for number in range(MOST_ADDRESSES + 1000):
        backoff.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(backoff) == MOST_ADDRESSES
