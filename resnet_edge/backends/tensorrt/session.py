"""Running an engine: one path for every TensorRT, usable from several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from resnet_edge.backends.base import SelfTimed, Timings
from resnet_edge.backends.cuda.device import open_device
from resnet_edge.backends.tensorrt.engine import LoadedEngine, LoadOptions
from resnet_edge.backends.tensorrt.lane import Lane
from resnet_edge.backends.tensorrt.logger import recording
from resnet_edge.backends.tensorrt.messages import explain
from resnet_edge.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import tensorrt

__all__ = ["Contexts", "PlainContexts", "TensorRTSession"]

_WARM_UP = 20  # inferences at least: the first ones set shapes and capture the graph


class Contexts(Protocol):
    """Makes execution contexts of one engine.

    Attributes:
        capture: Whether CUDA graphs are ours to capture.
    """

    capture: bool

    def create(self, engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext:
        """Return a new context, None if TensorRT has no memory for it."""

    def close(self) -> None:
        """Keep what is worth keeping, after the last inference."""


class PlainContexts:
    """Contexts as every TensorRT makes them."""

    capture = True

    def create(self, engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext:
        """Return a new context."""
        return engine.create_execution_context()

    def close(self) -> None:
        """Keep nothing."""


class TensorRTSession(SelfTimed):
    """An engine on the GPU.

    Every thread that runs at the same time gets an execution context, a stream and memory of its
    own; they are made when needed and used again.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        data: The engine.
        options: How to load it.
        contexts: Makes execution contexts.

    Raises:
        BackendUnavailableError: There is no GPU, or no library that reaches it.
        DeviceError: There is not enough memory.
        EngineMismatchError: The engine is not for this runtime or device.
    """

    def __init__(
        self,
        trt: ModuleType,
        data: bytes,
        options: LoadOptions,
        contexts: Contexts | None = None,
    ) -> None:
        self._trt, self._lock = trt, threading.Lock()
        self._contexts = contexts or PlainContexts()
        self._closed = False
        self._lanes: list[Lane] = []
        self._free: list[Lane] = []
        with ExitStack() as stack:
            self._device = stack.enter_context(open_device())
            logger, self._record = stack.enter_context(recording(trt))
            with self._device.activate():
                self._engine = LoadedEngine(trt, data, options, logger, self._record)
            self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
            self._close = stack.pop_all()

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once and return every output.

        Raises:
            ConfigError: The arrays are not what the engine takes.
            DeviceError: The GPU failed.
        """
        self._check(feed)
        with self._device.activate(), self._lane() as lane:
            return lane.run(feed)

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest batch of the profile."""
        return self._engine.profile

    def measure(
        self, feed: Mapping[str, NDArray[Any]], *, warm_up: float, seconds: float, count: int
    ) -> Timings:
        """Time one call after another, and let the GPU say where each spent its time; see `run`."""
        self._check(feed)
        with self._device.activate(), self._lane() as lane:
            lane.measure(feed, warm_up, _WARM_UP)
            return lane.measure(feed, seconds, count)

    def close(self) -> None:
        """Release contexts, engine and runtime in this order, then the GPU; twice is allowed.

        Raises:
            DeviceError: A thread is still running, and nothing was released; or something could not
                be released, and all the rest was.
        """
        with self._lock:
            if self._closed:
                return
            if running := len(self._lanes) - len(self._free):
                raise DeviceError(f"the session cannot be closed: {running} threads use it")
            self._closed = True
        with self._close, self._device.activate(), ExitStack() as stack:
            stack.callback(self._engine.close)
            stack.callback(self._contexts.close)
            for lane in self._lanes:
                stack.callback(lane.close)
            self._lanes.clear()
            self._free.clear()

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        with self._lock:
            if self._closed:
                raise DeviceError("the session is closed")
            lane = self._free.pop() if self._free else self._new_lane()
        try:
            yield lane
        finally:
            with self._lock:
                self._free.append(lane)

    def _new_lane(self) -> Lane:
        context: tensorrt.IExecutionContext = self._contexts.create(self._engine.engine)
        if context is None:
            reason, hint = explain(self._record.errors)
            raise DeviceError(f"TensorRT could not make an execution context: {reason}", hint=hint)
        lane = Lane(
            self._device, context, self.inputs, self.outputs, self._record,
            capture=self._contexts.capture,
        )  # fmt: skip
        self._lanes.append(lane)
        return lane

    def _check(self, feed: Mapping[str, NDArray[Any]]) -> None:
        names = {spec.name for spec in self.inputs}
        if set(feed) != names:
            raise ConfigError(f"the engine takes {sorted(names)}, not {sorted(feed)}")
        low, high = self.batch_range
        for spec in self.inputs:
            array = feed[spec.name]
            fits = array.ndim == len(spec.shape) and array.shape[1:] == spec.shape[1:]
            if not fits or str(array.dtype) != spec.dtype:
                raise ConfigError(
                    f"{spec.name} must be {spec.dtype} of shape {('batch', *spec.shape[1:])}, not "
                    f"{array.dtype} of shape {array.shape}"
                )
            if not low <= len(array) <= high:
                takes = f"{low} to {high}" if low < high else f"{low}"
                raise ConfigError(
                    f"the engine takes {takes} images at once, not {len(array)}",
                    hint="build with a wider --profile",
                )
