"""The files of -o and -e: they get what the log gets, and nothing that happens to them harms job or log."""

from __future__ import annotations

import asyncio
import os
import textwrap
from dataclasses import replace

import pytest

from agent.environment import output_files
from gpuq.errors import InvalidRequest
from gpuq.model import EndReason, JobId, NodeName, Rank, StopKind
from gpuq.outfiles import check_pattern, filled_in
from tests.agent.executions import machine, order
from tests.agent.orders import run_order


def shell(text: str, **options):
    return order("bash", "-c", text, **options)


@pytest.mark.parametrize("lease", [None, 1e9])
def test_output_is_in_the_file_and_in_the_log_to_the_last_byte(tmp_path, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("seq 100000; echo error >&2; printf end", cwd=str(tmp_path), output="o-%j-%x.txt")
            end = await m.result(job, lease)
            text = (tmp_path / f"o-{job.job.id}-train.txt").read_bytes()
            assert (end.exit_code, m.log(job)) == (0, text)
            assert text == b"".join(b"%d\n" % n for n in range(1, 100_001)) + b"error\nend"

    asyncio.run(scenario())


def test_standard_error_has_a_file_of_its_own(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo out; echo err >&2", cwd=str(tmp_path), output="out", error=str(tmp_path / "err"))
            await m.result(job)
            found = [(tmp_path / name).read_text() for name in ("out", "err")]
            assert (found, sorted(m.log(job).split())) == (["out\n", "err\n"], [b"err", b"out"])
            job = shell("echo out; echo err >&2", cwd=str(tmp_path), error="only")
            await m.result(job)
            assert ((tmp_path / "only").read_text(), sorted(m.log(job).split())) == ("err\n", [b"err", b"out"])

    asyncio.run(scenario())


@pytest.mark.parametrize(("append", "left"), [(True, "before\nnow\n"), (False, "now\n")])
def test_a_file_that_is_there_is_cut_or_appended_to(tmp_path, append, left):
    async def scenario():
        (tmp_path / "out").write_text("before\n")
        async with machine(tmp_path) as m:
            await m.result(shell("echo now", cwd=str(tmp_path), output="out", append=append))
            assert (tmp_path / "out").read_text() == left

    asyncio.run(scenario())


def test_a_file_that_cannot_be_opened_fails_the_job_in_words_before_it_starts(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.result(shell("touch began", cwd=str(tmp_path), output="missing/out"))
            assert end.reason is EndReason.LAUNCH_FAILED
            assert end.text == "cannot write the files of -o and -e: No such file or directory"
            assert not (tmp_path / "began").exists()

    asyncio.run(scenario())


def test_a_full_disk_under_the_file_costs_the_file_only(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo one; sleep 0.1; echo two", output="/dev/full")
            end = await m.result(job)
            said = b"one\n\n[gpuq] /dev/full gets no more of this: No space left on device\ntwo\n"
            assert (end.exit_code, m.log(job)) == (0, said)

    asyncio.run(scenario())


def test_what_a_job_writes_when_it_is_told_to_end_arrives(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            text = "trap 'sleep 0.1; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"
            job = shell(text, cwd=str(tmp_path), output="out")
            m.executor.launch(job)
            await m.logged(job, b"up")
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 20)
            end = await m.end(job)
            text = (tmp_path / "out").read_text()
            assert (end.exit_code, text.split()[0], text.split()[-1]) == (0, "up", "saved")

    asyncio.run(scenario())


def test_a_reader_that_goes_away_costs_its_fifo_only(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            os.mkfifo(tmp_path / "fifo")
            reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
            job = shell("echo one; read < go; echo two; echo three", cwd=str(tmp_path), output="fifo")
            os.mkfifo(tmp_path / "go")
            m.executor.launch(job)
            await m.logged(job, b"one")
            os.close(reader)
            (tmp_path / "go").write_text("now\n")
            end = await m.end(job)
            said = f"\n[gpuq] {tmp_path}/fifo gets no more of this: Broken pipe\n".encode()
            assert said in m.log(job)
            assert (end.exit_code, m.log(job).replace(said, b"")) == (0, b"one\ntwo\nthree\n")

    asyncio.run(scenario())


def test_a_job_that_will_not_wait_for_its_output_costs_its_other_output_nothing(tmp_path):
    text = """
        import os
        os.set_blocking(1, False)
        for n in range(3000):
            try:
                os.write(1, b"." * 4096)
            except BlockingIOError:
                pass
            os.write(2, b"%d\\n" % n)
    """

    async def scenario():
        async with machine(tmp_path) as m:
            job = order("python3", "-c", textwrap.dedent(text), cwd=str(tmp_path), error="err")
            end = await m.result(job)
            expected = b"".join(b"%d\n" % n for n in range(3000))
            assert (end.exit_code, end.signal, (tmp_path / "err").read_bytes() == expected) == (0, None, True)
            assert m.log(job).replace(b".", b"") == expected

    asyncio.run(scenario())


def test_the_patterns_are_slurms():
    plain = run_order(output="%u/%x-%A_%3a-%j.%N.%n.%t%%")
    job = replace(plain.job, id=JobId("1042_7"), index=7, name="a/b")
    ranks = (Rank(NodeName("n1"), (), 0, 0), Rank(NodeName("n2"), (), 0, 0))
    named = output_files(replace(plain, job=job, ranks=ranks, rank=1), "/work")
    assert named == ("/work/anna/a_b-1042_007-1042_7.n2.1.1%",) * 2 + (False,)
    assert output_files(run_order(output="/abs-%a"), "/work")[0] == "/abs-0"
    assert output_files(run_order(), "/work") == (None, None, False)


@pytest.mark.parametrize("pattern", ["", "a/", "%", "%z", "%100j", "a\nb"])
def test_what_names_no_file_is_refused(pattern):
    with pytest.raises(InvalidRequest):
        check_pattern("-o", pattern)


def test_a_name_cannot_lead_into_another_folder():
    assert filled_in("%x", {"x": "../../etc/passwd"}) == ".._.._etc_passwd"
