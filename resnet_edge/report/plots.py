"""Plots, drawn with matplotlib without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_edge.artifacts import atomic_path
from resnet_edge.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from resnet_edge.quantize.sensitivity import LayerSensitivity

__all__ = ["plot_sensitivity"]


def plot_sensitivity(ranking: Sequence[LayerSensitivity], path: Path) -> None:
    """Draw KL divergence and SQNR of every layer, most sensitive on top.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailableError(
            "matplotlib is not installed", hint="pip install 'resnet-edge[report]'"
        ) from error
    figure = Figure(figsize=(8, 1.2 + 0.22 * len(ranking)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = [layer.name for layer in ranking]
    left.barh(names, [layer.kl or 0.0 for layer in ranking], color="#c44e52")
    left.set_xlabel("mean KL divergence when quantized alone, nats")
    right.barh(names, [layer.sqnr_db for layer in ranking], color="#4c72b0")
    right.set_xlabel("SQNR of its output, dB")
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "svg")
