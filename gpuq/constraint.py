"""What -C says: conditions on the attributes of a node, joined by & | ! and parentheses.

`h100` holds where a GPU's name contains it or the node has a label of that name; `rack=7` where the label has that
value, `rack!=7` where it has not. `gpu` and `driver` are attributes every node has: `gpu=a100`, `driver>=550.54`.
Case makes no difference. A comparison with >= <= > < is of dotted numbers, and false for anything else.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from gpuq.errors import InvalidRequest
from gpuq.node import Inventory

MAX_CONSTRAINT = 256  # characters: more is not written by hand
_MAX_DEPTH = 20
_HINT = "for example: h100, 'a100|h100', 'nvlink&!rack=7', 'driver>=550'"
_OF_EVERY_NODE = ("gpu", "driver")
_WORD = re.compile(r"[\w.:/+-]{1,64}")
_TOKEN = re.compile(r"\s*(?:([\w.:/+-]+)|(!=|>=|<=|[&|!()=<>,]))")
_NUMBERS = re.compile(r"\d{1,9}(\.\d{1,9})*")
_Numbers = tuple[int, ...]
_ORDERS: dict[str, Callable[[_Numbers, _Numbers], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class _Is:
    """One condition; without an operator that the attribute is there."""

    name: str
    compare: str = ""  # '', '=', or one of _ORDERS
    value: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.compare}{self.value}"


@dataclass(frozen=True, slots=True)
class _Not:
    inner: _Tree

    def __str__(self) -> str:
        return f"!({self.inner})" if isinstance(self.inner, _Joined) else f"!{self.inner}"


@dataclass(frozen=True, slots=True)
class _Joined:
    by: str  # '&' or '|'
    parts: tuple[_Tree, ...]

    def __str__(self) -> str:
        inside = (f"({part})" if isinstance(part, _Joined) and self.by == "&" else str(part) for part in self.parts)
        return self.by.join(inside)


_Tree = _Is | _Not | _Joined


def label(text: str) -> tuple[str, str]:
    """Name and value of a label as `agent --label` takes it: 'nvlink', 'rack=7'; raises InvalidRequest."""
    name, sign, value = text.strip().lower().partition("=")
    if not _WORD.fullmatch(name) or (sign and not _WORD.fullmatch(value)) or name in _OF_EVERY_NODE:
        raise InvalidRequest(f"'{text[:60]}' is not a label", "for example nvlink or rack=7; gpu and driver are taken")
    return name, value


def normal(text: str) -> str:
    """The constraint in normal form, in which equal ones are equal texts; raises InvalidRequest."""
    return str(_parsed(text))


def holds(text: str, inventory: Inventory) -> bool:
    """Whether a node with this inventory meets a constraint in normal form; the empty one is met by all."""
    return not text or _holds(_parsed(text), inventory)


def _holds(tree: _Tree, inventory: Inventory) -> bool:
    if isinstance(tree, _Not):
        return not _holds(tree.inner, inventory)
    if isinstance(tree, _Joined):
        parts = (_holds(part, inventory) for part in tree.parts)
        return all(parts) if tree.by == "&" else any(parts)
    labels = {name.lower(): value.lower() for name, value in inventory.labels.items()}
    if not tree.compare:
        return tree.name in labels or _has_gpu(inventory, tree.name)
    if tree.name == "gpu" and tree.compare == "=":
        return _has_gpu(inventory, tree.value)
    value = (inventory.driver_version or "").lower() if tree.name == "driver" else labels.get(tree.name)
    if tree.compare == "=":
        return value == tree.value
    mine, asked = _numbers(value or ""), _numbers(tree.value)
    return mine is not None and asked is not None and _ORDERS[tree.compare](mine, asked)


def _has_gpu(inventory: Inventory, word: str) -> bool:
    return any(word in gpu.name.lower() for gpu in inventory.gpus)


def _numbers(text: str) -> _Numbers | None:
    return tuple(map(int, text.split("."))) if _NUMBERS.fullmatch(text) else None


# ---------------------------------------------------------------- reading


@lru_cache(maxsize=1024)
def _parsed(text: str) -> _Tree:
    if len(text) > MAX_CONSTRAINT:
        raise InvalidRequest(f"the constraint has more than {MAX_CONSTRAINT} characters", _HINT)
    reader = _Reader(text)
    tree = reader.either(0)
    if reader.token:
        raise reader.wrong()
    return tree


class _Reader:
    """Recursive descent over the tokens; `token` is the next one, empty at the end."""

    def __init__(self, text: str) -> None:
        self._text, self._place = text.lower(), 0
        self.token, self._is_word = "", False
        self._next()

    def _next(self) -> str:
        """Moves on; gives the token there was."""
        taken = self.token
        match = _TOKEN.match(self._text, self._place)
        if match is None:
            if self._text[self._place :].strip():
                raise self.wrong()
            self.token, self._is_word = "", False
        else:
            self.token, self._is_word = match[1] or match[2], match[1] is not None
            self._place = match.end()
        return taken

    def wrong(self) -> InvalidRequest:
        return InvalidRequest(f"'{self._text}' is not a constraint on nodes", _HINT)

    def either(self, depth: int) -> _Tree:
        return self._joined("|", "|", self._all, depth)

    def _all(self, depth: int) -> _Tree:
        return self._joined("&", "&,", self._one, depth)

    def _joined(self, by: str, signs: str, read: Callable[[int], _Tree], depth: int) -> _Tree:
        parts = [read(depth)]
        while self.token and self.token in signs:
            self._next()
            parts.append(read(depth))
        flat = [p for part in parts for p in (part.parts if isinstance(part, _Joined) and part.by == by else (part,))]
        return flat[0] if len(flat) == 1 else _Joined(by, tuple(flat))

    def _one(self, depth: int) -> _Tree:
        if depth > _MAX_DEPTH:
            raise self.wrong()
        if self.token == "!":
            self._next()
            inner = self._one(depth + 1)
            return inner.inner if isinstance(inner, _Not) else _Not(inner)
        if self.token == "(":
            self._next()
            tree = self.either(depth + 1)
            if self.token != ")":
                raise self.wrong()
            self._next()
            return tree
        return self._condition()

    def _condition(self) -> _Tree:
        name = self._word()
        if self.token not in ("=", "!=", *_ORDERS):
            return _Is(name)
        compare = self._next()
        value = self._word()
        return _Not(_Is(name, "=", value)) if compare == "!=" else _Is(name, compare, value)

    def _word(self) -> str:
        if not self._is_word:
            raise self.wrong()
        return self._next()
