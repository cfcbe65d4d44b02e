"""Plots, drawn with matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_edge.errors import BackendUnavailableError, ConfigError
from resnet_edge.files import atomic_path
from resnet_edge.quantize.sensitivity import LayerSensitivity

__all__ = ["check_picture", "plot_sensitivity", "require_matplotlib"]


def plot_sensitivity(ranking: Sequence[LayerSensitivity], path: Path) -> None:
    """Draw KL divergence and SQNR of every layer, most sensitive on top.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    figure = new_figure(8, 1.2 + 0.22 * len(ranking))
    left, right = figure.subplots(1, 2, sharey=True)
    names = [layer.name for layer in ranking]
    left.barh(names, [layer.kl or 0.0 for layer in ranking], color="#c44e52")
    left.set_xlabel("mean KL divergence when quantized alone, nats")
    right.barh(names, [layer.sqnr_db for layer in ranking], color="#4c72b0")
    right.set_xlabel("SQNR of its output, dB")
    left.xaxis.set_major_formatter("{x:.2g}")
    left.locator_params(axis="x", nbins=4)
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    save_figure(figure, path)


def require_matplotlib() -> None:
    """Find out before a long computation whether its plot can be drawn.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            "matplotlib is not installed", hint="pip install 'resnet-edge[report]'"
        ) from error


def check_picture(path: Path) -> None:
    """Raise unless a plot can be drawn into this file.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
        ConfigError: It does not know this kind of file.
    """
    require_matplotlib()
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in ("", *kinds):
        raise ConfigError(
            f"{path}: no plot can be written as {path.suffix}",
            hint="use .svg, .png or .pdf",
        )


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of this size in inches."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "svg")
