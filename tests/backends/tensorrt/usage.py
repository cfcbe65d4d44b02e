"""What our TensorRT code uses of TensorRT, read from its source, so that no list can rot.

Names annotated with a class of TensorRT (``builder: tensorrt.Builder``) and the module (``trt``)
are followed; every attribute, method and keyword used on them is taken down, with the features
under which the code is reached: ``if features.x`` around it, or around all calls of its function.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MODULE = "trt"
_MODULES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Use:
    """One use of something of TensorRT's.

    Attributes:
        owner: Class, dotted if nested; empty for the module itself.
        name: Attribute.
        keywords: Given in a call.
        where: File and line.
        function: The function it stands in.
        guards: Features that the lines around it ask for.
        bound: Whether its result gets a name that is not annotated.
    """

    owner: str
    name: str
    keywords: tuple[str, ...]
    where: str
    function: str
    guards: frozenset[str]
    bound: bool


@dataclass(frozen=True)
class Call:
    """A call of anything by a name: the function it stands in, and its guards."""

    callee: str
    function: str
    guards: frozenset[str]


def uses_of(files: Iterable[Path]) -> list[Use]:
    """Return every use, with the guards of the functions around it added.

    A name that is annotated with a class of TensorRT in one place must be so wherever it is given
    a value, or uses would be missed.
    """
    uses: list[Use] = []
    typed: set[str] = set()
    untyped: set[tuple[str, str]] = set()
    calls: list[Call] = []
    defined: set[str] = set()
    for path in files:
        reader = _Reader(path.name)
        reader.visit(ast.parse(path.read_text()))
        uses += reader.uses
        calls += reader.calls
        defined |= reader.defined
        typed |= reader.typed
        untyped |= reader.untyped
    assert not (missed := [where for name, where in untyped if name in typed]), missed
    guards = _guards_of_functions(defined, calls)
    return [
        Use(**{**vars(u), "guards": u.guards | guards.get(u.function, frozenset())}) for u in uses
    ]


def _guards_of_functions(defined: set[str], calls: list[Call]) -> dict[str, frozenset[str]]:
    """Return the features under which each function is called, wherever it is called."""
    sites = defaultdict(list)
    for call in calls:
        if call.callee in defined - {call.function}:
            sites[call.callee].append(call)
    every = frozenset(g for call in calls for g in call.guards)
    guards = {name: every if sites[name] else frozenset() for name in defined}
    while True:
        found = {
            name: frozenset.intersection(
                *(call.guards | guards.get(call.function, frozenset()) for call in sites[name])
            )
            if sites[name]
            else frozenset[str]()
            for name in defined
        }
        if found == guards:
            return guards
        guards = found


class _Reader(ast.NodeVisitor):
    def __init__(self, file: str) -> None:
        self._file = file
        self._types: list[dict[str, str]] = [{MODULE: ""}]
        self._functions: list[str] = [""]
        self._guards: list[str] = []
        self._unnamed: set[int] = set()
        self.uses: list[Use] = []
        self.calls: list[Call] = []
        self.defined: set[str] = set()
        self.typed: set[str] = set()
        self.untyped: set[tuple[str, str]] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.defined.add(node.name)
        for part in (*node.decorator_list, *([node.returns] if node.returns else [])):
            self._annotation(part)
        nested = len(self._functions) > 1
        self._functions.append(self._functions[-1] if nested else node.name)
        self._types.append({})
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if argument.annotation is not None:
                found = self._annotate(argument.arg, argument.annotation)
                if not found and ast.unparse(argument.annotation) == "Any":
                    self.untyped.add((argument.arg, f"{self._file}:{argument.lineno}"))
        for statement in node.body:
            self.visit(statement)
        self._types.pop()
        self._functions.pop()

    def visit_If(self, node: ast.If) -> None:
        asked = list(_asked(node.test))
        parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
        for position, part in enumerate(parts):  # what follows `features.x and` is guarded too
            before = [g for earlier in parts[:position] for g in _asked(earlier)]
            self._guarded(before, [part])
        self._guarded(asked, node.body)
        self._guarded([], node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._guarded(list(_asked(node.test)), [node.body])
        self._guarded([], [node.test, node.orelse])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        target = ast.unparse(node.target)
        types = self._types[0] if target.startswith("self.") else self._types[-1]
        self._annotate(target, node.annotation, types)
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        owner = self._owner(node.value) if isinstance(node.value, ast.Attribute) else None
        chained = isinstance(node.value, ast.Attribute) and ast.unparse(node.value).startswith(
            f"{MODULE}."
        )
        if owner is not None and chained and isinstance(node.targets[0], ast.Name):
            inner = f"{owner}.{node.value.attr}".strip(".")  # an alias of a class or member
            self._types[-1][node.targets[0].id] = inner
        elif (
            isinstance(node.value, ast.Call)
            and isinstance(node.targets[0], ast.Name)
            and self._type(node.targets[0].id) is None
        ):
            self._unnamed.add(id(node.value.func))
            self.untyped.add((node.targets[0].id, f"{self._file}:{node.lineno}"))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        callee = node.func.attr if isinstance(node.func, ast.Attribute) else None
        if isinstance(node.func, ast.Name):
            callee = node.func.id
        if callee is not None:
            self.calls.append(Call(callee, self._functions[-1], frozenset(self._guards)))
        if isinstance(node.func, ast.Attribute):
            self._use(node.func, tuple(k.arg for k in node.keywords if k.arg))
            self.visit(node.func.value)
        else:
            self.visit(node.func)
        for part in (*node.args, *(k.value for k in node.keywords)):
            self.visit(part)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(node, ())
        self.visit(node.value)

    def _use(self, node: ast.Attribute, keywords: tuple[str, ...]) -> None:
        owner = self._owner(node)
        if owner is not None and not node.attr.startswith("__"):
            self.uses.append(
                Use(
                    owner, node.attr, keywords, f"{self._file}:{node.lineno}",
                    self._functions[-1], frozenset(self._guards), id(node) in self._unnamed,
                )
            )  # fmt: skip

    def _owner(self, node: ast.Attribute) -> str | None:
        """Return the class whose attribute this is; None if it is not TensorRT's."""
        receiver = node.value
        if (found := self._type(ast.unparse(receiver))) is not None:
            return found
        if isinstance(receiver, ast.Attribute):
            outer = self._owner(receiver)
            if outer is not None and ast.unparse(receiver).startswith(f"{MODULE}."):
                return f"{outer}.{receiver.attr}".strip(".")
        return None

    def _type(self, name: str) -> str | None:
        return next((types[name] for types in reversed(self._types) if name in types), None)

    def _annotate(self, name: str, node: ast.expr, types: dict[str, str] | None = None) -> bool:
        found = self._annotation(node)
        for kind in found:
            (self._types[-1] if types is None else types)[name] = kind
            self.typed.add(name)
        return bool(found)

    def _annotation(self, node: ast.expr) -> list[str]:
        found = []
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and ast.unparse(part.value) in _MODULES:
                found.append(part.attr)
                self.uses.append(
                    Use(
                        "", part.attr, (), f"{self._file}:{part.lineno}", self._functions[-1],
                        frozenset(self._guards), False,
                    )
                )  # fmt: skip
        return found

    def _guarded(self, guards: list[str], nodes: Iterable[ast.AST]) -> None:
        self._guards += guards
        for node in nodes:
            self.visit(node)
        del self._guards[len(self._guards) - len(guards) :]


def _asked(test: ast.expr) -> Iterator[str]:
    """Yield the features that must be there for a condition to hold."""
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
    for part in parts:
        if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "features":
            yield part.attr
