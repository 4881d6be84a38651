"""The address by which a node says that others reach it."""

from __future__ import annotations

import ipaddress
import socket

from agent.address import own_address


def test_it_is_an_address_of_this_machine() -> None:
    found = ipaddress.ip_address(own_address("https://127.0.0.1:7443"))
    with socket.socket(socket.AF_INET6 if found.version == 6 else socket.AF_INET) as probe:
        probe.bind((str(found), 0))


def test_a_controller_whose_name_is_not_known_gives_the_way_out_or_nothing() -> None:
    found = own_address("https://no-such-host.invalid:7443")
    assert found in ("", own_address("https://127.0.0.1:7443"))
