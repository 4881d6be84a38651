"""Whose jobs this agent runs, and in which account: what this machine says, whatever its controller does.

An agent that is root runs each job in the account of its user here. STATE/accounts.toml limits whose; it is read anew
for each job, so a change counts from the next one on:

    min_uid = 1000          # accounts below it are the system's
    allow_groups = []       # if any are named, only members of one of them
    deny_groups = []        # never members of these
    allow_nologin = false   # whether accounts whose shell is nologin or false may run jobs

Never is a job run as uid 0, under whatever name, nor in the accounts that stand for nobody.
"""

from __future__ import annotations

import asyncio
import ctypes
import grp
import logging
import os
import pwd
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

from gpuq.accounts import EVERYONES, Accounts, JobsOf, Refusal
from gpuq.config import parse_toml, running_as
from gpuq.errors import GpuqError, InvalidRequest

logger = logging.getLogger(__name__)

LOOKUP_SECONDS = 10.0  # a directory service that does not answer must not hold up the job without end
CHECK_SECONDS = 60.0  # between looks whether an account that was refused may run jobs now
MAX_REFUSED = 256  # names kept of those refused, the last ones: a controller must not be able to fill memory
_LARGEST_NAME = 256
_UID_0 = "uid 0 is root's (see agent --root-jobs)"
# -1 means "leave it as it is" to setresuid and setresgid: root. The others own what belongs to nobody.
_NOBODY = (-1, 65534, 2**32 - 2)

_libc = ctypes.CDLL(None)


class AccountRefused(Exception):
    """No job of this account starts here. The text is to stand behind the node's name."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine; groups are all it is in, its own among them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    @property
    def variables(self) -> dict[str, str]:
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


@dataclass(frozen=True, slots=True)
class AccountRules:
    """What accounts.toml says; see above."""

    min_uid: int = 1000
    allow_groups: tuple[str, ...] = ()
    deny_groups: tuple[str, ...] = ()
    allow_nologin: bool = False


def read_rules(path: Path) -> AccountRules:
    """The rules in a file, or the defaults if there is none.

    Raises InvalidRequest for a file that says nothing sensible, or that others than this account may write.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return AccountRules()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidRequest(f"{path} may be written by others", "chown it to root and chmod it to 600")
    given = parse_toml(text, str(path))
    rules = AccountRules()
    unknown = given.keys() - set(AccountRules.__slots__)
    if unknown:
        raise InvalidRequest(f"{path}: there is no setting '{min(unknown)}'", "see docs/security.md")
    changes = {name: _checked(name, value, getattr(rules, name), path) for name, value in given.items()}
    return replace(rules, **changes)


def _checked(name: str, value: object, default: object, path: Path) -> Any:
    """A value of accounts.toml, as it is kept; it has to be of its default's kind."""
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise InvalidRequest(f'{path}: {name} must be a list of names such as ["gpu"]')
    if type(value) is not type(default):
        raise InvalidRequest(f"{path}: {name} must be {'true or false' if default is False else 'a number'}")
    if isinstance(value, int) and name == "min_uid" and value < 1:
        raise InvalidRequest(f"{path}: min_uid must be at least 1: jobs are never run as root by these rules")
    return value


def look_up(name: str, rules: AccountRules) -> Account:
    """The account of this name on this machine; raises AccountRefused if there is none, or none that may run jobs.

    It is asked for by name: a directory service need not list its accounts. May block as long as that takes.
    """
    if not 0 < len(name) <= _LARGEST_NAME or not name.isprintable() or set(name) & set("/: ") or name in (".", ".."):
        raise AccountRefused(f"does not allow {name[:_LARGEST_NAME]!r}: no account can be called that")
    try:
        entry = pwd.getpwnam(name)
        groups = _groups(name, entry.pw_gid)
    except (KeyError, ValueError, OSError):  # not encodable, or no answer from where accounts are kept
        raise AccountRefused(f"has no account {name}") from None
    reason = _barred(entry, rules) or _wrong_groups(set(groups), rules)
    if entry.pw_name != name:
        reason = f"it is called {entry.pw_name} there"
    if reason:
        raise AccountRefused(f"does not allow {name}: {reason}")
    return Account(name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir or "/", entry.pw_shell or "/bin/sh")


def own_account() -> Account:
    """The account of this process."""
    entry = pwd.getpwuid(os.getuid())
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, (), entry.pw_dir, entry.pw_shell)


def _groups(name: str, gid: int) -> tuple[int, ...]:
    """All groups of an account, gid among them: os.getgrouplist, but that would stop all threads while it asks."""
    room = ctypes.c_int(64)
    while True:
        found = (ctypes.c_uint * room.value)()
        if _libc.getgrouplist(name.encode(), ctypes.c_uint(gid), found, ctypes.byref(room)) >= 0:
            return tuple(found[: room.value])


