"""What TensorRT says while it works: kept for results and errors instead of printed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

__all__ = ["Message", "recording"]

log = logging.getLogger(__name__)


class Message:
    """What was said during a piece of work, each text once.

    Attributes:
        warnings: In order.
        errors: In order.
    """

    def __init__(self) -> None:
        self._warnings: dict[str, None] = {}
        self._errors: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings, each text once."""
        return tuple(self._warnings)

    @property
    def errors(self) -> tuple[str, ...]:
        """Errors, each text once."""
        return tuple(self._errors)

    def warn(self, text: str) -> None:
        """Take down a warning."""
        self._warnings.setdefault(text)

    def fail(self, text: str) -> None:
        """Take down an error."""
        self._errors.setdefault(text)


@contextmanager
def recording(trt: ModuleType) -> Iterator[tuple[Any, Message]]:
    """Yield the process's one logger for a module, and a record of what is said meanwhile.

    TensorRT keeps the first logger it is given for the whole process and complains about others,
    so there is one per module. Work in several threads at once ends up in all their records.
    """
    logger, record = _logger(trt), Message()
    logger.records.append(record)
    try:
        yield logger, record
    finally:
        logger.records.remove(record)


@cache
def _logger(trt: ModuleType) -> Any:
    severity = trt.ILogger.Severity
    errors = (severity.ERROR, severity.INTERNAL_ERROR)
    quiet = (severity.VERBOSE, severity.INFO)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # the bindings are untyped
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.records: list[Message] = []

        def log(self, level: Any, message: str) -> None:
            if level in quiet:  # thousands of lines per build
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("%s: %s", trt.__name__, message.strip())
                return
            for record in tuple(self.records):
                (record.fail if level in errors else record.warn)(message.strip())

    return Logger()
