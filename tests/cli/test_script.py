from __future__ import annotations

from pathlib import Path

import pytest

from gpuq.cli.script import MAX_SCRIPT_BYTES, find_srun, read_directives, read_script
from gpuq.errors import InvalidRequest

OPTIONS = {"-t": True, "--time": True, "--mem": True, "--gres": True, "-H": False, "--hold": False, "-N": True}


def test_only_a_readable_text_file_with_an_interpreter_line_is_a_script(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\necho ü\n")
    (tmp_path / "program").write_bytes(b"\x7fELF")
    (tmp_path / "zipapp").write_bytes(b"#!/usr/bin/env python3\nPK\x03\x04\xff\xfe\0")
    (tmp_path / "null").write_bytes(b"#!/bin/sh\n\0")
    (tmp_path / "empty").touch()
    assert read_script(str(tmp_path / "script")) == "#!/bin/sh\necho ü\n"
    for other in ("program", "zipapp", "null", "empty", "missing", ".", "bad\0name"):
        assert read_script(str(tmp_path / other)) is None


def test_script_too_large_to_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"#!/bin/sh\n" + b"#" * (MAX_SCRIPT_BYTES - 10))
    assert read_script(str(path)) is not None
    path.write_bytes(b"#!/bin/sh\n" + "é".encode() * MAX_SCRIPT_BYTES)
    with pytest.raises(InvalidRequest, match="1 MiB"):
        read_script(str(path))


def test_script_with_dos_line_ends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dos").write_bytes(b"#!/bin/sh\r\necho\r\n")
    with pytest.raises(InvalidRequest, match="DOS line ends"):
        read_script(str(tmp_path / "dos"))


def test_directives_stand_before_the_first_command() -> None:
    text = """#!/bin/bash
#SBATCH -t 10   # ten minutes
# a remark

#GPUQ --mem "4 G"
##SBATCH --mem=1
#SBATCH
#SBATCHED
echo
#SBATCH --mem=9
"""
    found = read_directives("s", text, OPTIONS)
    assert found.sbatch == [(2, ["-t", "10"])]
    assert found.gpuq == [(5, ["--mem", "4 G"])]
    assert found.ignored == []


def test_unknown_sbatch_options_are_set_apart_and_known_ones_of_the_line_kept() -> None:
    text = "#!/bin/sh\n#SBATCH --mail-user ann@x --mem=4G -ot.out --exclusive -H stray -A lab -t5\n"
    found = read_directives("s", text, OPTIONS)
    assert found.sbatch == [(2, ["--mem=4G", "-H", "-t5"])]
    assert found.ignored == [(2, "--mail-user ann@x"), (2, "-ot.out"), (2, "--exclusive"), (2, "stray"), (2, "-A lab")]


@pytest.mark.parametrize("line", ["-n 1", "-n1", "--ntasks=1", "--ntasks 1", "--ntasks-per-node=1"])
def test_one_task_is_what_gpuq_does_anyway(line: str) -> None:
    assert read_directives("s", f"#!/bin/sh\n#SBATCH {line} -t 5\n", OPTIONS).sbatch == [(2, ["-t", "5"])]


@pytest.mark.parametrize("line", ["-n 4", "-n4", "--ntasks=4", "--ntasks 4", "--ntasks-per-node=8", "-n"])
def test_script_of_several_tasks_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequest, match=r"line 2 asks for .*no srun"):
        read_directives("s", f"#!/bin/sh\n#SBATCH {line}\n", OPTIONS)


def test_unclosed_quote_in_a_directive_names_its_line() -> None:
    with pytest.raises(InvalidRequest, match="s line 2: No closing quotation"):
        read_directives("s", "#!/bin/sh\n#GPUQ --mem '4\n", OPTIONS)


@pytest.mark.parametrize(
    "line",
    [
        "srun python x.py",
        "  srun",
        "/usr/bin/srun x",
        "cd /x && srun x",
        "true;srun x",
        "x | srun y",
        "A=1 B=2 srun x",
        "if srun x; then",
        "for i in 1 2; do srun x; done",
        "exec srun x",
        "time srun x",
        "! srun x",
        "( srun x )",
        "{ srun x; }",
        'y="$(srun hostname)"',
        "y=`srun hostname`",
        "cat <<< word; srun x",
    ],
)
def test_srun_where_a_command_stands_is_found(line: str) -> None:
    assert find_srun(f"#!/bin/bash\n{line}\n") == 2


@pytest.mark.parametrize(
    "line",
    [
        "# srun x",
        "echo x # ; srun y",
        "echo srun",
        "echo use srun",
        "echo '; srun x'",
        "srunner x",
        "my-srun x",
        "python srun.py",
        "which srun && echo",
        "cat <<EOF\nsrun x\nEOF",
        "cat <<-'EOF'\n\tsrun x\n\tEOF",
        "echo a \\\n  srun b",
    ],
)
def test_srun_elsewhere_is_left_alone(line: str) -> None:
    assert find_srun(f"#!/bin/bash\n{line}\n") is None


def test_srun_behind_a_here_document_is_found() -> None:
    assert find_srun("#!/bin/bash -l\ncat <<EOF\nx\nEOF\nsrun x\n") == 5


@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/bin/bash -e", "#!/usr/bin/env bash", "#! /usr/bin/env -S zsh -f"])
def test_shells_are_looked_into(first: str) -> None:
    assert find_srun(f"{first}\nsrun x\n") == 2


def test_a_script_in_another_language_is_not_a_shells() -> None:
    assert find_srun("#!/usr/bin/env python3\nsrun = 3\n") is None


def test_only_slurms_scripts_are_refused_for_srun() -> None:
    with pytest.raises(InvalidRequest, match="s line 3 calls srun"):
        read_directives("s", "#!/bin/sh\n#SBATCH -t 5\nsrun x\n", OPTIONS)
    assert read_directives("s", "#!/bin/sh\n#GPUQ -t 5\nsrun x\n", OPTIONS).gpuq