def _barred(entry: pwd.struct_passwd, rules: AccountRules) -> str:
    """Why an account may not run jobs by what it is, or ''."""
    if entry.pw_uid == 0:
        return _UID_0
    if entry.pw_uid < rules.min_uid:
        return f"uid {entry.pw_uid} is below {rules.min_uid}"
    if entry.pw_uid in _NOBODY or entry.pw_gid in _NOBODY:
        return f"uid {entry.pw_uid} with group {entry.pw_gid} is nobody's"
    if not rules.allow_nologin and os.path.basename(entry.pw_shell) in ("nologin", "false"):  # noqa: PTH119
        return f"its shell is {entry.pw_shell}"
    return ""


def _wrong_groups(groups: set[int], rules: AccountRules) -> str:
    """Why an account may not run jobs by the groups it is in, or ''."""
    for group in rules.deny_groups:
        try:
            if grp.getgrnam(group).gr_gid in groups:
                return f"it is in group {group}"
        except (KeyError, ValueError, OSError):  # who is in it cannot be known, so nobody is let in
            return f"there is no group {group}, which is denied"
    allowed = set()
    for group in rules.allow_groups:
        with suppress(KeyError, ValueError, OSError):
            allowed.add(grp.getgrnam(group).gr_gid)
    if rules.allow_groups and not allowed & groups:
        return f"it is not in group {' or '.join(rules.allow_groups)}"
    return ""


@dataclass(slots=True)
class LocalAccounts:
    """The accounts that jobs may run in here, and which of those that were asked for may not.

    Lives on one event loop. own is the user whose jobs run in the agent's account all the same; changed is called when
    stated, which the controller is to be told, has become another.
    """

    stated: Accounts
    rules: Path | None = None
    own: str | None = None
    changed: Callable[[], None] = lambda: None
    _asked: dict[str, asyncio.Future[Account | AccountRefused]] = field(default_factory=dict)

    def runs_as_agent(self, user: str) -> bool:
        """Whether this user's jobs run in the account of the agent; those of others `account` knows, or refuses."""
        if self.stated.jobs_of is JobsOf.EACH:
            return user == self.own
        return not self.stated.refusal(user)

    async def account(self, user: str) -> Account:
        """The account of a user as it is now. Raises AccountRefused, and states that, if no job may run in it."""
        if self.rules is None:
            raise AccountRefused(self.stated.refusal(user))  # whatever the controller thinks
        try:
            found = await asyncio.wait_for(asyncio.shield(self._look_up(user)), LOOKUP_SECONDS)
        except asyncio.TimeoutError:
            found = AccountRefused(f"did not find the account {user} within {LOOKUP_SECONDS:.0f} s")
        others = tuple(refusal for refusal in self.stated.refused if refusal.account != user)
        if isinstance(found, Account):
            self._state(others)
            return found
        self._state((*others, Refusal(user, str(found)))[-MAX_REFUSED:])
        raise found

    async def run(self) -> None:
        """Looks again at what was refused, every CHECK_SECONDS. Never returns."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.check_again()

    async def check_again(self) -> None:
        for refusal in self.stated.refused:
            with suppress(AccountRefused):
                await self.account(refusal.account)

    def _state(self, refused: tuple[Refusal, ...]) -> None:
        if set(refused) != set(self.stated.refused):
            self.stated = replace(self.stated, refused=refused)
            logger.info("accounts.changed refused=%r", [refusal.account for refusal in refused])
            self.changed()

    def _look_up(self, user: str) -> asyncio.Future[Account | AccountRefused]:
        """One look at a time for each name, in a thread nobody waits for: it may hang for as long as a server does."""
        if user not in self._asked:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[Account | AccountRefused] = loop.create_future()
            try:
                Thread(target=self._find, args=(user, loop, future), name="account", daemon=True).start()
            except RuntimeError:
                future.set_result(AccountRefused(f"could not look up the account {user}: it can start no thread"))
                return future
            self._asked[user] = future
            future.add_done_callback(lambda _: self._asked.pop(user))
        return self._asked[user]

    def _find(
        self, user: str, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Account | AccountRefused]
    ) -> None:
        found: Account | AccountRefused
        try:
            assert self.rules is not None
            found = look_up(user, read_rules(self.rules))
        except AccountRefused as refused:
            found = refused
        except GpuqError as error:
            logger.error("accounts.rules text=%s", error.one_line())  # noqa: TRY400
            found = AccountRefused("runs nobody's jobs: its accounts.toml cannot be used")
        with suppress(RuntimeError):  # the agent has ended meanwhile
            loop.call_soon_threadsafe(future.set_result, found)


def local_accounts(state_dir: Path, shared_account: bool, root_jobs: bool) -> LocalAccounts:
    """Whose jobs an agent with these settings runs. Raises InvalidRequest if its rules cannot be used."""
    if shared_account:
        return LocalAccounts(EVERYONES)
    if os.geteuid() != 0:
        return LocalAccounts(Accounts(JobsOf.OWNER, running_as()))
    rules = state_dir / "accounts.toml"
    read_rules(rules)
    root = pwd.getpwuid(0).pw_name
    refused = () if root_jobs else (Refusal(root, f"does not allow {root}: {_UID_0}"),)
    return LocalAccounts(Accounts(JobsOf.EACH, refused=refused), rules, root if root_jobs else None)
