"""The TensorRT graph with its activation scales fed at run time: one session tries all ranges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from resnet_edge.backends.closing import Closing
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.ranges_table import Ranges
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import engine_graph, engine_scales

__all__ = ["VariableScaleGraph"]


class VariableScaleGraph(Closing):
    """A quantized model whose activation ranges can be changed between runs.

    Its weights are rounded, and the session is loaded, once for all tables.

    Args:
        model: Float FP32 graph.
        ranges: Those of all its engine points; they stand until `logits` is given others.
    """

    def __init__(self, model: ModelProto, ranges: Ranges) -> None:
        self._placement = place(model.graph)
        graph = engine_graph(model, self._placement, ranges, weights="rounded")
        graph.graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ())
            for name in self._scales(ranges)
        )
        self._session = OnnxRuntimeSession(graph, optimise="float")

    def logits(self, inputs: Iterable[NDArray[Any]], ranges: Ranges) -> NDArray[np.float32]:
        """Run batches of images with the ranges of ``table`` and return all logits."""
        scales = self._scales(ranges)
        found = [self._session.run_rows(batch, constants=scales) for batch in inputs]
        rows = [next(iter(outputs.values())) for outputs in found]
        return np.concatenate(rows)

    def close(self) -> None:
        """Drop the session."""
        self._session.close()

    def _scales(self, ranges: Ranges) -> dict[str, NDArray[np.float32]]:
        return engine_scales(self._placement, ranges, np.float32)
