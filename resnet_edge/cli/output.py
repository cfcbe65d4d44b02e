"""The one place that writes to the terminal.

Data goes to stdout, as text or as one JSON object; progress and messages go to stderr.
"""

from __future__ import annotations

import json as json_module
import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_edge.progress import SILENT, Progress, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console

__all__ = ["DebugFlag", "JsonFlag", "Output", "QuietFlag", "show_error"]

_PIPE_WIDTH = 120  # columns where stdout is not a terminal

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Verbose messages and tracebacks.")]


class Output:
    """Where a command's result, progress and messages go.

    Args:
        json: Print the result as JSON instead of as text.
        quiet: Suppress progress and messages.
        debug: Show debug messages.
    """

    def __init__(self, *, json: bool, quiet: bool, debug: bool) -> None:
        self.json = json
        self.progress: Progress = SILENT if quiet else _Bars() if sys.stderr.isatty() else _Lines()
        level = logging.DEBUG if debug else logging.ERROR if quiet else logging.INFO
        _configure_logging(level)

    def result(self, data: Mapping[str, Any], render: Callable[[Console], None]) -> None:
        """Print a command's one result.

        Args:
            data: What ``--json`` prints.
            render: Writes the same for people.
        """
        if self.json:
            sys.stdout.write(json_module.dumps(data, indent=2) + "\n")
            return
        from rich.console import Console

        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        render(Console(highlight=False, soft_wrap=True, width=width))


def show_error(kind: str, message: str, hint: str | None, *, json: bool) -> None:
    """Print a failure: JSON on stdout where asked for, else two lines on stderr."""
    if json:
        error = {"type": kind, "message": message, "hint": hint}
        sys.stdout.write(json_module.dumps({"error": error}, indent=2) + "\n")
    else:
        sys.stderr.write(f"error: {message}\n" + (f"  hint: {hint}\n" if hint else ""))


class _Lines:
    """One line per task, where stderr is a file or a pipe."""

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        sys.stderr.write(f"{label}{'' if total is None else f' ({total})'} …\n")
        with SILENT.task(label, total) as task:
            yield task


class _Bars:
    """Progress bars on stderr."""

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        with RichProgress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=_stderr(),
            transient=True,
        ) as bars:
            yield _Bar(bars, bars.add_task(label, total=total, status=""))


class _Bar:
    def __init__(self, bars: Any, identifier: Any) -> None:
        self._bars, self._id = bars, identifier

    def advance(self, steps: int = 1, *, status: str | None = None) -> None:
        fields = {} if status is None else {"status": status}
        self._bars.update(self._id, advance=steps, **fields)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class _MessageHandler(logging.Handler):
    """Write messages above a live progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        sys.stderr.write(f"{prefix}{record.getMessage()}\n")


def _configure_logging(level: int) -> None:
    logger = logging.getLogger("resnet_edge")
    logger.setLevel(level)
    logger.handlers = [_MessageHandler()]
    logger.propagate = False
