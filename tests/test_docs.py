"""The documents say what the program has: all of it, and nothing else. e2e/test_docs_run.py runs what they show."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import click
import pytest

from agent.environment import granted
from gpuq import arrays, protocol, units
from gpuq.api import connections, schemas
from gpuq.api.app import ROUTES
from gpuq.cli.invoke import load
from gpuq.cli.main import ALIASES, VERBS
from gpuq.errors import GpuqError, from_json
from gpuq.model import AttemptUid, CauseCode, EndReason, Job, JobId, JobSpec, NodeName, Rank, Request, StopKind
from gpuq.node import GpuHealth
from gpuq.reasons import WaitCode
from gpuq.settings import ClusterSettings, Queue, Quota, settings_in, toml
from gpuq.states import TRANSITIONS, JobState, NodeState
from gpuq.view import Policy

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def code(text: str) -> set[str]:
    """What stands in backticks, also where a line ends between them."""
    spans: list[str] = re.findall(r"`([^`]+)`", text.replace("```", ""))
    return {" ".join(span.split()) for span in spans}


def first_cells(text: str) -> set[str]:
    return {name for row in rows(text) for name in code(row[0])}


def section(text: str, heading: str) -> str:
    """What follows a heading, up to the next one of its level."""
    level = heading.split()[0]
    match = re.search(rf"^{re.escape(heading)}$(.*?)(?=^{level} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no section '{heading}'"
    return match[1]


# ---------------------------------------------------------------- commands


def options_of(command: click.Command) -> list[click.Option]:
    """Its own, and those of its subcommands."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = [param for param in command.params if isinstance(param, click.Option)]
    return own + [option for each in below for option in options_of(each)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_subcommand_is_documented(verb: str) -> None:
    command = load(VERBS[verb].command)
    below = command.commands if isinstance(command, click.Group) else {}
    words = " ".join(code(section(page("commands.md"), f"## gpuq {verb}")))
    assert not [name for name in below if f"gpuq {verb} {name}" not in words]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_command_is_documented(verb: str) -> None:
    text = page("commands.md")
    mine = section(text, f"## gpuq {verb}")
    words = {word for span in code(mine + text.split("## gpuq up")[0]) for word in span.split()}
    options = [option for option in options_of(load(VERBS[verb].command)) if not option.hidden]
    missing = {name for option in options for name in (*option.opts, *option.secondary_opts)} - words
    assert not missing, f"docs/commands.md, gpuq {verb}: {sorted(missing)}"


def test_no_command_or_option_is_documented_that_does_not_exist() -> None:
    text = page("commands.md")
    documented = set(re.findall(r"^## gpuq (\w+)$", text, re.MULTILINE))
    assert documented == set(VERBS)
    for verb in VERBS:
        options = options_of(load(VERBS[verb].command))
        known = {name for p in options for name in (*p.opts, *p.secondary_opts)} | {"--version", "--help"}
        others = (
            {"--wait", "--dry-run", "--parsable", "--json"} if verb == "run" else set()
        )  # named as what run has not
        table = {word for cell in first_cells(section(text, f"## gpuq {verb}")) for word in cell.split()}
        assert {word for word in table if word.startswith("-")} <= known | others, verb


def test_aliases_are_documented() -> None:
    assert {f"gpuq {alias}" for alias in ALIASES} <= code(page("commands.md"))


# ---------------------------------------------------------------- API


def test_the_routes_documented_are_those_there_are() -> None:
    documented = {(*name.split(" "), row[1]) for row in rows(page("api.md")) for name in code(row[0]) if " /" in name}
    assert documented == {(route.method, route.path, route.role) for route in ROUTES}


def test_every_parameter_field_and_header_of_the_api_is_documented() -> None:
    names = {name for route in ROUTES for name in route.parameters}
    names |= {field for route in ROUTES if route.body for field in route.body.model_fields}
    assert not names - api_words()
    assert {protocol.REQUEST_ID_HEADER, protocol.PROTOCOL_HEADER} <= api_words()
    assert protocol.TLS_NAME in page("api.md")


def api_words() -> set[str]:
    """Every name in backticks in docs/api.md."""
    return {word for span in code(page("api.md")) for word in re.findall(r"[\w-]+", span)}


def test_the_table_of_errors_is_the_tree() -> None:
    table = {row[0].strip("`"): row[1:] for row in rows(section(page("api.md"), "## Errors"))[2:]}
    classes = [cls for cls in _all_below(GpuqError) if cls.__module__ == "gpuq.errors" and cls.code != "unreachable"]
    assert table == {
        cls.code: [str(cls.http_status), str(cls.exit_status), "yes" if cls.retry_helps else "no"] for cls in classes
    }
    assert all(from_json(int(http), None).http_status == int(http) for http, _, _ in table.values())


def _all_below(cls: type[GpuqError]) -> list[type[GpuqError]]:
    return [found for below in cls.__subclasses__() for found in (below, *_all_below(below))]


# ---------------------------------------------------------------- states


def test_the_arrows_documented_are_the_table() -> None:
    documented = [(row[0], row[1].strip("`"), row[2]) for row in rows(section(page("states.md"), "## Arrows"))[2:]]
    assert documented == [(s.value, e.value, to.value) for (s, e), to in TRANSITIONS.items()]


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("## States of a job", JobState),
        ("## Why a queued job waits", WaitCode),
        ("## Causes", CauseCode),
        ("## Nodes and GPUs", [*NodeState, *GpuHealth]),
    ],
)
def test_every_value_has_its_row(heading: str, values: Iterable[JobState | WaitCode | CauseCode | NodeState]) -> None:
    assert first_cells(section(page("states.md"), heading)) == {value.value for value in values}


