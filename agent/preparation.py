"""What comes before a rank is handed to the launcher: its folder, its account, its script, its environment.

The account of a job is looked up at the last moment, for each job anew: one that was taken away since runs no more.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import Any

from agent.accounts import Account, LocalAccounts, own_account
from agent.cgroups import NONE, Cgroups
from agent.environment import build, granted, output_files, setup_steps
from agent.login import Login
from agent.runs import RunDir
from gpuq.accounts import EVERYONES
from gpuq.protocol import RunOrder


class Preparation:
    """Makes what a supervisor is told to run, but for the lease; see supervisor.py for what it reads of that."""

    def __init__(self, boot_id: str, accounts: LocalAccounts | None, cgroups: Cgroups = NONE) -> None:
        """accounts: without it all jobs run in the agent's account."""
        self._cgroups = cgroups
        self._boot_id = boot_id
        self._accounts = accounts or LocalAccounts(EVERYONES)
        self._logins: dict[Account | None, Login] = {}
        self.by_uuid = False  # whether CUDA counts the GPUs otherwise than by their indices

    def at_once(self, order: RunOrder, directory: RunDir) -> dict[str, Any] | None:
        """Makes the directory; gives the launch if that needs no wait, else None: then `launch` does.

        Raises OSError.
        """
        if order.port is not None and order.rank == 0:
            _check_free(order.port)
        if not self._accounts.runs_as_agent(order.job.user):
            directory.create(None)
            return None
        directory.create(order.spec.script)
        base = order.spec.environment
        if base is None and (base := self._login(None).known()) is None:
            return None
        return self._launch(order, directory, base, None)

    async def launch(self, order: RunOrder, directory: RunDir) -> dict[str, Any]:
        """The launch of a rank whose directory was made. Raises AccountRefused, OSError."""
        account = None
        if not self._accounts.runs_as_agent(order.job.user):
            account = await self._accounts.account(order.job.user)
            if order.spec.script is not None:
                directory.hand_script(order.spec.script, account.uid)
        base = order.spec.environment
        if base is None:
            base = await self._login(account).environment()
        return self._launch(order, directory, base, account)

    def _login(self, account: Account | None) -> Login:
        return self._logins.setdefault(account, Login(account))

    def _launch(
        self, order: RunOrder, directory: RunDir, base: Mapping[str, str], account: Account | None
    ) -> dict[str, Any]:
        spec, rank = order.spec, order.ranks[order.rank]
        cwd = spec.cwd or (account or own_account()).home
        argv = list(spec.command)
        if spec.script is not None:
            argv.insert(0, str(directory.script if account is None else directory.handed_script))
        return {
            "run_dir": str(directory.path),
            "boot_id": self._boot_id,
            "argv": argv,
            # Who somebody is differs between machines: the submitter's HOME is not the account's here.
            "env": build(order, base if account is None else {**base, **account.variables}, cwd, self.by_uuid),
            "kept": list(granted(order, cwd)),
            "cwd": cwd,
            "account": account and (account.uid, account.gid, account.groups),
            "setup": setup_steps(spec),
            "time_limit_seconds": order.job.time_limit_seconds,
            "grace_seconds": order.job.grace_seconds,
            "warning": spec.warning and (spec.warning.number, spec.warning.seconds, spec.warning.main_only),
            "pty": spec.pty,
            "waits": len(order.ranks) > 1,
            "files": output_files(order, cwd),
            "log_cap": order.log_cap_bytes,
            "cgroups": self._cgroups.of_run(directory.path.name, rank.memory_bytes, rank.cpus),
        }


def _check_free(port: int) -> None:
    """Raises OSError if another program has the port in which the first rank of a gang is about to listen."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of the last listener does not matter
        try:
            probe.bind(("", port))
        except OSError as error:
            raise OSError(errno.EADDRINUSE, "Address already in use", f"port {port}") from error
