"""Scripts as submitted: reading a `#!` file, its #GPUQ and #SBATCH lines, and what gpuq cannot run of Slurm's.

Directives stand before the first line that is a command, as in Slurm; anything after that is the script's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gpuq.errors import InvalidRequest

MAX_SCRIPT_BYTES = 1 << 20  # protocol.MAX_COMMAND_BYTES; not imported, since the protocol's classes cost 30 ms
_SHELL = re.compile(r"#!\s*\S*?(?:/env\s+(?:-\S+\s+)*(?:\S*/)?)?(?:ba|da|z|k)?sh\b")
_SRUN = re.compile(
    r"(?:^|[;&|(){`!]|\$\(|\b(?:then|do|else|elif|if|while|until|time|exec|nohup|command)\s)\s*"
    r"(?:\w+=\S*\s+)*(?:[\w./-]*/)?srun(?=\s|$)",
    re.MULTILINE,
)
_HEREDOC = re.compile(r"(?<!<)<<(?!<)-?\s*(['\"]?)(\w+)\1")
# Slurm's ways to start one program several times. 1 is what gpuq does anyway.
_TASKS = {"-n": "-n", "--ntasks": "--ntasks", "--ntasks-per-node": "--ntasks-per-node"}


class Directives(NamedTuple):
    """The arguments found, one list a directive line with its line number; ignored: text of each unknown #SBATCH
    option, for a warning."""

    gpuq: list[tuple[int, list[str]]]
    sbatch: list[tuple[int, list[str]]]
    ignored: list[tuple[int, str]]


def read_script(word: str) -> str | None:
    """The text of the `#!` file of this name, or None if it is no such file.

    A `#!` file that is not text (a zip application, a self-extracting archive) is a program like any other: None.
    """
    try:
        with open(word, "rb") as file:
            if file.read(2) != b"#!":
                return None
            data = b"#!" + file.read(MAX_SCRIPT_BYTES)
    except (
        OSError,
        ValueError,
    ):  # not there, a folder, not ours to read, a NUL in the word: then it is a program's name
        return None
    try:
        text = data[:MAX_SCRIPT_BYTES].decode()
    except UnicodeDecodeError as error:
        if len(data) <= MAX_SCRIPT_BYTES or error.start < MAX_SCRIPT_BYTES - 4:
            return None
        text = ""
    if "\0" in text:
        return None
    if len(data) > MAX_SCRIPT_BYTES:
        raise InvalidRequest(f"{word} is larger than 1 MiB, too large to store as a script", "submit it as: bash FILE")
    first, newline, _ = text.partition("\n")
    if newline and first.endswith("\r"):
        raise InvalidRequest(
            f"{word} has DOS line ends, which no interpreter accepts", f"run: sed -i 's/\\r$//' {word}"
        )
    return text


def read_directives(name: str, text: str, takes_value: Mapping[str, bool]) -> Directives:
    """The #GPUQ and #SBATCH lines of a script. takes_value: gpuq's own options, and whether each needs a value.

    Raises InvalidRequest for a script that would need several tasks or srun: run once it would do something else.
    """
    import shlex  # only scripts with directives need it

    found = Directives([], [], [])
    for number, kind, line in _directive_lines(text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise InvalidRequest(f"{name} line {number}: {error}") from None
        if kind == "#GPUQ":
            found.gpuq.append((number, words))
            continue
        known, unknown = _split_known(name, number, words, takes_value)
        found.sbatch.append((number, known))
        found.ignored.extend((number, item) for item in unknown)
    if found.sbatch and (line_number := find_srun(text)):
        raise InvalidRequest(
            f"{name} line {line_number} calls srun, which gpuq does not have yet",
            "take 'srun' away if the step needs one task only",
        )
    return found


def _directive_lines(text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.strip()
        if plain and not plain.startswith("#"):
            return
        for kind in ("#GPUQ", "#SBATCH"):
            if line.startswith(kind) and line[len(kind) : len(kind) + 1].isspace():
                yield number, kind, line[len(kind) :].strip()


def _split_known(
    name: str, number: int, words: list[str], takes_value: Mapping[str, bool]
) -> tuple[list[str], list[str]]:
    """Slurm's options that gpuq has, and the text of those it has not. An unknown option takes the next word with it
    unless that is an option too: Slurm's grammar cannot be known for all of them."""
    known: list[str] = []
    unknown: list[str] = []
    i = 0
    while i < len(words):
        word, i = words[i], i + 1
        if word.startswith("--"):
            option, equals, _ = word.partition("=")
            has_value = bool(equals)
        else:
            option, has_value = word[:2], len(word) > 2
        own = takes_value.get(option)
        follows = i < len(words) and not has_value and (own is True or (own is None and not words[i].startswith("-")))
        parts = [word, words[i]] if follows else [word]
        i += follows
        if option in _TASKS:
            _check_tasks(name, number, option, parts)
        elif own is None:
            unknown.append(" ".join(parts))
        else:
            known += parts
    return known, unknown


def _check_tasks(name: str, number: int, option: str, parts: list[str]) -> None:
    value = parts[1] if len(parts) > 1 else parts[0].partition("=")[2] or parts[0][2:]
    if value != "1":
        raise InvalidRequest(
            f"{name} line {number} asks for {option} {value}, and gpuq has no srun to start several tasks yet",
            "ask for one task, and start the others inside the script",
        )


def find_srun(text: str) -> int | None:
    """The number of the first line of a shell script that runs srun, or None.

    Only srun where a command stands counts: not in comments, single quotes, here-documents or as another's argument.
    """
    if not _SHELL.match(text):
        return None
    ends = begun = ""
    for number, line in enumerate(text.splitlines(), 1):
        if ends:
            ends = "" if line.strip() == ends else ends
            continue
        code = begun + re.sub(r"'[^']*'", "''", line)
        code = re.sub(r"(^|\s)#.*", "", code)
        if code.endswith("\\"):
            begun = code[:-1]
            continue
        begun = ""
        if _SRUN.search(code):
            return number
        heredoc = _HEREDOC.search(line)
        ends = heredoc[2] if heredoc else ""
    return None
