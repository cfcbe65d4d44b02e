"""Round weights to int8, one scale per output channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_edge.tensors import QMAX

__all__ = ["quantize_weight", "round_weight", "scales_for_bias", "weight_scales"]


def weight_scales(weight: NDArray[Any], qmax: int = QMAX) -> NDArray[Any]:
    """Return one scale per output channel (axis 0): ``max|w| / qmax``.

    Computed in the weight's own type and rounded up there, so that nothing is clipped when the
    scale is a float16. A channel of zeros gets scale 1.
    """
    amax = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
    exact = np.where(amax > 0, amax / qmax, 1.0)
    scale = exact.astype(weight.dtype)
    if weight.dtype == np.float16:
        scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    tiny = np.finfo(weight.dtype).smallest_subnormal
    return np.asarray(np.maximum(scale, tiny), weight.dtype)


def quantize_weight(weight: NDArray[Any], scales: NDArray[Any]) -> NDArray[np.int8]:
    """Return ``clip(round_half_even(w / scale), -127, 127)`` as int8, channel axis 0."""
    shaped = scales.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
    return np.clip(np.rint(weight / shaped), -QMAX, QMAX).astype(np.int8)


def round_weight(weight: NDArray[Any], scales: NDArray[Any]) -> NDArray[Any]:
    """Return the weight as its integers dequantize, in its own type."""
    shaped = scales.reshape(-1, *([1] * (weight.ndim - 1)))
    return np.asarray(quantize_weight(weight, scales) * shaped, weight.dtype)


def scales_for_bias(
    weight: NDArray[Any], scales: NDArray[Any], bias: NDArray[Any], input_scale: float
) -> NDArray[np.float32]:
    """Return weight scales with which every bias fits int32 and keeps its precision.

    The bias is stored in steps of input scale x weight scale. A channel of zeros may take any
    scale, so it takes the one that stores its bias in 2^15 steps.
    """
    magnitude = np.abs(bias.astype(np.float64)) / input_scale
    dead = ~weight.reshape(len(weight), -1).any(axis=1)
    scales = np.where(dead & (bias != 0), magnitude / 2**15, scales)
    return np.asarray(np.maximum(scales, magnitude / 2**30), np.float32)
