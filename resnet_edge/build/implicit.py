"""Calibration for implicit INT8: TensorRT places the quantization, we give ranges or images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from resnet_edge.backends.config import BuildConfig, Calibration
from resnet_edge.backends.tensorrt.calibration_cache import encode_cache
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.calibrate.derived_ranges import derive_ranges
from resnet_edge.errors import ConfigError, DataError
from resnet_edge.files import sha256_json
from resnet_edge.images.batches import Feeds
from resnet_edge.images.source import ImageSource, NetworkInputs
from resnet_edge.quantize.stage import base_model, float_layers, load_table

__all__ = ["calibration_sha256", "implicit_calibration"]


def implicit_calibration(
    bundle: Bundle, config: BuildConfig, images: ImageSource | NetworkInputs | None
) -> Calibration:
    """Return what an implicit build of a bundle takes its ranges from.

    Args:
        bundle: With a calibration, unless TensorRT is to calibrate on images itself.
        config: Of the build; ``implicit`` is set.
        images: What TensorRT calibrates on, for ``entropy`` and ``minmax``.

    Raises:
        CalibrationError: The bundle has no calibration.
        ConfigError: Images are missing, or TensorRT's calibrator cannot be fed with them.
    """
    keep_float = float_layers(bundle)
    if config.implicit == "ranges":
        table = load_table(bundle)
        cache = encode_cache(derive_ranges(base_model(bundle).graph, table.amax))
        return Calibration(cache=cache, keep_float=keep_float)
    if images is None:
        raise ConfigError(
            f"--calibrator {config.implicit} runs on images, and there are none",
            hint="add --data DIR, or use --calibrator ranges",
        )
    spec, batch = bundle.model.image_spec, config.profile[1]
    if spec.input != "float":
        raise ConfigError(
            "TensorRT's calibrator takes float32 inputs, this model takes uint8",
            hint="use --calibrator ranges, or export with --input float",
        )
    if len(images) < batch:
        raise DataError(
            f"{images.path} has {len(images)} images, one batch of the profile takes {batch}",
            hint=f"give more images, or a smaller optimal batch than {batch} with --profile",
        )

    def batches() -> Iterator[NDArray[Any]]:
        for array, _ in Feeds(images, spec, batch, range(len(images))):
            if len(array) == batch:  # TensorRT takes full batches only
                yield array

    return Calibration(batches=batches, keep_float=keep_float)


def calibration_sha256(calibration: Calibration, images: ImageSource | NetworkInputs | None) -> str:
    """Return a hash of what a calibration depends on."""
    keys = (
        [] if images is None or calibration.cache else [images.key(i) for i in range(len(images))]
    )
    cache = (calibration.cache or b"").decode()
    return sha256_json([cache, keys, list(calibration.keep_float)])
