"""What is open until it is closed, in a ``with`` block or by hand."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

from resnet_edge.errors import DeviceError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Closing"]

log = logging.getLogger(__name__)


class Closing(ABC):
    """Holds something of a runtime or a device, and gives it back at the end of a block."""

    @abstractmethod
    def close(self) -> None:
        """Give it back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close without hiding the error that ended the block."""
        try:
            self.close()
        except DeviceError as failure:
            if error is None:
                raise
            log.warning("%s", failure)
