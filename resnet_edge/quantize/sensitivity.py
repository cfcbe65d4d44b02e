"""Which layers suffer most from INT8: a cheap ranking first, a measured confirmation after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from resnet_edge.bundle.ranges_table import Ranges
from resnet_edge.graph.macs import layer_macs
from resnet_edge.graph.operators import WEIGHTED
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.probe import layer_errors
from resnet_edge.quantize.qdq import engine_graph
from resnet_edge.quantize.score import HeldOut, Inputs

__all__ = ["LayerSensitivity", "rank_layers"]


@dataclass(frozen=True)
class LayerSensitivity:
    """What INT8 does to one layer.

    Attributes:
        name: Name of the Conv or Gemm.
        sqnr_db: Signal-to-quantization-noise ratio of its output when it alone is quantized, on
            float inputs; the cheap proxy.
        kl: Mean KL divergence of the softmax, in nats, when it alone is quantized; None where only
            the proxy was computed.
        macs: Multiply-adds for one image.
        macs_share: The same as a share of all layers.
    """

    name: str
    sqnr_db: float
    kl: float | None
    macs: int
    macs_share: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))


def rank_layers(
    model: ModelProto,
    ranges: Ranges,
    inputs: Inputs,
    held_out: HeldOut,
    *,
    confirm: int | None = None,
    progress: Progress = SILENT,
) -> tuple[LayerSensitivity, ...]:
    """Rank the weighted layers, most sensitive first.

    Args:
        model: Float graph.
        ranges: Of its tensors.
        inputs: Images for the proxy.
        held_out: Images for the measured confirmation.
        confirm: How many of the proxy's worst layers are measured; default all. The measured ones
            come first, by KL; the others follow, by SQNR.
        progress: Listener.
    """
    placement = place(model.graph)
    errors = layer_errors(model, placement, ranges, inputs)
    macs = layer_macs(model, WEIGHTED)
    total = sum(macs[name] for name in errors)
    by_proxy = sorted(errors, key=lambda name: errors[name].sqnr_db)
    measured: dict[str, float] = {}
    with progress.task("sensitivity", total=len(by_proxy[:confirm])) as task:
        for name in by_proxy[:confirm]:
            alone = place(model.graph, keep_float=[n for n in errors if n != name])
            graph = engine_graph(model, alone, ranges, weights="rounded")
            measured[name] = held_out.score(graph).kl
            task.advance(status=f"{name} KL {measured[name]:.2g}")
    order = sorted(measured, key=lambda name: -measured[name])
    order += [name for name in by_proxy if name not in measured]
    return tuple(
        LayerSensitivity(
            name, errors[name].sqnr_db, measured.get(name), macs[name], macs[name] / total
        )
        for name in order
    )
