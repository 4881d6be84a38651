from __future__ import annotations

import pytest

from tui import keymap
from tui.body import PARTS
from tui.help import help_entries


@pytest.mark.parametrize("context", keymap.CHAINS)
def test_no_context_of_a_chain_binds_a_key_to_two_things(context: str) -> None:
    """A nearer context may take a key from one farther out; within one, each key does one thing."""
    for name in keymap.CHAINS[context]:
        keys = [key for action in keymap.ACTIONS if action.context == name for key in action.keys]
        assert len(keys) == len(set(keys)), name


@pytest.mark.parametrize("context", keymap.CHAINS)
def test_help_shows_each_binding_once_and_no_other(context: str) -> None:
    shown = [keys for entries in help_entries(context, "admin", True).values() for keys, _ in entries]
    bound = {key for action in keymap.actions_in(context) for key in action.keys}
    assert sorted(" ".join(shown).split()) == sorted(keymap.label(key) for key in bound)


def test_every_context_of_the_table_belongs_to_a_chain() -> None:
    assert {action.context for action in keymap.ACTIONS} == {name for chain in keymap.CHAINS.values() for name in chain}


def test_every_action_has_a_word_for_help_and_a_known_role() -> None:
    for action in keymap.ACTIONS:
        assert action.help
        assert action.role in keymap.ROLES


def test_what_changes_something_is_not_offered_to_a_viewer_nor_offline() -> None:
    cancel = keymap.find("jobs", "x")
    assert cancel is not None
    assert not keymap.allowed(cancel, "viewer")
    assert keymap.allowed(cancel, "user")
    assert not keymap.allowed(cancel, "admin", writable=False)


def test_a_nodes_cordon_is_for_admins() -> None:
    cordon = keymap.find("nodes", "u")
    assert cordon is not None
    assert [keymap.allowed(cordon, role) for role in keymap.ROLES] == [False, False, True]


def test_every_pane_has_its_chain_of_keys() -> None:
    assert set(PARTS) <= set(keymap.CHAINS)


def test_keys_are_shown_as_people_write_them() -> None:
    assert [keymap.label(key) for key in ("question_mark", "ctrl+d", "x", "pagedown")] == ["?", "^d", "x", "PgDn"]
