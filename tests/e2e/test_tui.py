"""The dashboard as a newcomer meets it: the built file in a terminal, a real cluster behind it, nothing but keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.tmux import LACKING, Terminal, terminal

pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING)

COUNTS = "n=0; while :; do n=$((n+1)); echo step $n; sleep 0.05; done"
WIDE, SMALL = (80, 24), (40, 10)


@pytest.fixture
def free(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with no job on it afterwards."""
    yield cluster
    cluster.ok("cancel", "--all")


@pytest.mark.parametrize(
    ("term", "size", "outage"),
    [("xterm-256color", WIDE, True), ("screen-256color", SMALL, True), ("linux", WIDE, False)],
)
def test_submit_watch_see_why_one_waits_read_the_log_through_an_outage_and_cancel(
    free: Cluster, term: str, size: tuple[int, int], outage: bool
) -> None:
    with terminal(free.folder, free.command("tui"), free.environment(), term, size) as at:
        at.shows("live")
        counting = submit(at, COUNTS, gpus="6", name="counts", would="starts now on")
        at.shows(counting, "RUNNING")
        patient = submit(at, "sleep 300", gpus="8", name="patient", would="waits for 6 more GPUs")
        at.shows(patient, "QUEUED", "waits for 6 more")
        at.type("2")
        at.shows("counts", "patient")

        at.type("/counts")
        at.loses("patient")
        at.keys("Enter")
        at.type("l")
        seen = last_step(at.shows("FOLLOW", "step"))
        at.until(lambda screen: last_step(screen) > seen, "the log to grow")
        if outage:
            outage_in_the_middle_of_a_log(free, at)

        at.type("q")
        at.shows("counts", "vm" if size == WIDE else "R")
        at.type("x")
        at.shows("n  No", "GPU-hours")
        at.keys("Enter")  # the focus is on No
        at.loses("n  No")
        assert free.job(counting)["state"] == "RUNNING"
        at.type("x")
        at.shows("n  No")
        at.type("y")
        assert free.ended(counting)["state"] == "CANCELED"
        at.keys("Escape")  # the filter goes
        at.until(lambda screen: any(re.search(r" R .*patient", line) for line in screen), "the other to run")

        at.keys("C-q")
        assert at.ended() == 0
        assert at.restored()


def submit(at: Terminal, command: str, *, gpus: str, name: str, would: str) -> str:
    """Fills in the form, and sends it when it says what would come of it; gives the id of the job."""
    at.type("s")
    at.shows("^s submit it")
    at.type(command)
    at.keys("Down")
    at.type(gpus)
    at.keys("Down", "Down", "Down")
    at.type(name)
    at.shows(would)
    at.keys("C-s")
    said = at.shows("Submitted job")
    return next(found[1] for line in said if (found := re.search(r"Submitted job (\d+)", line)))


def outage_in_the_middle_of_a_log(cluster: Cluster, at: Terminal) -> None:
    """The controller is killed: the log stays, and can be read. It comes back: the log goes on where it was."""
    cluster.kill("controller")
    stands = last_step(at.shows("OFFLINE", "retry in"))
    at.until(lambda screen: bool(re.search(r"OFFLINE [1-9]", screen[0])), "the age of what is shown")
    at.keys("PageUp")
    at.until(lambda screen: -1 < last_step(screen) < stands, "earlier lines")
    at.type("G")
    at.until(lambda screen: last_step(screen) == stands, "the last line that had come")
    cluster.up()
    at.loses("OFFLINE")
    at.until(lambda screen: last_step(screen) > stands, "the log to go on")
    at.shows("live")


def last_step(screen: list[str]) -> int:
    """How far the job has counted, as far as it can be seen; -1: no step is on the screen."""
    return max((int(number) for line in screen for number in re.findall(r"^step (\d+)", line)), default=-1)
