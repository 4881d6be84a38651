"""What may come in: every body and the bounds of every field, checked by pydantic, refused in one line.

`Submission` here has the fields of protocol.Submission with their bounds; a test keeps the two alike. Strict: a number
in quotes is not a number, and a field nobody knows is refused, for ignoring it would run something else than asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gpuq import protocol
from gpuq.api.failures import invalid
from gpuq.constraint import MAX_CONSTRAINT
from gpuq.errors import InvalidRequest
from gpuq.model import Dependency, DependencyKind, JobId, OnLost, WarningSignal
from gpuq.protocol import (
    MAX_ARGUMENT_BYTES,
    MAX_COMMAND_BYTES,
    MAX_DEPENDENCIES,
    MAX_ENVIRONMENT_BYTES,
    MAX_GPUS,
    MAX_NAME,
    MAX_STREAM_COMMAND_BYTES,
    Selection,
    StreamAim,
    StreamKind,
)
from gpuq.states import JobState
from gpuq.units import MAX_SECONDS, MAX_WARNING_SECONDS, WARNING_SECONDS

MAX_COUNT = 1_000_000  # of GPUs, CPUs, retries: more is a typing error, and far from what SQLite or JSON lose
MAX_MEMORY = 1 << 60
MAX_WALL = 253_402_300_799  # the last second RFC 3339 can write
MAX_PATH = 4096  # Linux' PATH_MAX
MAX_TEXT = 1000  # a comment, or why a node is cordoned
MAX_SELECTED = 100_000  # ids one verb may name

# Names are shown in tables and terminals: no control characters, no line ends, nothing invisible at either end.
_NAME = r"^[^\s\p{C}](?:[^\p{C}]*[^\s\p{C}])?$"
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_ID = r"^[0-9]{1,18}(?:_[0-9]{1,10})?$"
_ABSOLUTE = "^/"
_PTY = r"^(?:[0-9]{1,4}x[0-9]{1,4})?$"
_TERM = r"^[A-Za-z0-9._+-]*$"
FORMS = {
    _NAME: "must be printable text without a blank at either end",
    _WORD: "may hold letters, digits, '.', '_' and '-', and begins with a letter or digit",
    _ID: "is not a job id such as 1042 or 1042_7",
    _ABSOLUTE: "must be an absolute path",
    _PTY: "is not rows and columns such as 24x80",
    _TERM: "is not the name of a terminal",
}

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=_NAME)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=_WORD)]
Id = Annotated[str, StringConstraints(pattern=_ID)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
Wall = Annotated[float, Field(ge=0, le=MAX_WALL, allow_inf_nan=False)]
Priority = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]
Pty = Annotated[str, StringConstraints(pattern=_PTY)]
OutFile = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATH)]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATH)]
Nodes = Annotated[tuple[Word, ...], Field(max_length=1000)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class DependsOn(_Body):
    """Another job whose end this one waits for."""

    kind: DependencyKind
    job: Id


class Warn(_Body):
    """A signal before the time limit."""

    number: Literal[1, 2, 3, 10, 12, 14, 15, 18, 24] = Field(description="As Linux numbers it: 10 is USR1.")
    seconds: int = Field(WARNING_SECONDS, ge=0, le=MAX_WARNING_SECONDS, description="Before the time limit.")
    main_only: bool = Field(False, description="To the main process alone.")


class Submission(_Body):
    """A job to run. Only `command` or `script` must be given."""

    command: tuple[str, ...] = Field((), description="Argument list; no shell. With a script, the script's arguments.")
    script: str | None = Field(None, description="Text of a `#!` script to store and run.")
    cwd: str | None = Field(
        None,
        max_length=MAX_PATH,
        pattern=_ABSOLUTE,
        description="Absolute path on the node; null means the account's home.",
    )
    environment: Mapping[str, str] | None = Field(
        None, description="The whole base environment; null means the account's login environment on the node."
    )
    changes: Mapping[str, str] = Field({}, description="Variables laid over the environment.")
    setup: tuple[str, ...] = Field((), max_length=100, description="Shell lines run before the command.")
    venv: RelativePath | None = Field(None, description="Python virtual environment to activate.")
    conda_env: RelativePath | None = Field(None, description="Conda environment to activate.")
    name: Name | None = None
    queue: Word | None = None
    priority: Priority | None = Field(
        None, description="Higher first; null means the cluster's default_priority, above which only admins may go."
    )
    nodes: int = Field(1, ge=1, le=10_000)
    gpus: Count | None = Field(None, description="GPUs of the whole job.")
    gpus_per_node: Count | None = None
    gpu_type: Word | None = Field(None, description="Matched against a GPU's type or name, without regard to case.")
    gpu_memory_bytes: int | None = Field(None, ge=1, le=MAX_MEMORY, description="Least memory of each GPU.")
    shared: bool = Field(False, description="Take only gpu_memory_bytes of each GPU, beside other jobs that do.")
    constraint: Annotated[str, StringConstraints(max_length=MAX_CONSTRAINT)] = Field(
        "", description="Attributes its nodes must have, such as nvlink&!rack=7 or driver>=550."
    )
    exclusive: bool = Field(False, description="No other job on its nodes while it runs.")
    cpus: Count = Field(0, description="Per node; 0 reserves none.")
    memory_bytes: int = Field(0, ge=0, le=MAX_MEMORY, description="Per node; 0 reserves none.")
    only_nodes: Nodes = ()
    not_nodes: Nodes = ()
    time_limit_seconds: Seconds | None = None
    scheduling_timeout_seconds: Seconds | None = Field(None, description="FAILED when it has not started by then.")
    grace_seconds: int | None = Field(None, ge=0, le=86_400, description="Between SIGTERM and SIGKILL.")
    warning: Warn | None = Field(None, description="A signal before the time limit, for a checkpoint.")
    output: OutFile | None = Field(None, description="File on the node that gets what the log gets, such as o-%j.txt.")
    error: OutFile | None = Field(None, description="Another for standard error.")
    append: bool = Field(False, description="To these files, rather than to cut them to nothing first.")
    dependencies: tuple[DependsOn, ...] = Field((), max_length=MAX_DEPENDENCIES)
    singleton: bool = Field(False, description="To wait for the end of its user's live jobs of the same name.")
    array: str | None = Field(None, min_length=1, max_length=10_000, description="For example 0-99%8.")
    begin_at: Wall | None = Field(None, description="Seconds since the epoch; not to start before.")
    hold: bool = False
    max_retries: Annotated[int, Field(ge=0, le=1000)] = 0
    requeue: bool = Field(True, description="Whether it runs again when its node is lost for good.")
    on_lost: OnLost = OnLost.KEEP
    comment: Text = ""
    pty: Pty = Field("", description="With '24x80' the command runs on such a terminal, for a stream of kind terminal.")


class Selected(_Body):
    """Which jobs: ids, or filters that must all hold."""

    ids: tuple[Id, ...] = Field((), max_length=MAX_SELECTED, description="'1042' names all elements of an array.")
    user: Annotated[str, StringConstraints(max_length=MAX_NAME)] | None = None
    queue: Word | None = None
    state: JobState | None = None
    name: Name | None = None
    force: bool = Field(False, description="End a LOST job without proof that it is gone.")

    def selection(self) -> Selection:
        """Raises InvalidRequest when nothing is named: that would mean every job of everyone."""
        state = None if self.state is None else self.state.value
        if not self.ids and self.user is self.queue is state is self.name is None:
            raise InvalidRequest("no job is named", "give ids, or a filter such as user or state")
        return Selection(tuple(map(JobId, self.ids)), self.user, self.queue, state, self.name)


class JobChanges(_Body):
    """New values for a job; what is left out stays as it is."""

    priority: Priority | None = None
    time_limit_seconds: Seconds | None = None
    name: Name | None = None
    comment: Text | None = None
    begin_at: Wall | None = None
    max_retries: Annotated[int, Field(ge=0, le=1000)] | None = None


class NewStream(_Body):
    """What of a running job to connect to."""

    kind: StreamKind = Field(
        description="shell: a process in the job's environment; port: where the job listens; terminal: of run --pty."
    )
    rank: Annotated[int, Field(ge=0, le=10_000)] = 0
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, description="With port: of the node's loopback.")
    command: tuple[str, ...] = Field((), max_length=1000, description="With shell: argument list instead of a shell.")
    pty: Pty = Field("", description="With shell: on a pseudo-terminal of so many rows and columns, such as 24x80.")
    term: Annotated[str, StringConstraints(max_length=MAX_NAME, pattern=_TERM)] = Field("", description="Its TERM.")

    def aim(self) -> StreamAim:
        """Raises InvalidRequest where kind and the rest do not go together."""
        if (self.port is not None) != (self.kind is StreamKind.PORT):
            raise InvalidRequest("port: is for kind port, and needed there")
        if self.kind is not StreamKind.SHELL and (self.command or self.pty):
            raise InvalidRequest("command and pty are for kind shell")
        if sum(map(_size, self.command)) > MAX_STREAM_COMMAND_BYTES:
            raise InvalidRequest(f"command: it is longer than {MAX_STREAM_COMMAND_BYTES:,} bytes")
        return StreamAim(self.kind, self.port or 0, self.command, self.pty, self.term)


class NewNode(_Body):
    name: Word


class Removal(_Body):
    force: bool = Field(False, description="The machine is gone for good: what runs there counts as dead.")


class NewToken(_Body):
    role: Literal["viewer", "user", "admin", "node", "join"] | None = Field(
        None, description="At most the user's, which is also what null means. node: an agent's; join: for new nodes."
    )
    user: Word | None = Field(None, description="Whose it is; null means yours.")
    node: Word | None = Field(None, description="With role node: which; its earlier tokens are revoked.")
    expires_seconds: Seconds | None = Field(None, description="Null means never; for role join an hour.")


class NewUser(_Body):
    name: Word
    role: Literal["viewer", "user", "admin"] = Field("user", description="The most that a token of this user may do.")


class NewSettings(_Body):
    settings: Mapping[str, Any] = Field(
        description="A document as GET /settings has it; what it leaves out, or has as null, has its default."
    )


class Role(_Body):
    role: Literal["viewer", "user", "admin"]


class Leaving(_Body):
    cancel_jobs: bool = Field(False, description="Cancel the user's jobs that have not ended.")
    give_jobs_to: Word | None = Field(None, description="Or make them this user's.")


class Nothing(_Body):
    """An empty object."""


class Why(_Body):
    text: Text = Field("", description="Shown beside the node.")


class Emptied(Why):
    requeue: bool = Field(False, description="Stop what runs there, to be queued again, unless it may not run again.")


class Whole(Why):
    gpu: int | None = Field(
        None, ge=0, lt=MAX_GPUS, description="Only this one of its GPUs, which is quarantined for a fault."
    )


Body = TypeVar("Body", bound=_Body)


def parse(model: type[Body], body: bytes) -> Body:
    """The body as a model; raises InvalidRequest naming the first field that is wrong."""
    try:
        parsed = model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise invalid(error, FORMS) from None
    # An escape is the only way a NUL gets through JSON, so most bodies need no look at each string.
    if b"\\u0000" in body:
        for name, value in parsed:
            _refuse_nul(name, value)
    return parsed


def submission(body: bytes) -> protocol.Submission:
    """A submit's body, checked field by field; raises InvalidRequest."""
    asked = parse(Submission, body)
    if not asked.command and asked.script is None:
        raise InvalidRequest("command: there is nothing to run", "give a command or a script")
    # Decoded text is never longer than its JSON, so a small body cannot hold anything too large.
    if len(body) > MAX_ARGUMENT_BYTES:
        _check_sizes(asked)
    _check_variables("environment", asked.environment or {})
    _check_variables("changes", asked.changes)
    fields = dict(asked.__dict__)
    if asked.warning is not None:
        fields["warning"] = WarningSignal(**asked.warning.__dict__)
    if asked.dependencies:
        fields["dependencies"] = tuple(Dependency(d.kind, JobId(d.job)) for d in asked.dependencies)
    return protocol.Submission(**fields)


