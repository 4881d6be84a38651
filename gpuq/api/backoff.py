"""How long an address that fails to say who it is has to wait.

Tokens are 192 random bits, which nobody guesses: this keeps whoever tries, and every script with an old token, from
costing more than an answer, and tells the administrator.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from dataclasses import dataclass

from gpuq.errors import TooManyFailures

logger = logging.getLogger(__name__)

FREE_FAILURES = 50  # before there is any waiting: agents of a rack behind one router may all have an old token
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 300.0  # doubled for each failure after a wait
FORGOTTEN_SECONDS = 900.0  # without a failure
MOST_ADDRESSES = 10_000  # the one that has failed longest ago is forgotten first


@dataclass(slots=True)
class _Record:
    failures: int = 0
    last: float = 0.0
    until: float = 0.0


class Backoff:
    """Failures by address. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        """Addresses remembered."""
        return len(self._records)

    def failed(self, address: str, now: float) -> None:
        """Counts one more failure. Raises TooManyFailures while the address has to wait; what it tries then is not
        counted, so that the wait comes to its end.
        """
        network = _network(address)
        record = self._records.get(network)
        if record is None or now - record.last > FORGOTTEN_SECONDS:
            record = self._records[network] = _Record()
        if now < record.until:
            raise TooManyFailures.for_seconds(record.until - now)
        record.failures, record.last = record.failures + 1, now
        self._records.move_to_end(network)
        beyond = record.failures - FREE_FAILURES
        if beyond >= 0:
            wait = min(FIRST_SECONDS * 2.0 ** min(beyond, 30), LONGEST_SECONDS)
            record.until = now + wait
            logger.warning("auth.backoff address=%s failures=%d wait=%.0f", network, record.failures, wait)
        while len(self._records) > MOST_ADDRESSES:
            self._records.popitem(last=False)


def _network(address: str) -> str:
    """What counts as one: an IPv4 address, or the /64 that one IPv6 host has all to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address
