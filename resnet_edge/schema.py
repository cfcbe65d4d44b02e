"""Plain values from a file to frozen dataclasses, by their type hints.

For TOML that people write every key must be known. Records that a program wrote may hold more than
this version knows (``strict=False``): what a newer version adds does not lock an older one out.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, cast

from resnet_edge.errors import ConfigError

__all__ = ["decode", "encode"]

T = TypeVar("T")

_LARGEST = 1 << 1023  # of the whole numbers that are numbers too
_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def decode(kind: type[T], value: Any, where: str, *, strict: bool = True, **given: Any) -> T:
    """Build a dataclass from a table, checking every key and type.

    Args:
        kind: Dataclass; its fields may be str, bool, int, float, Any, literals, tuples, mappings
            from str, optional values and dataclasses.
        value: What the file holds.
        where: Name of the file, for messages.
        strict: Refuse keys that are not fields, instead of passing over them.
        **given: Fields that do not come from the file.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type, or the dataclass
            refuses the whole.
    """
    return cast("T", _Decoder(where, strict).table(kind, value, "", given))


def encode(value: Any) -> Any:
    """Return a record as plain JSON values, as `decode` takes them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [encode(part) for part in value]
    return value


class _Decoder:
    """Decodes the values of one file."""

    def __init__(self, where: str, strict: bool) -> None:
        self.where, self.strict = where, strict

    def table(self, kind: Any, value: Any, key: str, given: dict[str, Any]) -> Any:
        prefix = f"{self.where}: {key}: " if key else f"{self.where}: "
        if not isinstance(value, dict):
            raise ConfigError(f"{prefix}must be a table, not {value!r}")
        allowed = {field.name: field for field in fields(kind) if field.name not in given}
        unknown = sorted(set(value) - set(allowed))
        if unknown and self.strict:
            raise ConfigError(
                f"{prefix}unknown key {', '.join(unknown)}",
                hint=f"allowed: {', '.join(sorted(allowed))}",
            )
        required = [n for n, f in allowed.items() if f.default is f.default_factory is MISSING]
        if missing := [name for name in required if name not in value]:
            raise ConfigError(f"{prefix}missing key {', '.join(missing)}")
        hints = typing.get_type_hints(kind)
        parts = {
            name: self.value(hints[name], value[name], f"{key}.{name}" if key else name)
            for name in allowed
            if name in value
        }
        try:
            return kind(**given, **parts)
        except ConfigError as error:
            raise ConfigError(f"{prefix}{error.message}", hint=error.hint) from error

    def value(self, kind: Any, value: Any, key: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any:
            return value
        if origin in (types.UnionType, typing.Union):  # X | None; TOML has no null, JSON has
            if value is None and type(None) in arguments:
                return None
            (inner,) = [a for a in arguments if a is not type(None)]
            return self.value(inner, value, key)
        if origin is tuple:
            return self.tuple(arguments, value, key)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self.mapping(arguments[1], value, key)
        if origin is Literal:
            if value not in arguments:
                raise ConfigError(
                    f"{self.where}: {key}: unknown value {value!r}",
                    hint=f"use one of {', '.join(map(str, arguments))}",
                )
            return value
        if is_dataclass(kind):
            return self.table(kind, value, key, {})
        if kind is float and type(value) is int and abs(value) < _LARGEST:
            return float(value)
        if type(value) is not kind:  # a bool is no whole number here
            raise ConfigError(f"{self.where}: {key}: must be {_NAMES[kind]}, not {value!r}")
        return value

    def mapping(self, kind: Any, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ConfigError(f"{self.where}: {key}: must be a table, not {value!r}")
        return {name: self.value(kind, part, f"{key}.{name}") for name, part in value.items()}

    def tuple(self, arguments: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{self.where}: {key}: must be a list, not {value!r}")
        if arguments[-1] is ...:
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            raise ConfigError(
                f"{self.where}: {key}: must have {len(arguments)} items, not {len(value)}"
            )
        return tuple(
            self.value(kind, item, f"{key}[{position}]")
            for position, (kind, item) in enumerate(zip(arguments, value, strict=True))
        )
