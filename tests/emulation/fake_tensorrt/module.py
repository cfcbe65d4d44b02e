"""Puts the fake together for one version, with the names that version really has."""

from __future__ import annotations

import enum
import json
import sys
from types import ModuleType
from typing import Any

from tests.emulation.fake_tensorrt import builder, config, network, runtime
from tests.emulation.fake_tensorrt.surface import RECORD

__all__ = ["install"]

_IMPLEMENTED = {
    cls.__name__: cls for module in (network, config, builder, runtime) for cls in module.CLASSES
}
_ALIASES = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "bool": "BOOL", "bfloat16": "BF16", "fp8": "FP8", "int4": "INT4",
    "fp4": "FP4", "e8m0": "E8M0",
}  # fmt: skip


def install(version: str) -> ModuleType:
    """Make ``import tensorrt`` in this process give the fake of a version, for example ``10.3``."""
    surface = json.loads(RECORD.read_text())[version]
    trt = ModuleType("tensorrt")
    trt.__version__ = surface["version"]
    trt.__file__ = __file__
    for name, members in surface["enumerations"].items():
        setattr(trt, name, _enumeration(name, members))
    for name, attributes in surface["classes"].items():
        setattr(trt, name, _class(trt, name, attributes))
    for name, member in _ALIASES.items():
        if hasattr(trt.DataType, member):
            setattr(trt, name, getattr(trt.DataType, member))
    for name in surface["names"]:
        if not hasattr(trt, name):
            setattr(trt, name, _missing(f"tensorrt.{name}"))
    for severity in trt.ILogger.Severity:
        setattr(trt.ILogger, severity.name, severity)
        setattr(trt.Logger, severity.name, severity)
    sys.modules["tensorrt"] = trt
    return trt


def _enumeration(name: str, members: dict[str, int]) -> Any:
    """Like an enumeration of pybind11: converts to an integer, but is none."""

    class Base(enum.Enum):
        def __int__(self) -> int:
            return int(self.value)

        __index__ = __int__

    return Base(name, members)


def _class(trt: ModuleType, name: str, attributes: dict[str, str]) -> type:
    """Make a class with exactly the public attributes it has in this version."""
    found = vars(_IMPLEMENTED.get(name, _Interface))
    members = {
        key: value for key, value in found.items() if key.startswith("_") or key in attributes
    }
    for key, kind in attributes.items():
        if key in members:
            continue
        where = f"{name}.{key}"
        if kind == "method":
            members[key] = _missing(where)
        else:
            members[key] = _Stored(where, writable=kind == "property")
    members.pop("__dict__", None)
    members.pop("__weakref__", None)
    return type(name, (), {**members, "_trt": trt})


class _Interface:
    """What applications derive from: pybind11 wants its ``__init__`` called."""

    def __init__(self) -> None:
        self._constructed = True


class _Stored:
    """A property that keeps what it is set to; asked before that, it is not emulated."""

    def __init__(self, where: str, *, writable: bool) -> None:
        self.where, self.writable = where, writable

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        try:
            return vars(instance)["_stored"][self.where]
        except KeyError:
            raise NotImplementedError(f"the fake has no {self.where}") from None

    def __set__(self, instance: Any, value: Any) -> None:
        if not self.writable:
            raise AttributeError(f"can't set attribute {self.where}")
        vars(instance).setdefault("_stored", {})[self.where] = value


def _missing(where: str) -> Any:
    def missing(*_: Any, **__: Any) -> None:
        raise NotImplementedError(f"the fake has no {where}")

    return missing
