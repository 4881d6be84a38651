"""What is tried in the lab. Each scenario is given a lab of its own and says what it found in the report."""

from __future__ import annotations

import time
from typing import Any

from tests.lab.host import Cable, Host
from tests.lab.lab import BEHIND_ROUTER, NETWORK, PATIENCE_SECONDS, Gpuq, Lab, until
from tests.lab.network import cut, drop, drop_nothing, masquerade, mend
from tests.lab.report import Report

MINUTE = 60.0
LOST_SECONDS = 90.0  # gpuq.view.Policy.lost_after
SUSPECT_SECONDS = 30.0


def bare_hosts_root(lab: Lab, report: Report) -> None:
    """From three bare hosts to a job of alice's on each within a minute, installed by root."""
    hosts = lab.three_hosts()
    _from_nothing([each._replace(user="root") for each in hosts], hosts[0], report)


def bare_hosts_users(lab: Lab, report: Report) -> None:
    """The same as accounts without root, and with the Pythons the other way round."""
    lab.versions.reverse()
    hosts = lab.three_hosts()
    _from_nothing(hosts, hosts[0], report)


def _from_nothing(hosts: list[Gpuq], person: Gpuq, report: Report) -> None:
    head, *others = hosts
    pythons = ", ".join(f"{each.host.name}: {each.shell('python3 -V').split()[1]}" for each in hosts)
    began = time.monotonic()
    with report.step("copy the file to three hosts", f"as {head.user}; {pythons}"):
        for each in hosts:
            each.copy()
    with report.step("start the cluster on h1"):
        head.start_cluster()
    with report.step("join h2 and h3"):
        _join(head, others)
    if person != head:
        with report.step(f"let {person.user} in", "user add, token create, the file, login"):
            head("user", "add", person.user)
            token = head("token", "create", "--user", person.user)
            person.copy()
            person("login", head.url(), "--token", "-", stdin=token)
    with report.step("run a job on each", f"of {person.user}"):
        said = [person("run", "-w", each.host.name, "-D", "/tmp", "--wrap", "id -un; hostname") for each in hosts]
    seconds = time.monotonic() - began
    wanted = [f"{person.user}\nh{number}\n" for number in (1, 2, 3)]
    report.check("each ran on the host it was sent to, in the account of who sent it", said == wanted, said)
    report.check(f"all of it took {seconds:.1f} s, less than a minute", seconds < MINUTE, seconds)


def _join(head: Gpuq, others: list[Gpuq]) -> None:
    """Types the printed line on each of the others, and waits until they are up."""
    line = head.line_to_join()
    for each in others:
        each.start_agent(line)
    for each in others:
        head.node_becomes(each.host.name, "up")


def _cluster(lab: Lab) -> list[Gpuq]:
    """Three hosts that are a cluster of alice's."""
    with lab.turn():
        hosts = lab.three_hosts()
        for each in hosts:
            each.copy()
        hosts[0].start_cluster()
        _join(hosts[0], hosts[1:])
    return hosts


def shared_home(lab: Lab, report: Report) -> None:
    """One home directory on all hosts: each has daemon state of its own, and one unpacking does not disturb another."""
    folder = lab.machine.disks / "home"
    folder.mkdir()
    hosts = lab.three_hosts(shared_home=folder)
    head, *others = hosts
    head.copy()
    with lab.turn(), report.step("first start on all three at once"):
        starts = [
            each.host.start("./gpuq.pyz", "version", user="alice", log=f"/tmp/{each.host.name}") for each in hosts
        ]
        statuses = [start.wait(2 * PATIENCE_SECONDS) for start in starts]
    report.check("every first start came through", statuses == [0, 0, 0], statuses)
    head.start_cluster()
    _join(head, others)
    said = [head("run", "-w", each.host.name, "hostname").strip() for each in hosts]
    report.check("a job on each", said == ["h1", "h2", "h3"], said)
    states = {each.state for each in hosts}
    there = set(head.shell("echo ~/.local/state/gpuq/hosts/*").split())
    report.check("daemon state is kept apart by host", len(states) == 3 and states == there, there)
    agents = [each.json("status")["agents"][0]["name"] for each in hosts]
    report.check("status on each host is of that host", agents == ["h1", "h2", "h3"], agents)
    report.check("h2 does not take h1's controller for its own", others[0].json("status")["controller"] is None)
    others[0].host.power_off()
    others[0].host.boot()
    others[0].start_agent()
    with report.step("h2 power-cycled, a job on it"):
        said = [head("run", "-w", "h2", "hostname").strip()]
    report.check("h2 took up its own state again", said == ["h2"], said)


