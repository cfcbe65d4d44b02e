from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle import Bundle
from resnet_edge.graph import load_graph
from resnet_edge.quantize.stage import Graph, quantize
from resnet_edge.verify.stand_in import stand_in
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

require("onnxruntime")
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = EVERY_HALF[np.isfinite(EVERY_HALF)]


def quantizer(scale: np.float16) -> ModelProto:
    text = "g (float16[n] x) => (int8[n] q) { q = QuantizeLinear(x, scale, zero) }"
    return onnx_model(text, opset=19, scale=scale, zero=np.int8(0))


@given(bits=st.integers(1, 0x7BFF))
def test_every_half_precision_value_is_rounded_whatever_the_scale(bits: int) -> None:
    """ONNX Runtime 1.23 would cut off."""
    scale = np.uint16(bits).view(np.float16)
    with OnnxRuntimeSession(stand_in(quantizer(scale)), optimise="none") as session:
        found = session.run({"x": FINITE})["q"]
    steps = FINITE.astype(np.float32) / np.float32(scale)
    assert np.array_equal(found, np.rint(steps).clip(-128, 127).astype(np.int8))


@pytest.mark.parametrize(("graph", "changed"), [("int8-fp16", True), ("int8", False)])
def test_only_quantizers_of_fp16_get_a_cast(flow_bundle: Path, graph: Graph, changed: bool) -> None:
    written = load_graph(quantize(Bundle.open(flow_bundle), graph).path)
    kinds = Counter(node.op_type for node in written.graph.node)
    found = Counter(node.op_type for node in stand_in(written).graph.node)
    added = {"Cast": kinds["QuantizeLinear"]} if changed else {}
    assert found - kinds == Counter(added)
    assert kinds - found == Counter()
