"""Implicit INT8 quantization: TensorRT's calibrator, fed from our ranges or from our images.

Only where the module has calibrators (TensorRT 8 and 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from resnet_edge.backends.config import Calibration, Calibrator
from resnet_edge.backends.cuda.device import open_device
from resnet_edge.backends.tensorrt.calibration_cache import cache_for
from resnet_edge.backends.tensorrt.callbacks import Failure
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    import tensorrt

__all__ = ["attach_calibrator"]


@contextmanager
def attach_calibrator(
    trt: ModuleType,
    builder_config: tensorrt.IBuilderConfig,
    kind: Calibrator,
    calibration: Calibration,
    batch: int,
    failure: Failure,
) -> Iterator[None]:
    """Calibrate the build that follows, in this block.

    Args:
        trt: The module.
        builder_config: Of the build.
        kind: Our ranges, or which algorithm TensorRT is to run on the images.
        calibration: Ranges or images.
        batch: Number of images in each of its batches.
        failure: Takes what goes wrong in a callback.

    Raises:
        BackendUnavailableError: Images need a library that reaches the GPU; there is none.
        ConfigError: The calibration has neither ranges nor images.
    """
    with ExitStack() as stack:
        cache: bytes | None = None
        next_batch: Callable[[], int | None] = _nothing
        if calibration.cache is not None:
            cache = cache_for(trt.__version__, calibration.cache)
        elif calibration.batches is not None:
            next_batch = stack.enter_context(_batches_on_device(calibration.batches()))
        else:
            raise ConfigError("implicit INT8 needs ranges or images", hint="add --data DIR")
        calibrator = _make_calibrator(trt, kind, batch, cache, next_batch, failure)
        builder_config.int8_calibrator = calibrator
        yield  # the calibrator stays referenced until the build has ended


def _make_calibrator(
    trt: ModuleType,
    kind: Calibrator,
    batch: int,
    cache: bytes | None,
    next_batch: Callable[[], int | None],
    failure: Failure,
) -> Any:
    base = trt.IInt8MinMaxCalibrator if kind == "minmax" else trt.IInt8EntropyCalibrator2

    class OurCalibrator(base):  # type: ignore[misc, valid-type]  # the bindings are untyped
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            address = None
            with failure.caught():
                address = next_batch()
            return None if address is None else [address]

        def read_calibration_cache(self) -> bytes | None:
            return cache

        def write_calibration_cache(self, cache: Any) -> None:
            """Keep nothing: ours are kept already, and another build may have other images."""

    return OurCalibrator()


def _nothing() -> None:
    return None


@contextmanager
def _batches_on_device(batches: Iterator[NDArray[Any]]) -> Iterator[Callable[[], int | None]]:
    """Yield a function that copies the next batch to the device and returns its address."""
    with open_device() as device:
        stream = device.stream()
        staged: dict[str, Any] = {}

        def next_batch() -> int | None:
            array = next(batches, None)
            if array is None:
                return None
            if not staged:
                staged["host"] = device.host_buffer(array.shape, array.dtype, mapped=False)
                staged["device"] = device.alloc(array.nbytes)
            staged["host"].array[...] = array
            stream.copy_to_device(staged["device"], staged["host"].array)
            stream.synchronize()
            return int(staged["device"].pointer)

        yield next_batch