def client_behind_nat(lab: Lab, report: Report) -> None:
    """A laptop that nobody can reach, behind a router that masquerades and is restarted under a followed log."""
    head, *_ = _cluster(lab)
    inside = lab.switch("lab1")
    router = lab.host("router", [Cable(lab.main, f"{NETWORK}.1"), Cable(inside, f"{BEHIND_ROUTER}.1", "eth1")])
    laptop = Gpuq(lab.host("laptop", [Cable(inside, f"{BEHIND_ROUTER}.9")], f"{BEHIND_ROUTER}.1"), "alice", lab.pyz)
    _start_router(router)
    laptop.host.boot()
    laptop.host.add_user("alice")
    laptop.copy()
    with report.step("log in from behind the router"):
        token = head("token", "create", "--role", "admin")
        laptop("login", head.url(), "--token", "-", stdin=token)
    with report.step("run a job from there"):
        said = laptop("run", "-w", "h2", "-D", "/tmp", "hostname").strip()
    report.check("its output arrived", said == "h2", said)
    slowly = "for i in $(seq 30); do echo line $i; sleep 1; done"
    id = head("submit", "--parsable", "-w", "h3", "sh", "-c", slowly).strip()
    laptop.shell("touch followed")
    follower = laptop.host.start("sh", "-c", f"./gpuq.pyz logs -f {id} > followed", user="alice", log="complaints")
    until("the log begins to arrive", PATIENCE_SECONDS, lambda: "line 3\n" in laptop.read("followed"))
    with report.step("router restarted under logs -f: the log is whole", "30 lines, one a second"):
        router.power_off()
        _start_router(router)
        status = follower.wait(2 * MINUTE)
    wanted = "".join(f"line {number}\n" for number in range(1, 31))
    got = laptop.read("followed")
    report.check("not a line lost or doubled, exit status 0", (got, status) == (wanted, 0), (status, got))


def _start_router(router: Host) -> None:
    router.boot()
    router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    router.run("nft", "-f", "-", stdin=masquerade("eth0"))


