from __future__ import annotations

import pytest

from tests.tui.clusters import NOW, ended, job, running, waiting
from tui.filters import FIELDS, parse

ROWS = [
    running(1, "gpu7", (0, 1, 2, 3, 4, 5, 6, 7), name="llama-ft", user="bob", queue="prod", started_at=9000),
    waiting(2, "quota 8 of 8", name="llama-eval", user="ann", gpus=2, submitted_at=7200),
    waiting(3, "held by ann", "held", name="Tok", user="ann", gpus=0),
    ended(4, "FAILED", name="two words", user="bob", exit_code=137),
    job(5, state="SUCCEEDED", name="vit[0]", user="carol", gpus=4, finished_at=10, priority=-5),
]


def found(text: str) -> str:
    match = parse(text, NOW).match
    return " ".join(row.id for row in ROWS if match is None or match(row))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", "1 2 3 4 5"),
        ("llama", "1 2"),
        ("LLAMA", ""),  # capitals are meant
        ("tok", "3"),
        ("Tok", "3"),
        ("gpu7", "1"),
        ("ann", "2 3"),
        ("!llama", "3 4 5"),
        ("llama !eval", "1"),
        ("~lft", "1"),
        ("'two words'", "4"),
        ("'two wo", "4"),  # the quote is still open
        ("[0]", "5"),
        ("user=bob", "1 4"),
        ("user=bob,ann", "1 2 3 4"),
        ("user!=bob", "2 3 5"),
        ("!user=bob", "2 3 5"),
        ("name=llama-*", "1 2"),
        ("name~^llama-(ft|x)", "1"),
        ("name~[", "5"),  # no regular expression: the text itself
        ("node~gpu", "1"),
        ("node=gpu7", "1"),
        ("reason~quota", "2"),
        ("why~held", "3"),
        ("state=q", "2 3"),
        ("state=h", "3"),
        ("state=held", "3"),
        ("st=r,f", "1 4"),
        ("state=ended", "4 5"),
        ("state=active", "1 2 3"),
        ("state!=active", "4 5"),
        ("state=run", "1"),
        ("gpu>4", "1"),
        ("gpu>=4", "1 5"),
        ("gpus=0", "3"),
        ("gpu!=0", "1 2 4 5"),
        ("prio<0", "5"),
        ("exit=137", "4"),
        ("run>2h", "1"),
        ("wait>1h", "2"),
        ("wait<1h", "3"),
        ("queue=prod user=bob llama", "1"),
    ],
)
def test_a_filter_finds(text: str, ids: str) -> None:
    assert found(text) == ids
    assert parse(text, NOW).said == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("llama gpu>", "gpu> needs a value"),
        ("llama gpu>x", "'x' is no number"),
        ("llama color=red", "no field 'color'"),
        ("llama user>bob", "user is text"),
        ("llama state=zzz", "no state 'zzz'"),
        ("llama run>", "run> needs a value"),
        ("llama run>soon", "write a span as"),
        ("llama run=2h", "run is a span"),
        ("llama gpu~4", "gpu is a number"),
        ("llama !", "! needs a word"),
    ],
)
def test_what_cannot_be_read_yet_is_said_in_a_line_and_the_rest_counts(text: str, said: str) -> None:
    parsed = parse(text, NOW)
    assert said in parsed.said
    assert "\n" not in parsed.said
    assert found(text) == "1 2"


@pytest.mark.parametrize(
    ("habit", "meant"),
    [
        ("gpu > 4", "gpu>4"),
        ("gpu >4", "gpu>4"),
        ("gpu> 4", "gpu>4"),
        ("user = bob", "user=bob"),
        ("!user != bob", "!user!=bob"),
        ("user:bob", "user=bob"),
        ("user: bob", "user=bob"),
        ("state==q", "state=q"),
        ("status=q", "state=q"),
        ("node ~ n0", "node~n0"),
        ("GPUs>=4", "gpu>=4"),
    ],
)
def test_what_people_write_elsewhere_means_the_same_here(habit: str, meant: str) -> None:
    assert found(habit) == found(meant)
    assert parse(habit, NOW).said == ""


def test_a_colon_in_a_name_and_a_field_that_is_a_word_are_looked_for() -> None:
    assert parse("run:7", NOW).said != ""  # a field: what may be compared with it is said
    for text in ("a:b", "gpu", "gpu ~lft", "http://x"):
        assert parse(text, NOW).said == ""
        assert parse(text, NOW).match is not None


@pytest.mark.parametrize(
    ("text", "said"), [("statu=q", "did you mean status?"), ("state=runing", "did you mean running?")]
)
def test_a_slip_of_the_finger_is_told_what_was_likely_meant(text: str, said: str) -> None:
    assert said in parse(text, NOW).said


def test_every_prefix_of_a_filter_is_read_without_an_exception() -> None:
    whole = "llama !'two w' user=bob,ann state=q gpu>=4 node~[a-z reason~quota run>2h30m ~ab \\"
    for end in range(len(whole) + 1):
        parsed = parse(whole[:end], NOW)
        assert all(parsed.match is None or parsed.match(row) in (True, False) for row in ROWS)


def test_every_field_can_be_asked_for() -> None:
    for field in FIELDS:
        text = f"{field}>1h" if field in ("run", "wait", "age") else f"{field}=1" if field != "state" else "state=q"
        assert parse(text, NOW).said == ""


def test_a_very_long_filter_is_cut_instead_of_worked_through() -> None:
    assert len(parse("x " * 100_000, NOW).text) <= 500
