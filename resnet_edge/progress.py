"""How a stage tells a listener how far it is, without knowing about terminals."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["SILENT", "Progress", "Task"]


class Task(Protocol):
    """One piece of work with a known or unknown number of steps."""

    def advance(self, steps: int = 1, *, status: str | None = None) -> None:
        """Report finished steps and, optionally, a word about the present state."""


class Progress(Protocol):
    """A listener that shows tasks, for example as bars."""

    def task(self, label: str, total: int | None = None) -> AbstractContextManager[Task]:
        """Open a task of ``total`` steps; it ends with the context."""


class _SilentTask:
    def advance(self, steps: int = 1, *, status: str | None = None) -> None:
        pass


class _Silent:
    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        yield _SilentTask()


SILENT: Progress = _Silent()
