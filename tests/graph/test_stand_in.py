from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.reference import Golden
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.stand_in import stand_in
from resnet_edge.quantize.stage import quantize
from resnet_edge.verify.candidate import Candidate
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.bundle.names import GraphKind

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


HALVES = """
g (float[n,4,6,6] x) => (float[n,8] y, float16[n,4,6,6] seen) {
    a = Cast <to=10> (x)
    b = Conv <pads=[1,1,1,1]> (a, w, bias)
    c = Relu(b)
    seen = Add(c, a)
    m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (seen)
    p = GlobalAveragePool(m)
    f = Flatten(p)
    l = Gemm <transB=1> (f, fc)
    y = Cast <to=1> (l)
}"""


def halves(scale: float = 1.0) -> ModelProto:
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> Any:
        return (scale * random.standard_normal(shape)).astype(np.float16)

    return onnx_model(HALVES, w=numbers(4, 4, 3, 3), bias=numbers(4), fc=numbers(8, 4))


def by_hand(model: ModelProto, x: Any) -> tuple[Any, Any]:
    """The network in PyTorch: FP32 sums, rounded after every operation."""
    torch = require("torch")
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)).float()
               for t in model.graph.initializer}  # fmt: skip

    def rounded(values: Any) -> Any:
        return values.half().float()

    functional = torch.nn.functional
    a = rounded(torch.tensor(x))
    b = rounded(functional.conv2d(a, weights["w"], weights["bias"], padding=1))
    seen = rounded(functional.relu(b) + a)
    pooled = rounded(functional.max_pool2d(seen, 2).mean((2, 3)))
    return rounded(pooled @ weights["fc"].T).numpy(), seen.numpy()


def test_every_operation_is_rounded_to_half_precision() -> None:
    x = np.random.default_rng(1).standard_normal((3, 4, 6, 6)).astype(np.float32)
    wanted, seen = by_hand(halves(), x)
    with OnnxRuntimeSession(stand_in(halves()), optimise="none") as session:
        found = session.run({"x": x})
    assert {name: value.dtype for name, value in found.items()} == {
        "y": np.float32,
        "seen": np.float16,
    }
    assert np.array_equal(found["seen"].astype(np.float32), seen)
    assert np.allclose(found["y"], wanted, rtol=2e-3, atol=0)  # sums in another order
    with OnnxRuntimeSession(halves(), optimise="none") as session:  # what ONNX Runtime does
        assert not np.array_equal(session.run({"x": x})["seen"].astype(np.float32), seen)


def test_what_exceeds_half_precision_overflows() -> None:
    x = np.full((1, 4, 6, 6), 100.0, np.float32)
    large = halves(scale=1000.0)
    with OnnxRuntimeSession(stand_in(large), optimise="none") as session:
        assert not np.isfinite(session.run({"x": x})["y"]).all()


@pytest.mark.parametrize("graph", ["fp32", "int8"])
def test_a_graph_without_half_precision_stays_as_it_is(flow_bundle: Path, graph: GraphKind) -> None:
    written = load_graph(quantize(Bundle.open(flow_bundle), graph).path)
    before = written.SerializeToString()
    assert stand_in(written).SerializeToString() == before


@pytest.mark.parametrize("graph", ["fp16", "int8-fp16"])
def test_nothing_is_left_in_half_precision_but_the_roundings(
    flow_bundle: Path, graph: GraphKind
) -> None:
    written = load_graph(quantize(Bundle.open(flow_bundle), graph).path)
    model = stand_in(written)
    onnx.checker.check_model(model, full_check=True)
    assert not [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    kept = {v.name for v in inferred if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    assert kept
    assert all(name.endswith(("/fp16", "/fp16-held")) for name in kept)


def test_stored_weights_are_what_half_precision_makes_of_them() -> None:
    text = """g (float[1,2] x) => (float[1,3] y) {
        w = DequantizeLinear <axis=1> (stored, scale, zero)
        a = Cast <to=10> (x) b = MatMul(a, w) y = Cast <to=1> (b) }"""
    stored = np.array([[100, -127, 3], [7, 0, 99]], np.int8)
    scale, zero = np.array([0.1, 0.0333, 7.0], np.float16), np.array([1, 0, 0], np.int8)
    model = onnx_model(text, opset=19, stored=stored, scale=scale, zero=zero)
    with OnnxRuntimeSession(stand_in(model), optimise="none") as session:
        found = session.run({"x": np.eye(2, dtype=np.float32)[:1]})["y"]
    wanted = ((stored[:1].astype(np.float32) - zero) * scale.astype(np.float32)).astype(np.float16)
    assert np.array_equal(found, wanted.astype(np.float32))


def test_a_float_graph_stands_for_an_fp16_engine_with_every_layer_in_half_precision(
    flow_bundle: Path,
) -> None:
    bundle = Bundle.open(flow_bundle)
    path = bundle.file("model.onnx")
    feed = {"input": bundle.model.image_spec.to_input(Golden.load(bundle).pixels[:4])}
    logits = {}
    for precision, runnable in (
        ("fp16", path), ("fp16", quantize(bundle, "fp16").path), ("fp32", path),
    ):  # fmt: skip
        candidate = Candidate("tensorrt", precision, "h100", path, runnable, "graph")
        with candidate.open() as session:
            logits[precision, runnable.name] = session.run(feed)["logits"]
    weak, strong, full = logits.values()
    assert np.array_equal(weak, strong)
    assert not np.array_equal(weak, full)
    assert np.allclose(weak, full, atol=0.01 * np.abs(full).max())