def test_every_way_to_stop_and_end_a_rank_is_documented() -> None:
    words = code(section(page("states.md"), "## How a rank is stopped, and how it ends"))
    assert {value.value for value in (*StopKind, *EndReason)} <= words


def test_every_kind_of_event_is_documented() -> None:
    kinds = set()
    for path in (ROOT / "gpuq" / "service").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                kinds |= set(re.findall(r"^(?:job|attempt|node|token|user|settings)\.[a-z]+$", node.value))
    assert kinds
    documented = code(section(page("states.md"), "## Events"))
    assert kinds <= documented


# ---------------------------------------------------------------- settings


def test_every_variable_is_documented() -> None:
    read = set()
    for path in _sources("gpuq", "agent", "tui", "packaging/bootstrap"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read |= set(
                    re.findall(r"^(?:(?:GPUQ|XDG|SLURM|CUDA|OMP)_[A-Z_]*[A-Z]|NO_COLOR|COLORFGBG)$", node.value)
                )
    text = page("settings.md")
    assert read <= code(text)
    assert first_cells(section(text, "## Variables gpuq reads")) <= read | {"COLUMNS"}


def test_the_variables_a_job_sees_are_documented() -> None:
    job = Job(JobId("7_1"), 7, 1, "", "", "", 0, Request(), JobState.QUEUED, 0.0, 0.0)
    rank = Rank(NodeName("n"), (0,), 1, 0, gpu_share_bytes=1)
    order = protocol.RunOrder(AttemptUid("a"), job, JobSpec(("true",), None, None), 1, 0, (rank,), port=29_500)
    assert set(granted(order, "/")) <= first_cells(section(page("settings.md"), "## Variables a job sees"))


def test_the_policy_documented_is_the_policy() -> None:
    table = rows(section(page("settings.md"), "## Policy"))[2:]
    policy = Policy()
    assert {row[0].strip("`"): float(row[1]) for row in table} == {
        f.name: getattr(policy, f.name) for f in fields(Policy)
    }


@pytest.mark.parametrize(
    ("heading", "table"), [("`[cluster]`", ClusterSettings), ("`[queues.NAME]`", Queue), ("`[quotas.USER]`", Quota)]
)
def test_the_clusters_settings_documented_are_those_there_are(heading: str, table: type) -> None:
    text = section(page("settings.md"), "## The cluster's settings")
    shown = rows(text[text.index(heading) :].split("\n\n")[1])[2:]
    assert shown == [
        [
            f"`{setting.name}`",
            "not set" if setting.default is None else f"`{toml(setting.plain(setting.default))}`",
            "acts" if setting.acts else "kept only",
            setting.meaning,
        ]
        for setting in settings_in(table)
    ]


def test_the_limits_documented_are_the_limits() -> None:
    table = {row[0].strip("`"): row[1] for row in rows(section(page("settings.md"), "## Limits"))[2:]}
    assert {name for name in vars(protocol) if name.startswith("MAX_")} <= set(table)
    for name, text in table.items():
        module = next(module for module in (protocol, arrays, units, schemas, connections) if hasattr(module, name))
        number, _, unit = text.partition(" ")
        assert int(number) << {"": 0, "KiB": 10, "MiB": 20}[unit] == getattr(module, name), name


def test_the_keys_of_the_config_file_are_documented() -> None:
    source = (ROOT / "gpuq" / "config.py").read_text()
    keys = set(re.findall(r"""(?:settings|chosen)(?:\.get\(|\[)"(\w+)\"""", source))
    assert {"url", "token_file"} <= keys
    example = section(page("settings.md"), "## config.toml")
    assert not {key for key in keys if not re.search(rf"\b{key}\b", example)}


# ---------------------------------------------------------------- the map, links, the picture


def _sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]


