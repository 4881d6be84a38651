"""All scenarios of the lab, by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab.lab import Lab
from tests.lab.report import Report
from tests.lab.scenarios import (
    bare_hosts_root,
    bare_hosts_users,
    client_behind_nat,
    controller_moved,
    partition,
    power,
    shared_home,
)
from tests.lab.systemd import service

ALL: dict[str, Callable[[Lab, Report], None]] = {
    "bare-hosts-root": bare_hosts_root,
    "bare-hosts-users": bare_hosts_users,
    "shared-home": shared_home,
    "client-behind-nat": client_behind_nat,
    "power": power,
    "controller-moved": controller_moved,
    "partition": partition,
    "service": service,
}
WAITING = {"power", "partition"}  # these run beside all others
