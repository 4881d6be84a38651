"""By which address other machines reach this one: that of its end of the way to the controller."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

# Reserved for documentation: nobody is there, and nothing is sent. A route to it is the one to everywhere.
_ANYWHERE = "192.0.2.1"
_LOOPBACK = "127."


def own_address(controller_url: str) -> str:
    """This machine's address on the way to the controller; where that runs here, the one it goes out by.

    A loopback address where there is no other, and empty where the controller's name is not known.
    """
    there = urlsplit(controller_url)
    address = _source(there.hostname or "", there.port or 443)
    if not address.startswith(_LOOPBACK) and address != "::1":
        return address
    return _source(_ANYWHERE, 9) or address


def _source(host: str, port: int) -> str:
    """The address that packets to a host would come from; empty if there is no way."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # of a datagram socket: chooses the route, sends nothing
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError):
        return ""
