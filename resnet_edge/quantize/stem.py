"""Give the first convolution of a CPU twin four times the channels at half the resolution.

ONNX Runtime's integer kernels read the channels of a pixel four at a time and have a slow path for
fewer. A convolution of stride 2 over C channels is one of stride 1 over the 4 C channels of 2 x 2
blocks of pixels, with the same weights in other places and zeros between: the same integers are
multiplied and added, so the result is the same to the bit. The blocks are made of the float input:
ONNX Runtime 1.23, the last for Python 3.10, has no SpaceToDepth of uint8; no version is slower so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from resnet_edge.graph.nodes import GraphIndex, attribute, insert_sorted, prune
from resnet_edge.graph.onnx_model import infer_shapes
from resnet_edge.graph.operators import DQ, Q

__all__ = ["block_the_stem"]

_FEW_CHANNELS = 4


def block_the_stem(model: ModelProto) -> None:
    """Let quantized convolutions of stride 2 with fewer than 4 channels read blocks, in place.

    Only where the resolution is known and even; other models stay as they are.
    """
    index, shapes = GraphIndex(model.graph), infer_shapes(model)
    nodes = list(model.graph.node)
    for node in model.graph.node:
        found = _stem(node, index, shapes)
        if found is not None:
            nodes += _blocked(model, node, found)
    insert_sorted(model.graph, nodes)
    prune(model.graph)


@dataclass(frozen=True)
class _Stem:
    """A convolution to change.

    Attributes:
        quantizer: QuantizeLinear of its input.
        source: DequantizeLinear between the two.
        kernel: That of its weights.
        weight: int8, O x C x KH x KW.
        axes: First pad, last pad and length of the new kernel, for height and width.
    """

    quantizer: NodeProto
    source: NodeProto
    kernel: NodeProto
    weight: NDArray[Any]
    axes: tuple[tuple[int, int, int], ...]


def _stem(
    node: NodeProto, index: GraphIndex, shapes: dict[str, tuple[int | None, ...]]
) -> _Stem | None:
    if node.op_type != "Conv":
        return None
    source, kernel = (index.producer.get(name) for name in node.input[:2])
    if source is None or kernel is None:
        return None
    if {source.op_type, kernel.op_type} != {DQ}:
        return None
    quantizer = index.producer.get(source.input[0])
    if quantizer is None or quantizer.op_type != Q:
        return None
    weight, shape = index.constant(kernel.input[0]), shapes.get(quantizer.input[0], ())
    if weight is None or weight.ndim != len(shape) or weight.ndim != 4:
        return None
    plain = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET" and attribute(node, "group", 1) == 1
    steps = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    if weight.shape[1] >= _FEW_CHANNELS or not plain or steps != ([2, 2], [1, 1]):
        return None
    pads = attribute(node, "pads", [0, 0, 0, 0])
    axes = [_axis(shape[2 + i], weight.shape[2 + i], pads[i], pads[2 + i]) for i in (0, 1)]
    known = tuple(axis for axis in axes if axis is not None)
    return _Stem(quantizer, source, kernel, weight, known) if len(known) == len(axes) else None


def _axis(size: int | None, kernel: int, before: int, after: int) -> tuple[int, int, int] | None:
    """Return pads and kernel, in blocks of two pixels, that read the same pixels."""
    if size is None or size % 2:
        return None
    outputs = (size + before + after - kernel) // 2 + 1
    first, length = (before + 1) // 2, (kernel + before % 2 + 1) // 2
    last = outputs - 1 + length - first - size // 2
    return (first, last, length) if last >= 0 else None


def _blocked(model: ModelProto, node: NodeProto, stem: _Stem) -> list[NodeProto]:
    """Redirect the convolution to blocks and return the nodes that make them."""
    blocks, steps, pixels, kernel = (
        f"{node.name}.blocks{part}" for part in ("", "_quantized", "_dequantized", "_weight")
    )
    weight = _rearranged(stem.weight, attribute(node, "pads", [0] * 4), [a[2] for a in stem.axes])
    model.graph.initializer.append(numpy_helper.from_array(weight, kernel))
    made = [
        helper.make_node("SpaceToDepth", [stem.quantizer.input[0]], [blocks], blocksize=2),
        helper.make_node(Q, [blocks, *stem.quantizer.input[1:]], [steps]),
        helper.make_node(DQ, [steps, *stem.source.input[1:]], [pixels]),
        helper.make_node(DQ, [kernel, *stem.kernel.input[1:]], [f"{kernel}_dequantized"], axis=0),
    ]
    node.input[0], node.input[1] = pixels, f"{kernel}_dequantized"
    (top, bottom, height), (left, right, width) = stem.axes
    changed = {"kernel_shape": [height, width], "pads": [top, left, bottom, right]}
    kept = [a for a in node.attribute if a.name not in {"strides", *changed}]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in changed.items())
    for new in made:
        new.name = f"{new.output[0]}/{new.op_type}"
    return made


def _rearranged(weight: NDArray[Any], pads: Sequence[int], lengths: Sequence[int]) -> NDArray[Any]:
    """Return O x 4C x KH' x KW' weights, channels in SpaceToDepth's order: row, column, channel."""
    out, channels, *sizes = weight.shape
    height, width = lengths
    room = np.zeros((out, channels, 2 * height, 2 * width), weight.dtype)
    top, left = pads[0] % 2, pads[1] % 2  # a block starts at an even pixel
    room[:, :, top : top + sizes[0], left : left + sizes[1]] = weight
    parts = room.reshape(out, channels, height, 2, width, 2).transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(parts.reshape(out, 4 * channels, height, width))
