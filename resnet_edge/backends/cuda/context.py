"""A GPU's primary context: which threads are inside it, and what is open in it."""

from __future__ import annotations

import threading
from types import TracebackType

from resnet_edge.backends.closing import Closing
from resnet_edge.backends.cuda.driver import Driver
from resnet_edge.errors import DeviceError

__all__ = ["Activation", "Context"]


class Context:
    """What a device and the things opened on it share.

    Attributes:
        driver: Makes the calls.
        name: Of the GPU, for messages.
        opened: What is open, by identity, the oldest first.
        threads: Who is inside the context.
        closed: Whether it was given back.
    """

    def __init__(self, driver: Driver, name: str) -> None:
        self.driver = driver
        self.name = name
        self.opened: dict[int, Closing] = {}
        self.threads: set[int] = set()
        self.closed = False
        self._depth = threading.local()

    def enter(self) -> None:
        """Make the context current on this thread; calls may nest."""
        depth = getattr(self._depth, "value", 0)
        if depth == 0:
            if self.closed:
                raise DeviceError(f"{self.name} is closed")
            self.driver.push()
            self.threads.add(threading.get_ident())
        self._depth.value = depth + 1

    def leave(self) -> None:
        """Undo one `enter`."""
        self._depth.value -= 1
        if self._depth.value == 0:
            self.threads.discard(threading.get_ident())
            self.driver.pop()

    def release(self) -> None:
        """Give the context back; nothing can be done in it afterwards."""
        self.closed = True
        try:
            self.driver.release()
        except self.driver.error as error:
            raise Activation(self, "giving the context back").explain(error) from error


class Activation:
    """Makes a context current on this thread for a block, and explains failed calls.

    Args:
        context: The context.
        doing: What the block does, for the error message.
        nbytes: How much memory it asks for.
    """

    __slots__ = ("context", "doing", "nbytes")

    def __init__(self, context: Context, doing: str, nbytes: int = 0) -> None:
        self.context = context
        self.doing = doing
        self.nbytes = nbytes

    def __enter__(self) -> None:
        try:
            self.context.enter()
        except self.context.driver.error as error:
            raise self.explain(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.context.leave()
        if isinstance(error, self.context.driver.error):
            raise self.explain(error) from error

    def explain(self, error: Exception) -> DeviceError:
        """Return our error for one of the driver's."""
        name = self.context.name
        if self.context.driver.is_out_of_memory(error):
            return DeviceError(
                f"{name} has no memory left: {self.doing} ({self.nbytes:,} bytes) failed",
                hint="use a smaller batch, or close other programs that use the GPU; on a Jetson, "
                "where CPU and GPU share the memory, any program counts",
            )
        return DeviceError(f"{name}: {self.doing} failed: {error}")
