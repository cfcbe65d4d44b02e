"""The fastest of several builds: a builder times kernels, so engines of one graph can differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_edge.tensors import TensorSpec

__all__ = ["fastest", "random_feed"]

_Built = TypeVar("_Built")


def fastest(
    builds: Sequence[_Built], gpu_ms: Callable[[_Built], float], batch: int
) -> tuple[_Built, tuple[str, ...]]:
    """Return the build that takes the GPU least time, and what was measured; one is not measured.

    Args:
        builds: At least one.
        gpu_ms: Returns the GPU's milliseconds for one call with ``batch`` images.
        batch: Images of a call.
    """
    if len(builds) == 1:
        return builds[0], ()
    times = [gpu_ms(built) for built in builds]
    best = min(range(len(builds)), key=times.__getitem__)
    listed = ", ".join(f"{ms:.3f}" for ms in times)
    return builds[best], (
        f"the fastest of {len(builds)} builds; GPU ms at batch {batch}: {listed}",
    )


def random_feed(inputs: Sequence[TensorSpec], batch: int) -> dict[str, NDArray[Any]]:
    """Return the same arbitrary numbers every time, by input name.

    Args:
        inputs: Of a network; the first dimension is the batch.
        batch: Images.
    """
    random = np.random.default_rng(0)
    return {
        spec.name: random.uniform(0, 2, (batch, *(n or 1 for n in spec.shape[1:]))).astype(
            spec.dtype
        )
        for spec in inputs
    }
