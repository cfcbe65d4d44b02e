"""Which layers suffer most from INT8: a cheap ranking first, a measured confirmation after."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from onnx import ModelProto

from resnet_edge.bundle.ranges_table import Ranges
from resnet_edge.graph.nodes import GraphIndex, attribute
from resnet_edge.graph.onnx_model import infer_shapes
from resnet_edge.graph.operators import WEIGHTED
from resnet_edge.progress import SILENT, Progress
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.probe import layer_errors
from resnet_edge.quantize.qdq import engine_graph
from resnet_edge.quantize.score import HeldOut, Inputs

__all__ = ["LayerSensitivity", "layer_macs", "rank_layers"]


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
    macs = layer_macs(model)
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


def layer_macs(model: ModelProto) -> dict[str, int]:
    """Return the multiply-adds of every Conv and Gemm for one image."""
    shapes, index, found = infer_shapes(model), GraphIndex(model.graph), {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED:
            continue
        weight = index.constant(node.input[1])
        if weight is None:
            continue
        positions = prod(extent or 0 for extent in shapes.get(node.output[0], ())[2:])
        per_output = weight[0].size if _rows_first(node) else weight.shape[0]
        rows = weight.shape[0] if _rows_first(node) else weight.shape[1]
        found[node.name] = int(positions * per_output * rows)
    return found


def _rows_first(node: Any) -> bool:
    return node.op_type == "Conv" or bool(attribute(node, "transB", 0))
