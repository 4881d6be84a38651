"""Frozen dataclasses to JSON values and back, for the wire and for the store's JSON columns.

Fields equal to their default are left out; fields a reader does not know are ignored: so an older and a newer gpuq
can read each other as long as the protocol version says they may. Decoding checks every type and raises
InvalidRequest naming the field. Encoders and decoders are built once a class; a sync message takes about 20 us.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from gpuq.errors import InvalidRequest

T = TypeVar("T")
_Code = Callable[[Any], Any]
_ENCODERS: dict[type, _Code] = {}
_DECODERS: dict[type, _Code] = {}
_LARGEST = 2**63 - 1  # what an integer of SQLite holds; a peer's number must not be able to stop the store


def encode(value: object) -> Any:
    """The JSON value of a dataclass instance (a dict)."""
    return _encoder(type(value))(value)


def decode(cls: type[T], data: object) -> T:
    """An instance of `cls`; raises InvalidRequest if data does not fit it."""
    return typing.cast(T, _decoder(cls)(data))


def _encoder(cls: type) -> _Code:
    code = _ENCODERS.get(cls)
    if code is None:
        code = _ENCODERS[cls] = _make_encoder(cls)
    return code


def _decoder(cls: type) -> _Code:
    code = _DECODERS.get(cls)
    if code is None:
        code = _DECODERS[cls] = _make_decoder(cls)
    return code


def _make_encoder(cls: type) -> _Code:
    hints = typing.get_type_hints(cls)
    fields = [(f.name, _default(f), _encode_as(hints[f.name])) for f in dataclasses.fields(cls)]

    def run(value: object) -> dict[str, Any]:
        out = {}
        for name, default, code in fields:
            item = getattr(value, name)
            if item != default:
                out[name] = item if code is None or item is None else code(item)
        return out

    return run


def _default(f: dataclasses.Field[Any]) -> object:
    if f.default is not dataclasses.MISSING:
        return f.default
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return dataclasses.MISSING


def _encode_as(hint: Any) -> _Code | None:
    """How to encode a value of this type, or None if it is JSON as it stands."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (a for a in args if a is not type(None))
        return _encode_as(inner)
    if isinstance(hint, typing.NewType):
        return None
    if origin is tuple:
        item = _encode_as(args[0])
        return list if item is None else lambda value: [item(v) for v in value]
    if origin is Mapping:
        return dict
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value: value.value
    if dataclasses.is_dataclass(hint):
        return lambda value: _encoder(type(value))(value)
    return None


def _make_decoder(cls: type) -> _Code:
    hints = typing.get_type_hints(cls)
    fields = {f.name: _decode_as(hints[f.name], f"{cls.__name__}.{f.name}") for f in dataclasses.fields(cls)}
    required = [f.name for f in dataclasses.fields(cls) if _default(f) is dataclasses.MISSING]

    def run(data: object) -> object:
        if not isinstance(data, dict):
            raise InvalidRequest(f"{cls.__name__} must be a JSON object")
        for name in required:
            if name not in data:
                raise InvalidRequest(f"{cls.__name__}.{name} is missing")
        return cls(**{k: fields[k](v) for k, v in data.items() if k in fields})

    return run


def _decode_as(hint: Any, where: str) -> _Code:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, typing.NewType):
        return _decode_as(hint.__supertype__, where)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (a for a in args if a is not type(None))
        code = _decode_as(inner, where)
        return lambda value: None if value is None else code(value)
    if origin is tuple:
        item = _decode_as(args[0], where)
        return lambda value: tuple([item(v) for v in _check(value, list, where)])
    if origin is Mapping:
        text = _decode_as(args[1], where)
        return lambda value: {str(k): text(v) for k, v in _check(value, dict, where).items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value: _member(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return lambda value: _decoder(typing.cast(type, hint))(value)
    if hint is float:
        return lambda value: float(_check(value, (int, float), where))
    return lambda value: _check(value, hint, where)


def _check(value: Any, kind: Any, where: str) -> Any:
    # JSON's true is an int to Python: only a field meant for it may take it.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", "number")
        raise InvalidRequest(f"{where} must be of type {wanted}")
    if isinstance(value, (int, float)) and not -_LARGEST <= value <= _LARGEST:  # also false for NaN
        raise InvalidRequest(f"{where} is not a number of at most 63 bits")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidRequest(f"{where} is not valid Unicode")
    return value


def _member(cls: type[Enum], value: object, where: str) -> Enum:
    try:
        return cls(value)
    except ValueError:
        known = ", ".join(str(m.value) for m in cls)
        raise InvalidRequest(f"{where} is none of {known}") from None
