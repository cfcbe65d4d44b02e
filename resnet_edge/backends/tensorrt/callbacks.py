"""Exceptions in what TensorRT calls back: kept, because it cannot carry them through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Failure"]


class Failure:
    """The first exception that a callback met, to be raised when TensorRT has returned."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    @property
    def happened(self) -> bool:
        """Whether there was one."""
        return self._error is not None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep an exception instead of letting it reach TensorRT; Ctrl-C too."""
        try:
            yield
        except BaseException as error:
            self._error = self._error or error

    def raise_if_any(self) -> None:
        """Raise it now.

        Raises:
            BaseException: What a callback raised.
        """
        if self._error is not None:
            raise self._error
