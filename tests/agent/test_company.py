"""Whose end waits for that of others."""

from agent.company import COMPANY_SECONDS, Company
from tests.agent.orders import uid


def test_an_end_waits_while_a_run_that_was_launched_a_moment_ago_goes_on() -> None:
    company = Company()
    company.launched(uid("x"), 100.0)
    company.launched(uid("y"), 100.01)
    company.ended(uid("x"))
    assert company.is_there(100.02)


def test_the_last_end_of_those_launched_together_waits_for_nobody() -> None:
    company = Company()
    for name in "xyz":
        company.launched(uid(name), 100.0)
    for name in "xyz":
        assert company.is_there(100.01)
        company.ended(uid(name))
    assert not company.is_there(100.01)


def test_runs_that_have_lasted_longer_than_a_moment_hold_nobody_up() -> None:
    company = Company()
    company.launched(uid("x"), 100.0)
    assert not company.is_there(100.0 + COMPANY_SECONDS)


def test_an_end_that_was_not_launched_here_is_no_matter() -> None:
    company = Company()
    company.ended(uid("found on disk"))
    assert not company.is_there(0.0)
