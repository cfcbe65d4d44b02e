"""The contracts between the stages and the runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["Availability", "Session", "TensorSpec"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of an input or output.

    Attributes:
        name: Tensor name.
        shape: Extents; None where dynamic.
        dtype: numpy name, for example ``float32``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Availability:
    """What a backend can do on this machine.

    Attributes:
        available: Whether it can be used at all.
        version: Version of the library, None if it is not installed.
        detail: One line for people: devices, or why it cannot be used and what fixes that.
    """

    available: bool
    version: str | None
    detail: str


class Session(ABC):
    """A loaded network that maps named arrays to named arrays.

    Attributes:
        inputs: What `run` takes.
        outputs: What it returns.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once and return every output."""

    @abstractmethod
    def close(self) -> None:
        """Release what the runtime holds; the session cannot be used afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
