"""How close the GPUs of a machine are to each other, in a digit for each two; pure."""

from __future__ import annotations

from collections.abc import Sequence

# The driver's levels of what two GPUs have in common, 10 apart: one PCIe switch, several, a host bridge, a NUMA node,
# only the machine. A link of their own is closer than any of them.
_LINKED = "1"
_FARTHEST = 9


def distances(levels: Sequence[Sequence[int]], linked: Sequence[Sequence[bool]]) -> tuple[str, ...]:
    """For each GPU a digit for every one, itself 0: 1 for NVLink, else 2 and more, the farther the more.

    levels are the driver's, linked says which two have NVLinks that meet. Empty where all are equally far: there is
    nothing to choose by.
    """
    rows = []
    for i, row in enumerate(levels):
        digits = ("0" if i == j else _LINKED if linked[i][j] else _digit(level) for j, level in enumerate(row))
        rows.append("".join(digits))
    apart = {digit for i, row in enumerate(rows) for j, digit in enumerate(row) if i != j}
    return tuple(rows) if len(apart) > 1 else ()


def _digit(level: int) -> str:
    return str(min(2 + level // 10, _FARTHEST))
