"""The graph that ONNX Runtime runs in place of an engine, with FP16 quantized through FP32.

ONNX Runtime's QuantizeLinear of FP16 cuts off instead of rounding in 1.23, the last version for
Python 3.10 (measured: 0.8 points of a ResNet-20), and works number by number in 1.32. In FP32 both
round, and fast. ONNX Runtime may then leave out the rounding to FP16 right before: an engine that
quantizes inside its convolutions does so too, and what exceeds FP16 is clipped either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_edge.graph import GraphIndex, insert_sorted

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["stand_in"]


def stand_in(model: ModelProto) -> ModelProto:
    """Give every FP16 QuantizeLinear a cast to FP32 and an FP32 scale, in place."""
    index, casts = GraphIndex(model.graph), []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            casts += _widened(model, node, index)
    if casts:
        insert_sorted(model.graph, [*model.graph.node, *casts])
    return model


def _widened(model: ModelProto, node: NodeProto, index: GraphIndex) -> list[NodeProto]:
    """Give a QuantizeLinear FP32 inputs in place of FP16 ones; return the cast."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    scale = index.constant(node.input[1])
    if scale is None or scale.dtype != np.float16:
        return []
    wide, wide_scale = f"{node.output[0]}_fp32", f"{node.output[0]}_fp32_scale"
    model.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), wide_scale))
    cast = helper.make_node(
        "Cast", [node.input[0]], [wide], name=f"{wide}/Cast", to=TensorProto.FLOAT
    )
    node.input[0], node.input[1] = wide, wide_scale
    return [cast]