def power(lab: Lab, report: Report) -> None:
    """Hosts lose their power under running jobs: a node, then the controller; and a node whose disk is gone too."""
    head, other, third = _cluster(lab)
    again = head("submit", "--parsable", "-w", "h2", "sleep", "1000").strip()
    never = head("submit", "--parsable", "-w", "h2", "--no-requeue", "sleep", "1000").strip()
    for id in (again, never):
        head.becomes(id, "RUNNING")
    other.host.power_off()
    with report.step("h2 without power is suspect", f"silent for {SUSPECT_SECONDS:.0f} s"):
        head.node_becomes("h2", "suspect", 2 * SUSPECT_SECONDS)
    report.check("its job is still held", head.job(again)["state"] == "RUNNING", head.job(again)["state"])
    with report.step("h2 starts again: its new boot id is proof, the job runs anew"):
        other.host.boot()
        other.start_agent()
        until("a second attempt", PATIENCE_SECONDS, lambda: head.job(again)["attempt"] == 2)
        found = head.becomes(again, "RUNNING")
    report.check("the first attempt was lost with the node", _cause(found["attempts"][0]) == "node_lost", found)
    lost = head.becomes(never, "FAILED")
    report.check("--no-requeue: FAILED, node_lost", _cause(lost) == "node_lost", lost)

    ids = head("submit", "--parsable", "-w", "h3", "-a", "0-4", "true").split()
    ids += [head("submit", "--parsable", "sh", "-c", "sleep 1").strip() for _ in range(3)]
    head.host.power_off()
    third("down", "--keep-jobs")
    third.start_agent()
    head.host.boot()
    with report.step("the controller's host loses power and starts again", "after an agent that waits for it"):
        head.start_cluster()
        ended = [head.becomes(id, "SUCCEEDED")["state"] for id in ids]
    report.check("no acknowledged job was lost", ended == ["SUCCEEDED"] * len(ids), ended)
    report.check("h2's job went on meanwhile", head.job(again)["attempt"] == 2, head.job(again)["attempt"])

    id = head("submit", "--parsable", "-w", "h3", "sleep", "1000").strip()
    head.becomes(id, "RUNNING")
    third.host.scrap()
    head("nodes", "remove", "h3", "--force")
    waiting = head.becomes(id, "QUEUED")
    report.check(
        "h3 removed: its job waits, the attempt was lost", _cause(waiting["attempts"][0]) == "node_lost", waiting
    )
    with report.step("h3 set up anew, joins under its old name, the job runs"):
        third.host.boot()
        third.host.add_user(third.user)
        third.copy()
        third.start_agent(head.line_to_join())
        head.becomes(id, "RUNNING")


def _cause(shown: dict[str, Any]) -> str | None:
    return (shown["cause"] or {}).get("code")


def controller_moved(lab: Lab, report: Report) -> None:
    """The controller's host gets another address; agents are told it and keep their identity, jobs go on."""
    head, other, third = _cluster(lab)
    id = head("submit", "--parsable", "-w", "h2", "sh", "-c", "sleep 20; exit 7").strip()
    head.becomes(id, "RUNNING")
    head.host.power_off()
    moved = f"{NETWORK}.99"
    lab.names[head.host.name] = moved
    head.host.cables = [head.host.cables[0]._replace(address=moved)]
    head.host.boot()
    head.start_cluster()
    with report.step("agents told of the new address, a job on each"):
        for each in (other, third):
            each("down", "--keep-jobs")
            each.start_agent(f"./gpuq.pyz agent --controller https://{moved}:7443")
        said = [head("run", "-w", each.host.name, "hostname").strip() for each in (other, third)]
    report.check("each ran it", said == ["h2", "h3"], said)
    found = head.becomes(id, "FAILED")
    report.check("the job went on through it, one attempt", (found["attempt"], found["exit_code"]) == (1, 7), found)


def partition(lab: Lab, report: Report) -> None:
    """The network fails in one direction, then altogether, for longer than a node is waited for; then it is back."""
    head, other, _ = _cluster(lab)
    waits = "while [ ! -e /tmp/end ]; do sleep 0.2; done; exit 5"
    id = head("submit", "--parsable", "-w", "h2", "sh", "-c", waits).strip()
    head.becomes(id, "RUNNING")
    drop((head.host.address, other.host.address))
    with report.step("answers to h2 are lost: suspect", f"silent for {SUSPECT_SECONDS:.0f} s"):
        head.node_becomes("h2", "suspect", 4 * SUSPECT_SECONDS)
    drop_nothing()
    with report.step("answers arrive again: up"):
        head.node_becomes("h2", "up")
    cut(other.host.port())
    with report.step("h2 is cut off: its job is LOST", f"after {LOST_SECONDS:.0f} s"):
        head.becomes(id, "LOST", seconds=2 * LOST_SECONDS)
    mend(other.host.port())
    with report.step("h2 is back: RUNNING again"):
        found = head.becomes(id, "RUNNING")
    report.check("it is the same attempt", found["attempt"] == 1, found["attempt"])
    other.shell("touch /tmp/end")
    found = head.becomes(id, "FAILED")
    report.check("its real end is reported", found["exit_code"] == 5, found["exit_code"])
