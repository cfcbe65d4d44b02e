"""Plain values from a file to frozen dataclasses, by their type hints."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, cast

from resnet_edge.errors import ConfigError

__all__ = ["decode"]

T = TypeVar("T")

_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def decode(kind: type[T], value: Any, where: str, **given: Any) -> T:
    """Build a dataclass from a table, checking every key and type.

    Args:
        kind: Dataclass; its fields may be str, bool, int, float, literals, tuples, optional values
            and dataclasses.
        value: What the file holds.
        where: Name of the file, for messages.
        **given: Fields that do not come from the file.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type, or the dataclass
            refuses the whole.
    """
    made = _table(kind, value, where, "", given)
    return cast("T", made)


def _table(kind: Any, value: Any, where: str, key: str, given: dict[str, Any]) -> Any:
    prefix = f"{where}: {key}: " if key else f"{where}: "
    if not isinstance(value, dict):
        raise ConfigError(f"{prefix}must be a table, not {value!r}")
    allowed = {field.name: field for field in fields(kind) if field.name not in given}
    if unknown := sorted(set(value) - set(allowed)):
        raise ConfigError(
            f"{prefix}unknown key {', '.join(unknown)}",
            hint=f"allowed: {', '.join(sorted(allowed))}",
        )
    required = [n for n, f in allowed.items() if f.default is f.default_factory is MISSING]
    if missing := [name for name in required if name not in value]:
        raise ConfigError(f"{prefix}missing key {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    parts = {
        name: _value(hints[name], part, where, f"{key}.{name}" if key else name)
        for name, part in value.items()
    }
    try:
        return kind(**given, **parts)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error.message}", hint=error.hint) from error


def _value(kind: Any, value: Any, where: str, key: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # X | None; TOML has no null
        (inner,) = [a for a in arguments if a is not type(None)]
        return _value(inner, value, where, key)
    if origin is tuple:
        return _tuple(arguments, value, where, key)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{where}: {key}: unknown value {value!r}",
                hint=f"use one of {', '.join(map(str, arguments))}",
            )
        return value
    if is_dataclass(kind):
        return _table(kind, value, where, key, {})
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # a bool is no whole number here
        raise ConfigError(f"{where}: {key}: must be {_NAMES[kind]}, not {value!r}")
    return value


def _tuple(arguments: tuple[Any, ...], value: Any, where: str, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {key}: must be a list, not {value!r}")
    if arguments[-1] is ...:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where}: {key}: must have {len(arguments)} items, not {len(value)}")
    return tuple(
        _value(kind, item, where, f"{key}[{position}]")
        for position, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )
