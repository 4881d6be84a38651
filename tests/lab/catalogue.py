"""All scenarios of the lab, by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab.clocks import clock_jumps
from tests.lab.disks import disks_full
from tests.lab.lab import Lab
from tests.lab.lines import lines
from tests.lab.load import many_children, many_jobs, much_output
from tests.lab.partitions import long_partition
from tests.lab.powers import power_in_every_state
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
from tests.lab.stalled import controller_stalled
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
    "lines": lines,
    "power-in-every-state": power_in_every_state,
    "long-partition": long_partition,
    "controller-stalled": controller_stalled,
    "disks-full": disks_full,
    "clock-jumps": clock_jumps,
    "many-jobs": many_jobs,
    "much-output": much_output,
    "many-children": many_children,
}
# These must be done within some time, and run before all others.
TIMED = ("bare-hosts-root", "bare-hosts-users")
# These mostly wait and run beside all others, started in this order: the longest first.
WAITING = (
    "controller-stalled",
    "long-partition",
    "power-in-every-state",
    "lines",
    "clock-jumps",
    "disks-full",
    "many-children",
    "partition",
    "power",
)