def test_the_map_is_the_tree() -> None:
    listed = re.findall(r"^([\w./-]+\.(?:py|sql|md|toml|lock)|\.ci/run) {2,}\S", page("architecture.md"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    there = [path for path in _sources("gpuq", "agent", "tui", "bench", "packaging") if path.read_text().strip()]
    there += [*(ROOT / "gpuq").rglob("*.sql"), *(ROOT / "packaging").glob("*.lock"), *(ROOT / "docs").glob("*.md")]
    names = {str(path.relative_to(ROOT)) for path in there if path.name != "__init__.py"}
    empty = {name for name in listed if not (ROOT / name).is_file()}
    assert not empty, "docs/architecture.md names files that are not there"
    missing = sorted(names - set(listed))
    lines = "".join(f"\n{name:<36}{_first_line(ROOT / name)}" for name in missing)
    assert not missing, f"docs/architecture.md, the map, lacks:{lines}"


def _first_line(path: Path) -> str:
    return ((ast.get_docstring(ast.parse(path.read_text())) or "") if path.suffix == ".py" else "").split("\n")[0]


def test_every_folder_of_tests_is_on_the_map() -> None:
    folders = {f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/__init__.py")}
    assert folders <= code(page("architecture.md"))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.is_file(), target
        if anchor:
            assert anchor in _anchors(there.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_named_in_the_docs_are_there() -> None:
    for path in set(DOCS) - {ROOT / "docs" / "settings.md"}:  # names the files of a running gpuq
        for name in code(path.read_text()):
            if re.fullmatch(r"(?:gpuq|agent|tests|packaging|bench|docs)/[\w/.-]+", name):
                assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), f"{path.name}: {name}"


def test_functions_named_in_the_walk_are_there() -> None:
    """`name` (`path`) in docs/architecture.md: the file holds that name."""
    text = re.sub(r"\s+", " ", page("architecture.md"))
    found = re.findall(r"`([A-Za-z_.]+)` \(`((?:gpuq|agent)/[\w/]+\.py)`", text)
    assert len(found) > 15
    for name, file in found:
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", (ROOT / file).read_text()), f"{name} is not in {file}"


def test_the_first_ten_minutes_name_commands_of_build_py() -> None:
    listed = subprocess.run(
        [sys.executable, str(ROOT / "build.py"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    verbs = set(re.findall(r"python3 build\.py (\w+)", listed))
    shown = {verb for path in DOCS for verb in re.findall(r"python3 build\.py (\w+)", path.read_text())}
    assert {"demo", "test"} <= shown <= verbs
