"""Cross-layer equalization: move scale between channels without changing the function.

ReLU, pooling, zero-padding and addition commute with a positive factor per channel, so a channel's
writers (rows of the convolutions before it) may be multiplied by any s > 0 when its readers
(columns of the layers after it) are divided by it. Channels that are added to each other share one
factor: along a residual stream every block writes to the same channels, and with option-A
shortcuts the streams of all stages are one. The factor is chosen so that a channel's activations
and the weights that read it become equally large, ``s = sqrt(w / a)``; if a network was rescaled by
any factors, the result is the same as without (Nagel et al. 2019, arXiv 1906.04721, for pairs of
layers; here for whole streams, with activation statistics in place of per-tensor weight ranges).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.quantize.channels import ChannelMap, map_channels

__all__ = ["Equalized", "equalize"]

_LIMIT = 1e6  # factors beyond this mean a dead channel, not an imbalance


@dataclass(frozen=True)
class Equalized:
    """A model with the same function and evener channels.

    Attributes:
        model: The rescaled copy.
        groups: Number of independent channel groups that were free to be scaled.
        spread: Largest factor over the smallest.
    """

    model: ModelProto
    groups: int
    spread: float


def equalize(model: ModelProto, maxima: Mapping[str, NDArray[Any]]) -> Equalized:
    """Return an equalized copy.

    Args:
        model: Float graph with folded batch norms.
        maxima: For activation tensors: per channel, the mean over images of the largest
            magnitude. Tensors without an entry do not take part in choosing the factors.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    channels = map_channels(copy)
    factors = np.exp(_log_factors(channels, maxima))
    for writer in channels.writers:
        scale = factors[channels.root(writer.ids)]
        channels.multiply(writer.weight, scale, axis=0)
        if writer.bias:
            channels.multiply(writer.bias, scale, axis=0)
    for reader in channels.readers:
        inverse = 1 / factors[channels.root(reader.ids)]
        channels.multiply_columns(reader, inverse)
    channels.store(copy)
    free = [f for f in factors[channels.free_roots()] if f != 1.0]
    return Equalized(copy, len(free), float(max(free) / min(free)) if free else 1.0)


def _log_factors(channels: ChannelMap, maxima: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the logarithm of every channel group's factor; 0 for groups that are not free."""
    activation = _mean_log(
        channels,
        [
            (channels.ids[t], values)
            for t, values in maxima.items()
            if len(channels.ids.get(t, ())) == len(values)  # else its rows are not the images
        ],
    )
    weight = _mean_log(
        channels, [(reader.ids, channels.column_level(reader)) for reader in channels.readers]
    )
    balanced = (activation + weight) / 2  # what both become
    level = _level_of_neighbours(channels, balanced)
    factors = np.where(np.isnan(balanced), 0.0, (weight - activation) / 2)
    # A channel that is always zero, or that nobody reads, takes its neighbours' level, so that it
    # neither widens the tensor's range nor the range of the weights that read it.
    dead = np.isnan(activation) & ~np.isnan(weight)
    unread = np.isnan(weight) & ~np.isnan(activation)
    factors = np.where(dead, weight - level, factors)
    factors = np.where(unread, level - activation, factors)
    factors[~channels.free] = 0.0
    return np.asarray(np.clip(np.nan_to_num(factors), -np.log(_LIMIT), np.log(_LIMIT)))


def _mean_log(
    channels: ChannelMap, observations: list[tuple[NDArray[Any], NDArray[Any]]]
) -> NDArray[Any]:
    """Average the logarithm of positive observations per group; NaN where there are none."""
    total, count = np.zeros(channels.size), np.zeros(channels.size)
    for ids, values in observations:
        roots, positive = channels.root(ids), values > 0
        np.add.at(total, roots[positive], np.log(values[positive]))
        np.add.at(count, roots[positive], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count)


def _level_of_neighbours(channels: ChannelMap, balanced: NDArray[Any]) -> NDArray[Any]:
    """Return, per group, the mean balanced level of the channels read by the same layers."""
    levels: dict[int, list[float]] = defaultdict(list)
    for reader in channels.readers:
        roots = channels.root(reader.ids)
        known = balanced[roots][~np.isnan(balanced[roots])]
        if known.size:
            for root in roots:
                levels[int(root)].append(float(known.mean()))
    out = np.zeros(channels.size)
    for root, values in levels.items():
        out[root] = np.mean(values)
    return out
