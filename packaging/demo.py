"""python3 build.py demo: a cluster of one machine, real jobs on it, and a check of everything that came of them.

Takes real GPUs where there are some, and says so where it has to simulate them. Exits with 0 only if all is as it
should be; whatever happens, nothing is left running. Standard library only.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from trial import Trial, TrialError, until

SIMULATED = "8xH100-80GB"
PATIENCE_SECONDS = 60.0  # for any one thing; all of it takes a fraction on an idle machine
LINES = 100_000
FINAL = {"SUCCEEDED", "FAILED", "CANCELED"}
QUIET = {"job.allocated", "job.starting", "job.queued"}  # true, but three lines a job too many for a demo


class Demo:
    """One run of it; `wrong` counts what was not as it should be."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.wrong = 0
        self._began = time.monotonic()
        self._states: dict[str, str] = {}
        self._print_lock = threading.Lock()

    def say(self, text: str = "") -> None:
        with self._print_lock:
            print(f"{time.monotonic() - self._began:5.1f} s  {text}".rstrip() if text else "", flush=True)

    def show(self, *arguments: str) -> None:
        """A command as a person types it, and its output."""
        self.block(arguments, self.trial.gpuq(*arguments))

    def block(self, arguments: tuple[str, ...], output: str) -> None:
        with self._print_lock:
            print(f"\n         $ gpuq {' '.join(arguments)}", flush=True)
            for line in output.splitlines():
                print(f"         {line}".rstrip(), flush=True)
            print(flush=True)

    def check(self, what: str, holds: bool, instead: object = "") -> None:
        self.wrong += not holds
        self.say(f"{'ok   ' if holds else 'WRONG'}  {what}" + ("" if holds else f"; it is {instead}"))

    # ------------------------------------------------------------ the cluster

    def start(self) -> list[dict[str, Any]]:
        """Brings the cluster up; its GPUs that take work."""
        self.say(f"everything below happens in {self.trial.root} and ends with this program")
        self.say("$ gpuq up --detach")
        up = self.trial.run("up", "--detach")
        gpus = self._usable_gpus() if up.returncode == 0 else []
        if gpus:
            kinds = {gpu["name"] for gpu in gpus}
            self.say(f"real GPUs: {len(gpus)} x {', '.join(sorted(kinds))}")
            return gpus
        why = "no usable NVIDIA GPU here" if up.returncode == 0 else up.stderr.decode(errors="replace").strip()
        self.say(f"{why}: this demo goes on with SIMULATED GPUs; jobs, processes and logs are real")
        self.trial.gpuq("down")
        self.say(f"$ gpuq up --detach --simulate-gpus {SIMULATED}")
        self.trial.gpuq("up", "--detach", "--simulate-gpus", SIMULATED)
        return self._usable_gpus()

    def _usable_gpus(self) -> list[dict[str, Any]]:
        return [gpu for gpu in self.trial.json("gpus")["items"] if gpu["health"] == "ok"]

    # ------------------------------------------------------------ what happens

    def follow(self) -> subprocess.Popen[str]:
        """Prints events as they come, from a command of its own."""
        process = subprocess.Popen(
            self.trial.command("events", "-f", "--json", "--limit", "1000"),
            cwd=self.trial.work,
            env=self.trial.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._print_events, args=(process,), daemon=True).start()
        return process

    def _print_events(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            job, kind = event["job"], event["kind"]
            if job is None:
                continue
            if kind == "job.queued" or kind.removeprefix("job.").upper() in FINAL | {"RUNNING"}:
                self._states[job] = kind.removeprefix("job.").upper()
            element_on_its_way = "_" in job and kind != "job.succeeded"
            if kind not in QUIET and not element_on_its_way:
                attempt = f".{event['attempt']}" if event["attempt"] else ""
                self.say(f"{kind:<15} {job + attempt:<6} {event['text']}")

    def await_state(self, job: str, states: set[str]) -> None:
        until(f"{' or '.join(sorted(states))} of job {job}", PATIENCE_SECONDS, lambda: self._states.get(job) in states)


def run(demo: Demo) -> None:
    gpus = demo.start()
    n = len(gpus)
    follower = demo.follow()
    try:
        jobs = submit_all(demo, n)
        demo.await_state(jobs["long"], {"RUNNING"})
        if n > 1:  # else it waits for the GPU that `long` has
            demo.await_state(jobs["sweep"] + "_0", FINAL)
        of_long = demo.trial.processes(f"GPUQ_JOB_ID={jobs['long']}")
        demo.show("queue")
        demo.show("gpus")
        why = demo.trial.json("why", jobs["huge"])
        demo.show("why", jobs["huge"])
        demo.show("cancel", jobs["long"], jobs["huge"])
        for name, job in jobs.items():
            if name != "broken":
                demo.await_state(job, FINAL)
        waited = demo.trial.run("wait", jobs["broken"])
    finally:
        follower.terminate()
        follower.wait()
    demo.show("logs", "--tail", "2", jobs["lines"])
    demo.show("history")
    check_jobs(demo, jobs, n)
    demo.check("long was a shell with two programs below it", len(of_long) == 3, of_long)
    demo.check("the job that fits nowhere said so", (why["reason"] or {}).get("code") == "too_large", why["reason"])
    demo.check("gpuq wait gives the job's own exit code, 3", waited.returncode == 3, waited.returncode)
    check_nothing_is_left(demo)


def submit_all(demo: Demo, n: int) -> dict[str, str]:
    """Job ids by name. n is the number of GPUs there are."""
    submit = demo.trial.submit
    many = str(min(4, n))
    jobs = {}

    def job(name: str, *arguments: str) -> None:
        jobs[name] = submit("-J", name, *arguments)

    job(
        "flaky",
        "--max-retries",
        "2",
        "sh",
        "-c",
        "echo attempt $GPUQ_ATTEMPT_NUMBER; [ $GPUQ_ATTEMPT_NUMBER = 2 ] || exit 7",
    )
    job("multi", "-G", many, "sh", "-c", "echo CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES; sleep 1")
    job("after", "-d", f"afterok:{jobs['multi']}", "echo", "the job before me has succeeded")
    job("broken", "-G", "1", "sh", "-c", "echo about to fail >&2; exit 3")
    job("long", "-G", "1", "sh", "-c", "sleep 600 & sleep 600")
    job("sweep", "-G", "1", "-a", "0-9%3", "sh", "-c", "echo element $GPUQ_ARRAY_TASK_ID; sleep 0.3")
    job("huge", "-G", str(n + 1), "true")
    job("lines", "seq", "1", str(LINES))
    return jobs


# ---------------------------------------------------------------- what must be true now


def check_jobs(demo: Demo, jobs: dict[str, str], n: int) -> None:
    found = {name: demo.trial.json("show", job) for name, job in jobs.items()}

    def ends(name: str, state: str, exit_code: int | None, cause: str | None) -> None:
        job = found[name]
        shown = (job["state"], job["exit_code"], (job["cause"] or {}).get("code"))
        wanted = (state, exit_code, cause)
        text = ", ".join(str(part) for part in wanted if part is not None)
        demo.check(f"{name} (job {jobs[name]}): {text}", shown == wanted, shown)

    def wrote(name: str, text: str) -> None:
        log = demo.trial.run("logs", jobs[name]).stdout.decode(errors="replace")
        demo.check(f"{name}: its log is whole, {len(text):,} bytes", log == text, f"{len(log):,} bytes: {log[:60]!r}")

    ends("multi", "SUCCEEDED", 0, None)
    granted = [gpu for node in found["multi"]["nodes"] for gpu in node["gpus"]]
    demo.check(f"multi: was granted {min(4, n)} GPUs", len(granted) == min(4, n), granted)
    wrote("multi", f"CUDA_VISIBLE_DEVICES={','.join(map(str, granted))}\n")
    ends("after", "SUCCEEDED", 0, None)
    in_order = found["after"]["started_at"] >= found["multi"]["finished_at"]
    demo.check("after: started when multi had ended", in_order, found["after"]["started_at"])
    ends("broken", "FAILED", 3, "exit_code")
    wrote("broken", "about to fail\n")
    ends("long", "CANCELED", None, "canceled")
    demo.check("long: ended by SIGTERM, 15", found["long"]["signal"] == 15, found["long"]["signal"])
    ends("huge", "CANCELED", None, "canceled")
    ends("flaky", "SUCCEEDED", 0, None)
    codes = [attempt["exit_code"] for attempt in found["flaky"]["attempts"]]
    demo.check("flaky: failed with 7, was tried again, then succeeded", codes == [7, 0], codes)
    wrote("flaky", "attempt 2\n")
    ends("sweep", "SUCCEEDED", None, None)
    check_sweep(demo, jobs["sweep"])
    wrote("lines", "".join(f"{line}\n" for line in range(1, LINES + 1)))


def check_sweep(demo: Demo, job: str) -> None:
    elements = demo.trial.json("queue", "-j", job, "--expand")["items"]
    states = [element["state"] for element in elements]
    demo.check("sweep: all ten elements succeeded", states == ["SUCCEEDED"] * 10, states)
    logs = [demo.trial.gpuq("logs", f"{job}_{index}") for index in range(10)]
    demo.check("sweep: each has its own log", logs == [f"element {index}\n" for index in range(10)], logs)
    changes = [(element["finished_at"], -1) for element in elements] + [(e["started_at"], 1) for e in elements]
    at_once = most = 0
    for _, change in sorted(changes):
        at_once += change
        most = max(most, at_once)
    demo.check("sweep: never more than three ran at once", 0 < most <= 3, most)


def check_nothing_is_left(demo: Demo) -> None:
    busy = [gpu for gpu in demo.trial.json("gpus")["items"] if gpu["jobs"]]
    demo.check("all GPUs are free", not busy, busy)
    left = demo.trial.processes("GPUQ_JOB_ID=")
    demo.check("no process of any job is left", not left, left)
    demo.show("down")
    until("the end of every process of gpuq", PATIENCE_SECONDS, lambda: not demo.trial.processes())
    demo.check("no process of gpuq is left", True)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: demo.py dist/gpuq.pyz", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        with Trial(Path(arguments[0])) as trial:
            demo = Demo(trial)
            try:
                run(demo)
            except (TrialError, subprocess.TimeoutExpired) as error:
                demo.check(f"the demo could not go on: {error}", False, "as the logs below say")
                print_daemon_logs(trial)
            demo.say("everything is as it should be" if not demo.wrong else f"{demo.wrong} things are WRONG")
            return 1 if demo.wrong else 0
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130


def print_daemon_logs(trial: Trial) -> None:
    for log in sorted(trial.home.glob("hosts/*/*/daemon.log")):
        for line in log.read_text(errors="replace").splitlines()[-10:]:
            print(f"         {log.parent.name}: {line}", file=sys.stderr)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
