"""Whose jobs a node runs, and in which account: its agent's own word, which no controller can change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class JobsOf(str, Enum):
    EVERYONE = "everyone"  # all in the agent's account (--shared-account); also of an agent too old to say
    OWNER = "owner"  # only those of the agent's own account
    EACH = "each"  # as root: each in the account of its user on that machine


@dataclass(frozen=True, slots=True)
class Refusal:
    """That no job of this account starts on a node. text is to stand behind the node's name: 'has no account bob'."""

    account: str
    text: str


@dataclass(frozen=True, slots=True)
class Accounts:
    """Whose jobs a node runs.

    owner comes with OWNER. refused are the accounts that were asked for and are missing or not allowed there.
    """

    jobs_of: JobsOf = JobsOf.EVERYONE
    owner: str = ""
    refused: tuple[Refusal, ...] = ()

    def refusal(self, account: str) -> str:
        """Why it runs no jobs of this account, to stand behind the node's name; empty if it does.

        '' is the account of a job that was submitted before accounts were noted: that is seen when it arrives.
        """
        if self.jobs_of is JobsOf.EVERYONE or not account:
            return ""
        if self.jobs_of is JobsOf.OWNER:
            return "" if account == self.owner else f"runs only jobs of {self.owner}"
        return next((refusal.text for refusal in self.refused if refusal.account == account), "")


EVERYONES = Accounts()
