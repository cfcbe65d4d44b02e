"""One stream of inferences: an execution context with its stream, its memory and its graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from resnet_edge.backends.base import Timings
from resnet_edge.backends.cuda.device import Device
from resnet_edge.backends.cuda.resources import Buffer, CudaGraph, Event, HostBuffer
from resnet_edge.backends.tensorrt.logger import Message
from resnet_edge.backends.tensorrt.messages import explain
from resnet_edge.errors import DeviceError
from resnet_edge.tensors import TensorSpec

if TYPE_CHECKING:
    import tensorrt

__all__ = ["Lane"]

log = logging.getLogger(__name__)


@dataclass
class _Tensor:
    """Memory of one input or output: page-locked, and on the device unless that is the same."""

    host: HostBuffer
    device: Buffer | None

    @property
    def address(self) -> int:
        if self.device is None:
            assert self.host.device_pointer is not None  # zero-copy memory has one
            return self.host.device_pointer
        return self.device.pointer

    def close(self) -> None:
        self.host.close()
        if self.device is not None:
            self.device.close()


class Lane:
    """Runs one inference at a time.

    Memory is allocated for the largest batch seen so far. The second inference in a row with the
    same batch captures a CUDA graph, which the following ones launch; another batch ends it, since
    a context that was set to other shapes may have changed what the graph reads.

    Args:
        device: The GPU.
        context: TensorRT's execution context, not used elsewhere.
        inputs: Of the engine.
        outputs: Of the engine.
        record: What TensorRT says.
        capture: Whether to use CUDA graphs.
    """

    def __init__(
        self,
        device: Device,
        context: tensorrt.IExecutionContext,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        record: Message,
        *,
        capture: bool,
    ) -> None:
        self._device, self._record, self._capture = device, record, capture
        self._context: tensorrt.IExecutionContext | None = context
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._stream = device.stream()
        self._room = 0  # batch that the memory is for
        self._batch = 0  # batch that the context is set to
        self._tensors: dict[str, _Tensor] = {}
        self._runs = 0  # with this batch
        self._graph: CudaGraph | None = None
        # Only a first context has a profile by itself.
        if not context.set_optimization_profile_async(0, self._stream.handle):
            self._stream.close()
            self._fail("TensorRT refused the optimization profile")
        self._stream.synchronize()

    def run(
        self, feed: Mapping[str, NDArray[Any]], mark: Callable[[int], None] = lambda _: None
    ) -> dict[str, NDArray[Any]]:
        """Run once; the arrays returned are the caller's.

        Args:
            feed: Inputs by name.
            mark: Called with 0 to 3 before, between and after what is put on the stream: copying
                in, computing, copying out.
        """
        try:
            batch = self._prepare(feed)
            mark(0)
            self._copy_in(batch)
            mark(1)
            self._execute()
            mark(2)
            self._copy_out(batch)
            mark(3)
            self._stream.synchronize()
        except DeviceError:
            self._batch = 0  # whatever is still set, the next run sets it again
            raise
        return {o.name: self._tensors[o.name].host.array[:batch].copy() for o in self._outputs}

    def measure(self, feed: Mapping[str, NDArray[Any]], seconds: float, count: int) -> Timings:
        """Time runs until both the duration and the count are reached.

        The whole is what a caller waits for `run`; the parts are the GPU's, between events on the
        stream. The rest of the whole is copying from and to the caller's arrays, and launching.
        """
        whole: list[float] = []
        spans: list[list[float]] = []
        with ExitStack() as stack:
            events: list[Event] = [stack.enter_context(self._device.event()) for _ in range(4)]
            end = perf_counter() + seconds
            while len(whole) < count or perf_counter() < end:
                started = perf_counter()
                self.run(feed, lambda point: events[point].record(self._stream))
                whole.append(1000 * (perf_counter() - started))
                spans.append([after.elapsed_ms(before) for before, after in pairwise(events)])
        columns = zip(*spans, strict=True)
        return Timings(tuple(whole), dict(zip(("h2d", "compute", "d2h"), columns, strict=True)))

    def close(self) -> None:
        """Release graph, memory and stream, then the context."""
        with ExitStack() as stack:
            stack.callback(setattr, self, "_context", None)
            stack.callback(self._stream.close)
            for tensor in self._tensors.values():
                stack.callback(tensor.close)
            stack.callback(self._forget_graph)
            self._tensors = {}

    def _prepare(self, feed: Mapping[str, NDArray[Any]]) -> int:
        """Put the inputs into page-locked memory and set the context to their batch."""
        batch = len(feed[self._inputs[0].name])
        if batch > self._room:
            self._allocate(batch)
        if batch != self._batch:
            self._set_shapes(batch)
        for spec in self._inputs:
            self._tensors[spec.name].host.array[:batch] = feed[spec.name]
        return batch

    def _allocate(self, batch: int) -> None:
        self._forget_graph()  # it holds the old addresses
        for tensor in self._tensors.values():
            tensor.close()
        self._tensors, self._room, self._batch = {}, 0, 0
        for spec in (*self._inputs, *self._outputs):
            shape = (batch, *(int(n or 0) for n in spec.shape[1:]))
            host = self._device.host_buffer(shape, spec.dtype)
            self._tensors[spec.name] = tensor = _Tensor(host, None)
            if host.device_pointer is None:
                tensor.device = self._device.alloc(host.nbytes)
        self._room = batch

    def _set_shapes(self, batch: int) -> None:
        self._forget_graph()
        self._batch = self._runs = 0
        context: tensorrt.IExecutionContext = self._live
        for spec in self._inputs:
            shape = (batch, *spec.shape[1:])
            if not context.set_input_shape(spec.name, shape):
                self._fail(f"TensorRT refused the shape {shape} of {spec.name}")
        if missing := context.infer_shapes():
            self._fail(f"TensorRT does not know the shape of {', '.join(missing)}")
        for name, tensor in self._tensors.items():
            if not context.set_tensor_address(name, tensor.address):
                self._fail(f"TensorRT refused the memory of {name}")
        self._batch = batch

    def _copy_in(self, batch: int) -> None:
        for spec in self._inputs:
            tensor = self._tensors[spec.name]
            if tensor.device is not None:
                self._stream.copy_to_device(tensor.device, tensor.host.array[:batch])

    def _copy_out(self, batch: int) -> None:
        for spec in self._outputs:
            tensor = self._tensors[spec.name]
            if tensor.device is not None:
                self._stream.copy_to_host(tensor.host.array[:batch], tensor.device)

    def _execute(self) -> None:
        if self._capture and self._runs == 1:
            self._capture_graph()
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()
        self._runs += 1

    def _capture_graph(self) -> None:
        """Capture what runs this batch; without a graph it still runs, only slower."""
        try:
            self._graph = self._stream.capture(self._enqueue)
        except DeviceError as error:
            log.info("no CUDA graphs for this engine: %s", error)
            self._capture = False

    def _enqueue(self) -> None:
        context: tensorrt.IExecutionContext = self._live
        if not context.execute_async_v3(stream_handle=self._stream.handle):
            self._fail("TensorRT could not run the engine")

    @property
    def _live(self) -> tensorrt.IExecutionContext:
        if self._context is None:
            raise DeviceError("the session is closed")
        return self._context

    def _forget_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.close()

    def _fail(self, what: str) -> None:
        reason, hint = explain(self._record.errors)
        raise DeviceError(f"{what}: {reason}", hint=hint)
