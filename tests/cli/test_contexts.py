"""Changing config.toml: what a person wrote in it stays, and what cannot be kept is not begun."""

from __future__ import annotations

import pytest

from gpuq.cli.contexts import chosen, with_context
from gpuq.config import Settings, parse_settings
from gpuq.errors import InvalidRequest

ENTRY = {"url": "https://lab:7443", "token_file": "lab.token"}
THEIRS = """\
# mine
context = "home"  # not lab

[paths]   # of another part
"/data" = "/mnt/data"

[contexts.home]
url = "https://home:1"   # over the tunnel
token_file = 'home.token'
note = "keep"

[other]
x = [
  1,
]
"""


def said(text: str) -> Settings:
    return parse_settings(text, "config.toml")


def test_the_first_context_makes_the_file() -> None:
    text = with_context(said(""), "lab", ENTRY)
    assert text == 'context = "lab"\n\n[contexts.lab]\nurl = "https://lab:7443"\ntoken_file = "lab.token"\n'


def test_another_context_leaves_every_line_that_is_there() -> None:
    text = with_context(said(THEIRS), "lab", ENTRY)
    lines = text.splitlines()
    assert [line for line in THEIRS.splitlines() if line not in lines] == ['context = "home"  # not lab']
    assert 'context = "lab"  # not lab' in lines
    after = said(text)
    assert after.context == "lab"
    assert after.contexts == {**said(THEIRS).contexts, "lab": ENTRY}


def test_a_context_that_is_there_is_changed_in_its_place() -> None:
    text = with_context(said(THEIRS), "home", {"url": "https://new:2", "token_file": "home.token"})
    assert 'url = "https://new:2"  # over the tunnel' in text.splitlines()
    assert 'note = "keep"' in text.splitlines()
    assert len(text.splitlines()) == len(THEIRS.splitlines())


@pytest.mark.parametrize("head", ['[contexts."lab"]', "[ contexts . lab ]  # x", "[contexts.'lab']"])
def test_a_section_is_known_however_it_is_written(head: str) -> None:
    text = with_context(said(f'{head}\nurl = "old"\n'), "lab", ENTRY)
    assert said(text).contexts == {"lab": ENTRY}
    assert head in text


@pytest.mark.parametrize(
    "theirs",
    [
        '[paths]\n"/a" = """/b\u2028/c"""\n',
        "# before\x85after\n",
        "# one\u2029two\n[other]\n",
        '# no end of line at the end\n[other]\nx = "\u2028"',
    ],
)
def test_only_a_line_end_divides_lines(theirs: str) -> None:
    assert theirs in with_context(said(theirs), "lab", ENTRY)


def test_a_change_that_would_touch_another_value_is_not_made() -> None:
    theirs = 'note = """\ncontext = "mine"\n"""\n[contexts.lab]\nurl = "u"\n'
    with pytest.raises(InvalidRequest, match="written in a way that gpuq cannot change"):
        chosen(said(theirs), "lab")


@pytest.mark.parametrize("value", ['"lab"', "'lab'", r'"a \"lab\""', '"a#b"'])
def test_a_comment_behind_a_value_that_is_changed_stays(value: str) -> None:
    assert 'context = "lab"  # ours\n' in with_context(said(f"context = {value} # ours\n"), "lab", ENTRY)


def test_choosing_changes_one_line() -> None:
    two = with_context(said(THEIRS), "lab", ENTRY)
    text = chosen(said(two), "home")
    assert said(text).context == "home"
    assert len(set(text.splitlines()) ^ set(two.splitlines())) == 2


@pytest.mark.parametrize(
    "text",
    [
        'contexts = { lab = { url = "u" } }\n',
        '[contexts]\nlab.url = "u"\n',
        '[contexts.lab]\nurl = """\nu"""\n',
        'x = """\n[contexts.lab]\n"""\n',
    ],
)
def test_a_file_written_in_a_way_not_understood_is_left_alone_and_said(text: str) -> None:
    with pytest.raises(InvalidRequest, match="written in a way that gpuq cannot change") as refused:
        with_context(said(text), "lab", ENTRY)
    assert "[contexts.lab]" in refused.value.hint
