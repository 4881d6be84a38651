from __future__ import annotations

import pytest

from gpuq.cli.environment import Environment, choose_environment
from gpuq.errors import InvalidRequest

MINE = {
    "PATH": "/bin",
    "HOME": "/home/ann",
    "WANDB_API_KEY": "k",
    "GPUQ_TOKEN": "secret",
    "GPUQ_JOB_ID": "7",
    "SSH_AUTH_SOCK": "/tmp/s",
    "DISPLAY": ":0",
    "XDG_RUNTIME_DIR": "/run/user/1",
}
KEPT = {"PATH": "/bin", "HOME": "/home/ann", "WANDB_API_KEY": "k"}


def test_on_the_cluster_a_job_gets_this_shells_variables_less_those_of_the_login() -> None:
    assert choose_environment(MINE, None, [], on_cluster=True) == Environment(KEPT, {})


def test_from_elsewhere_a_job_gets_the_login_environment_of_the_node() -> None:
    assert choose_environment(MINE, None, [], on_cluster=False) == Environment(None, {})


@pytest.mark.parametrize("on_cluster", [True, False])
@pytest.mark.parametrize(
    ("export", "environment", "changes"),
    [
        ("ALL", KEPT, {}),
        ("all", KEPT, {}),
        ("NONE", None, {}),
        ("A=1", None, {"A": "1"}),
        ("A=1,PATH", None, {"A": "1", "PATH": "/bin"}),
        ("ALL,A=1", KEPT, {"A": "1"}),
        ("A=1,ALL", KEPT, {"A": "1"}),
        ("ALL,NOT_SET", KEPT, {}),
        ("ALL,A='x,y',B=\"z\"", KEPT, {"A": "x,y", "B": "z"}),
        ("A=b=c,B=", None, {"A": "b=c", "B": ""}),
    ],
)
def test_export_overrides_where_one_is(
    export: str, environment: dict[str, str] | None, changes: dict[str, str], on_cluster: bool
) -> None:
    assert choose_environment(MINE, export, [], on_cluster) == Environment(environment, changes)


@pytest.mark.parametrize("export", ["NONE,A=1", "", ",", "=1", "A='x"])
def test_malformed_export_is_refused(export: str) -> None:
    with pytest.raises(InvalidRequest):
        choose_environment(MINE, export, [], on_cluster=True)


def test_env_sets_a_value_or_sends_the_one_here_and_wins_over_export() -> None:
    chosen = choose_environment(MINE, "A=1,B=2", ["A=3", "HOME", "SSH_AUTH_SOCK"], on_cluster=True)
    assert chosen.changes == {"A": "3", "B": "2", "HOME": "/home/ann", "SSH_AUTH_SOCK": "/tmp/s"}


def test_env_of_a_variable_not_set_here_says_so() -> None:
    with pytest.raises(InvalidRequest, match="NOPE is not set here"):
        choose_environment(MINE, None, ["NOPE"], on_cluster=True)


def test_variables_that_are_not_text_are_left_out_and_named() -> None:
    chosen = choose_environment({"A": "\udcff", "B": "1"}, None, [], on_cluster=True)
    assert chosen == Environment({"B": "1"}, {}, ("A",))
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        choose_environment({"A": "\udcff"}, None, ["A"], on_cluster=True)


def test_description_names_variables_and_never_their_values() -> None:
    said = choose_environment(MINE, "ALL,KEY=hunter2", [], on_cluster=True).describe()
    assert "KEY" in said
    assert "hunter2" not in said
