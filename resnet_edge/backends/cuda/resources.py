"""What a device gives out: memory, streams, events and graphs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from resnet_edge.backends.closing import Closing
from resnet_edge.backends.cuda.context import Activation, Context
from resnet_edge.errors import DeviceError

__all__ = ["Buffer", "CudaGraph", "Event", "HostBuffer", "Resource", "Stream"]


class Resource(Closing):
    """Something open on a device."""

    def __init__(self, context: Context, handle: Any) -> None:
        self._context = context
        self._driver = context.driver
        self._handle = handle
        context.opened[id(self)] = self

    def close(self) -> None:
        """Give it back; closing twice is allowed."""
        if self._context.opened.pop(id(self), None) is None:
            return
        with Activation(self._context, f"closing a {type(self).__name__}"):
            try:
                self._release()
            finally:
                self._handle = None  # while the context is current: pycuda frees some only now

    @property
    def _live(self) -> Any:
        if self._handle is None:
            raise DeviceError(f"this {type(self).__name__} is closed")
        return self._handle

    @abstractmethod
    def _release(self) -> None: ...


class Buffer(Resource):
    """Device memory.

    Attributes:
        pointer: Its address on the device.
        nbytes: Its size.
    """

    def __init__(self, context: Context, nbytes: int) -> None:
        with Activation(context, "allocating device memory", nbytes):
            handle = context.driver.allocate(nbytes)
        super().__init__(context, handle)
        self.nbytes = nbytes
        self.pointer = self._driver.address(handle)

    def _release(self) -> None:
        self._driver.free(self._handle)


class HostBuffer(Resource):
    """Page-locked host memory, so that copies run beside other work.

    The array must not be used after `close`.

    Attributes:
        array: The memory; zeros at first.
        nbytes: Its size.
        device_pointer: Its address on the device where the device can work on it directly
            (zero-copy), else None.
    """

    def __init__(
        self, context: Context, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool
    ) -> None:
        self.nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self.device_pointer: int | None = None
        with Activation(context, "allocating page-locked memory", self.nbytes):
            handle, memory = context.driver.allocate_host(self.nbytes, mapped=mapped)
            super().__init__(context, handle)
            self.array: NDArray[Any] = memory.view(dtype).reshape(shape)
            self.array[...] = 0
            if mapped:
                try:
                    self.device_pointer = self._driver.mapped_address(handle)
                except context.driver.error:
                    self.close()
                    raise

    def _release(self) -> None:
        del self.array
        self._driver.free_host(self._handle)


class Event(Resource):
    """A point in the work of a stream, whose time is taken."""

    def __init__(self, context: Context) -> None:
        with Activation(context, "creating an event"):
            handle = context.driver.create_event()
        super().__init__(context, handle)

    def record(self, stream: Stream) -> None:
        """Put the event behind the work that is on a stream now."""
        with Activation(self._context, "recording an event"):
            self._driver.record_event(self._live, stream._live)

    def synchronize(self) -> None:
        """Wait until the event has happened."""
        with Activation(self._context, "waiting for an event"):
            self._driver.synchronize_event(self._live)

    def elapsed_ms(self, start: Event) -> float:
        """Return the milliseconds from ``start`` to this event; both must have happened."""
        with Activation(self._context, "reading the time of an event"):
            return self._driver.elapsed_ms(start._live, self._live)

    def _release(self) -> None:
        self._driver.destroy_event(self._handle)


class Stream(Resource):
    """A queue of work that runs in order, independent of the default stream.

    Attributes:
        handle: The ``CUstream`` as an integer, for example for ``execute_async_v3``.
    """

    def __init__(self, context: Context) -> None:
        with Activation(context, "creating a stream"):
            handle = context.driver.create_stream()
        super().__init__(context, handle)
        self.handle = self._driver.stream_handle(handle)

    def copy_to_device(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Begin to copy an array to the start of a buffer.

        The array must live until the stream is synchronized; if it is not in a `HostBuffer`, the
        driver may copy it before it returns.

        Raises:
            DeviceError: The driver refused the copy.
            ValueError: The array is not contiguous or larger than the buffer.
        """
        _check_copy(buffer, array)
        with Activation(self._context, "copying to the device"):
            self._driver.copy_to_device(buffer.pointer, array, self._live)

    def copy_to_host(self, array: NDArray[Any], buffer: Buffer) -> None:
        """Begin to copy the start of a buffer into an array; valid once synchronized.

        Raises:
            DeviceError: The driver refused the copy.
            ValueError: The array is not contiguous or larger than the buffer.
        """
        _check_copy(buffer, array)
        with Activation(self._context, "copying from the device"):
            self._driver.copy_to_host(array, buffer.pointer, self._live)

    def synchronize(self) -> None:
        """Wait until all work on the stream is done.

        Raises:
            DeviceError: Some of that work failed.
        """
        with Activation(self._context, "running on the device"):
            self._driver.synchronize_stream(self._live)

    def capture(self, work: Callable[[], object]) -> CudaGraph:
        """Record what ``work`` puts on this stream as a graph, instead of running it.

        Run ``work`` once before, so that nothing is allocated while it is recorded.

        Raises:
            DeviceError: Something in ``work`` cannot be recorded.
        """
        with Activation(self._context, "capturing a CUDA graph"):
            self._driver.begin_capture(self._live)
            try:
                work()
            except BaseException:
                self._driver.abandon_capture(self._live)
                raise
            return CudaGraph(self, self._driver.end_capture(self._live))

    def _release(self) -> None:
        self._driver.destroy_stream(self._handle)


class CudaGraph(Resource):
    """Recorded work of a stream; see `Stream.capture`."""

    def __init__(self, stream: Stream, handle: Any) -> None:
        super().__init__(stream._context, handle)
        self._stream = stream

    def launch(self) -> None:
        """Begin to run the recorded work on the stream it was recorded from."""
        with Activation(self._context, "launching a CUDA graph"):
            self._driver.launch_graph(self._live, self._stream._live)

    def _release(self) -> None:
        self._driver.destroy_graph(self._handle)


def _check_copy(buffer: Buffer, array: NDArray[Any]) -> None:
    _ = buffer._live
    if array.nbytes > buffer.nbytes:
        raise ValueError(f"{array.nbytes} bytes do not fit a buffer of {buffer.nbytes}")
    if not array.flags.c_contiguous:
        raise ValueError("only contiguous arrays can be copied")
