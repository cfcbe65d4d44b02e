"""Learning curves and layer responses, drawn with matplotlib without a display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from resnet_edge.experiment.curves import Comparison, Curve
from resnet_edge.experiment.responses import NetworkResponses
from resnet_edge.report.plots import new_figure, save_figure

__all__ = ["plot_curves", "plot_responses"]


# Okabe and Ito's colours, told apart by everybody.
_COLORS = ("#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7")


def plot_curves(comparison: Comparison, path: Path) -> None:
    """Draw training error (thin) and test error (bold) against iterations.

    Plain networks are on the left and residual ones on the right, where there are both. A line is
    the mean over the seeds, the band around it goes from the best to the worst.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    networks = comparison.by_network()
    panels = [
        {name: curves for name, curves in networks.items() if name.startswith("plain") == plain}
        for plain in (True, False)
    ]
    panels = [panel for panel in panels if panel]
    colors = _colors(networks)
    figure = new_figure(4.5 * len(panels), 3.6)
    for axes, panel in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        for name, curves in panel.items():
            _draw_network(axes, name, curves, colors[name])
        axes.set_xlabel("iterations")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(title="thin: training · bold: test", title_fontsize=8, fontsize=8)
    figure.axes[0].set_ylabel("error, %")
    figure.axes[0].set_ylim(0, _upper_limit(comparison))
    save_figure(figure, path)


def plot_responses(measured: Sequence[NetworkResponses], path: Path) -> None:
    """Draw the standard deviation of every layer's response, plain dashed and residual solid.

    On top the layers are in the order of execution, below in descending order. A line is the mean
    over the seeds.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    networks: dict[str, list[list[float]]] = {}
    for one in measured:
        networks.setdefault(one.network, []).append([layer.std for layer in one.layers])
    colors = _colors(networks)
    figure = new_figure(7, 5.6)
    for axes, title in zip(
        figure.subplots(2, 1), ("layer", "layer, in descending order"), strict=True
    ):
        for name, seeds in networks.items():
            stds = [sum(row) / len(row) for row in zip(*seeds, strict=True)]
            if axes is figure.axes[1]:
                stds.sort(reverse=True)
            line = "--" if name.startswith("plain") else "-"
            axes.plot(range(1, len(stds) + 1), stds, line, label=name, lw=1.4, color=colors[name])
        axes.set_xlabel(title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("std of the response")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8, ncols=2)
    save_figure(figure, path)


def _draw_network(axes: Any, name: str, curves: Sequence[Curve], color: str) -> None:
    first = curves[0]
    for x, values, width, label in (
        (first.train_iterations, [c.train_error for c in curves], 0.8, None),
        (first.iterations, [c.test_error for c in curves], 2.4, name),
    ):
        rows = list(zip(*values, strict=True))
        axes.plot(x, [sum(row) / len(row) for row in rows], color=color, lw=width, label=label)
        if len(curves) > 1:
            low, high = [min(row) for row in rows], [max(row) for row in rows]
            axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)


def _colors(networks: Iterable[str]) -> dict[str, str]:
    """Return one colour for each depth, the same for a plain network and its residual twin."""
    depths = {name: name.removeprefix("plain").removeprefix("resnet") for name in networks}
    order = list(dict.fromkeys(depths.values()))
    return {name: _COLORS[order.index(depth) % len(_COLORS)] for name, depth in depths.items()}


def _upper_limit(comparison: Comparison) -> float:
    """Return half as much again as the largest training error after the first quarter."""
    settled = [max(c.train_error[len(c.train_error) // 4 :]) for c in comparison.curves]
    return min(100.0, 1.5 * max(settled))