def _refuse_nul(field: str, value: object) -> None:
    """No path, argument, variable or name can hold a NUL, on any system gpuq runs on."""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest(f"{field}: holds a NUL character")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_nul(field, key)
            _refuse_nul(field, item)
    elif isinstance(value, tuple):
        for item in value:
            _refuse_nul(field, item)


def _check_variables(field: str, variables: Mapping[str, str]) -> None:
    for name in variables:
        if not name or "=" in name:
            raise InvalidRequest(f"{field}: '{name[:60]}' is not a variable's name", "it is empty or holds a '='")


def _check_sizes(asked: Submission) -> None:
    """Limits the kernel of a node would set anyway, named here while the user still looks."""
    words = [*asked.command, *asked.setup]
    _check_size("command", max(map(_size, words), default=0), MAX_ARGUMENT_BYTES, "its longest argument")
    _check_size("command", sum(map(_size, words)), MAX_COMMAND_BYTES, "it")
    _check_size("script", _size(asked.script or ""), MAX_COMMAND_BYTES, "it")
    for field, variables in (("environment", asked.environment or {}), ("changes", asked.changes)):
        sizes = [_size(name) + _size(value) + 2 for name, value in variables.items()]
        _check_size(field, max(sizes, default=0), MAX_ARGUMENT_BYTES, "its longest variable")
        _check_size(field, sum(sizes), MAX_ENVIRONMENT_BYTES, "it")


def _size(text: str) -> int:
    return len(text.encode())


def _check_size(field: str, size: int, limit: int, what: str) -> None:
    if size > limit:
        raise InvalidRequest(f"{field}: {what} has {size:,} bytes", f"at most {limit:,} are allowed")
