"""Walk through a pickle without building anything, and list the memory it asks for.

Only the operations, classes and functions that plain weights need may occur. What a pickle would
call is not called; what it would allocate is returned, to be checked against its file.
"""

from __future__ import annotations

import mmap
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

__all__ = ["SCALAR_FUNCTIONS", "RefusedPickleError", "Storage", "walk"]

# NumPy's name for "make a scalar", before and since version 2.
SCALAR_FUNCTIONS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

_STORAGE = re.compile(r"torch(?:\.storage)?\.(\w+)Storage$")
_ITEM_SIZES = {
    "ComplexDouble": 16, "Double": 8, "Long": 8, "ComplexFloat": 8, "Float": 4, "Int": 4,
    "QInt32": 4, "Half": 2, "BFloat16": 2, "Short": 2,
}  # fmt: skip
_VIEWS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_qtensor")
_DTYPE = re.compile(r"[<>=|]?(?:[biuf]\d{1,2}|\?)$")
_HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)$|torch\.(Size|device|per_\w+_affine\w*)$"
    r"|torch\.(q?u?int\d+|b?float\d+|double|long|half|bool|complex\d+)$"
    r"|torch\._utils\._rebuild_(parameter|sparse_tensor)$|torch\.serialization\._get_layout$"
    r"|_codecs\.encode$|numpy\.dtype$|argparse\.Namespace$"
)
_KEYS = (str, int, float, bytes, type(None))  # hashing anything nested can take for ever


class RefusedPickleError(Exception):
    """A pickle asks for what no plain checkpoint needs."""


@dataclass(frozen=True)
class Storage:
    """Memory that a pickle asks for.

    Attributes:
        key: Its name in the file.
        items: Number of items.
        item_size: Bytes of each.
    """

    key: str
    items: int
    item_size: int

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return self.items * self.item_size


@dataclass(frozen=True)
class _Global:
    name: str


def walk(stream: IO[bytes] | mmap.mmap) -> tuple[Any, list[Storage]]:
    """Read one pickle up to its end.

    Returns:
        The object if it is a plain value, and the storages that it asks for.

    Raises:
        RefusedPickleError: It needs code, or a tensor looks beyond its storage.
        Exception: It is malformed; what is raised depends on how.
    """
    stack = _Stack()
    for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
        stack.apply(opcode.name, argument)
    return stack.values.pop(), stack.storages


class _Stack:
    """The stack machine that unpickling is, with calls replaced by checks."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: list[Storage] = []

    def apply(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.values.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.values.append(argument)
        elif name in _PUTS:
            self.memo[argument] = self.values[-1]
        elif name in _GETS:
            self.values.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self)
        elif name == "GLOBAL":
            self.values.append(_allowed(argument.replace(" ", ".")))
        elif name not in ("PROTO", "STOP"):
            raise RefusedPickleError("it is not a pickle that torch.save makes")

    def mark(self) -> None:
        self.marks.append(self.values)
        self.values = []

    def until_mark(self) -> list[Any]:
        items, self.values = self.values, self.marks.pop()
        return items

    def tuple_since_mark(self) -> None:
        items = self.until_mark()
        self.values.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.values[-count:])
        del self.values[-count:]
        self.values.append(items)

    def set_items(self, items: list[Any]) -> None:
        if not all(isinstance(key, _KEYS) for key in items[::2]):
            raise RefusedPickleError("the keys of a dictionary are not plain values")

    def reduce(self) -> None:
        arguments, function = self.values.pop(), self.values.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise RefusedPickleError("it needs code to be loaded")
        _check_call(function.name, arguments)
        self.values.append(None)

    def persistent(self) -> None:
        match self.values.pop():
            case ("storage", _Global(name), key, _, int(items), *_) if items >= 0:
                kind = _STORAGE.match(name)
                storage = Storage(str(key), items, _ITEM_SIZES.get(kind[1], 1) if kind else 1)
            case _:
                raise RefusedPickleError("it refers to something other than its own storages")
        self.storages.append(storage)
        self.values.append(storage)


def _allowed(name: str) -> _Global:
    plain = name in _VIEWS or name in SCALAR_FUNCTIONS or _STORAGE.match(name)
    if not plain and not _HARMLESS.match(name):
        raise RefusedPickleError(f"it wants to run code ({name}) when it is loaded")
    return _Global(name)


def _check_call(name: str, arguments: tuple[Any, ...]) -> None:
    """Check what a harmless function is asked to do."""
    if name in _VIEWS:
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage) or min((offset, *size, *stride)) < 0:
            raise RefusedPickleError("a tensor has no storage")
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.items:
            raise RefusedPickleError(f"a tensor of shape {tuple(size)} claims more than its data")
    elif name == "numpy.dtype" and not _DTYPE.match(str(arguments[0])):
        raise RefusedPickleError(f"it holds values of type {arguments[0]!r:.30}")
    elif name == "_codecs.encode" and arguments[1:] != ("latin1",):
        raise RefusedPickleError("it holds encoded text")


_CONSTANTS: Mapping[str, Any] = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_LIST": None,
    "EMPTY_DICT": None, "EMPTY_SET": None,
}  # fmt: skip
_LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING",
)  # fmt: skip
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_STEPS: Mapping[str, Callable[[_Stack], Any]] = {
    "MARK": _Stack.mark,
    "TUPLE": _Stack.tuple_since_mark,
    "TUPLE1": lambda s: s.tuple_of(1),
    "TUPLE2": lambda s: s.tuple_of(2),
    "TUPLE3": lambda s: s.tuple_of(3),
    "APPEND": lambda s: s.values.pop(),
    "APPENDS": lambda s: s.until_mark(),
    "SETITEM": lambda s: s.set_items([s.values.pop(), s.values.pop()][::-1]),
    "SETITEMS": lambda s: s.set_items(s.until_mark()),
    "REDUCE": _Stack.reduce,
    "NEWOBJ": _Stack.reduce,
    "BUILD": lambda s: s.values.pop(),
    "BINPERSID": _Stack.persistent,
}
