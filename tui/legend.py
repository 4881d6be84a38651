"""What signs on the screen mean, and what a filter may say: for those who ask for help. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tui.text import HELD

Pair = tuple[str, str]  # a sign or an example, and what it means

STATES: Sequence[Pair] = (
    ("R", "runs"),
    ("A S", "has its GPUs, is being started"),
    ("E", "is being ended"),
    ("L", "lost: its node is silent, it may be alive there"),
    ("Q", "waits; NODE / WHY says for what"),
    (HELD, "held: waits until somebody releases it"),
    ("D", "done"),
    ("F", "failed"),
    ("C", "canceled"),
)
GPUS: Sequence[Pair] = (
    ("0-8", "a job has it; eighths of full use"),
    (".", "free"),
    ("-", "free, but its node takes no work"),
    ("f", "foreign: in use by no job of gpuq"),
    ("!", "quarantined: its health is bad"),
    ("?", "the driver cannot be asked"),
    ("~", "its node is silent"),
    ("x", "its node is lost"),
)
FILTER: Sequence[Pair] = (
    ("llama", "in id, name, user or node"),
    ("user=bob,ann", "one of these"),
    ("state=failed", "or a letter: state=q"),
    ("gpu>4 wait>2h", "both hold"),
    ("node~n04", "a regular expression"),
    ("reason~quota", "why it waits"),
    ("!eval", "! turns any of them round"),
)

# context in keymap.CHAINS -> headings of its page of help
LEGENDS: Mapping[str, Mapping[str, Sequence[Pair]]] = {
    "overview": {"Letters of states": STATES},
    "jobs": {"Letters of states": STATES, "Filters": FILTER},
    "job": {"Letters of states": STATES},
    "nodes": {"One character is one GPU": GPUS},
    "gpus": {"One character is one GPU": GPUS},
}
