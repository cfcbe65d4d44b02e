from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from resnet_edge.calibrate.table import RangesTable, TensorRange
from resnet_edge.errors import BuildError, GraphError
from resnet_edge.quantize.lint import FLAVOURS, RULES, Finding, Flavour, lint, select
from resnet_edge.quantize.lint_fix import fix
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.precision import to_fp16
from resnet_edge.quantize.qdq import Weights, engine_graph
from tests.conftest import REPOSITORY, require
from tests.quantize.graphs import (
    BIAS,
    CHANNELS,
    W_SCALES,
    W_STEPS,
    WEIGHT,
    X_SCALE,
    conv,
    float_net,
    foreign,
    model,
    node,
    pair,
    residual,
    run,
    sound,
    weight_pair,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto

HALF = (TensorProto.FLOAT16, TensorProto.FLOAT16)
UINT8_IN = (TensorProto.UINT8, TensorProto.FLOAT)
COLUMN_SCALES = (np.abs(WEIGHT).max((0, 2, 3)) / 127).astype(np.float32)
# A plan with INT8 weights for the 64 -> 64 convolution is below, one with FP32 weights above.
INT8_PLAN = 360_000


@dataclass(frozen=True)
class Case:
    """A network, what lint must say about it, and what TensorRT-RTX does with it.

    Attributes:
        make: Makes the network.
        rules: The ids of all findings.
        rtx: ``int8``, ``float`` (silently), ``rejects``, ``wrong`` (accepts, and computes
            something else), ``crashes``, or ``builds`` where the plan's size tells nothing.
        fixed: What is repaired; None if nothing is.
        tolerance: How far results may move, where the finding says that they do.
        reference: What the repaired network must compute, where ONNX Runtime refuses the original.
    """

    make: Callable[[], ModelProto]
    rules: set[str]
    rtx: str
    fixed: set[str] = field(default_factory=set)
    tolerance: float = 0.0
    reference: Callable[[], ModelProto] | None = None


def activation(**changes: Any) -> Callable[[], ModelProto]:
    """The sound network with another activation scale, zero-point or axis."""

    def make() -> ModelProto:
        axis = changes.get("axis")
        constants = {k: v for k, v in changes.items() if k in ("xs", "xz")}
        zero = "xz" if "xz" in changes else "zero"
        return sound(activation=pair("x", "xd", "xs", zero, axis), constants=constants)

    return make


def weights(*, axis: int | None = 0, **constants: Any) -> Callable[[], ModelProto]:
    """The sound network with other weight scales (``ws``), zero-points (``wz``) or axis."""
    zeros = constants.setdefault("wz", np.zeros(np.shape(constants.get("ws", W_SCALES)), np.int8))
    assert zeros is not None
    return lambda: sound(weight=pair("w", "wd", "ws", "wz", axis), constants=constants)


def stored(
    steps: Any, zero: Any, scales: Any = W_SCALES, axis: int = 0
) -> Callable[[], ModelProto]:
    """The sound network with stored integer weights and a DQ alone."""
    inputs = ["steps", "ws"] + ([] if zero is None else ["wz"])
    dq = node("DequantizeLinear", inputs, "wd", name="wd_DQ", axis=axis)
    constants = {"steps": steps, "ws": scales} | ({} if zero is None else {"wz": zero})
    return lambda: sound(weight=[dq], constants=constants)


def bias(value: Any, scale: Any, zero: Any = None) -> Callable[[], ModelProto]:
    """The sound network with a quantized bias."""
    inputs = ["bi", "bs"] + ([] if zero is None else ["bz"])
    dq = node("DequantizeLinear", inputs, "bd", name="bd_DQ", axis=0)
    return lambda: sound(bias=[dq], constants={"bi": value, "bs": scale, "bz": zero})


def behind(*between: onnx.NodeProto, **constants: Any) -> Callable[[], ModelProto]:
    """The sound network with something between the DQ and the convolution: from xd to xe."""
    return lambda: model(
        [*pair("x", "xd"), *weight_pair(), *between, conv("xe")], constants or None
    )


def half(
    opset: int, *, bias: bool = True, **constants: Any
) -> Callable[[], ModelProto]:  # the whole network in FP16, scales too
    values = {"w": WEIGHT, "b": BIAS, "xs": X_SCALE, "ws": W_SCALES}
    casted: dict[str, Any] = {k: v.astype(np.float16) for k, v in values.items()} | constants
    nodes = [*pair("x", "xd"), *weight_pair(), conv("xd", bias="b" if bias else None)]
    return lambda: model(nodes, casted, opset=opset, types=HALF)


def casted(axis: int = 0) -> Callable[[], ModelProto]:
    """FP32 scales in an FP16 network, as ModelOpt writes it: a Cast behind every DQ."""

    def make() -> ModelProto:
        casts = [node("Cast", [f"{t}d"], f"{t}h", to=TensorProto.FLOAT16) for t in "xw"]
        constants = {"b": BIAS.astype(np.float16), "ws": COLUMN_SCALES if axis else W_SCALES}
        nodes = [*pair("x", "xd"), *pair("w", "wd", "ws", "zeros", axis), *casts, conv("xh", "wh")]
        types = (TensorProto.FLOAT, TensorProto.FLOAT16)
        return model(nodes, constants, types=types)

    return make


def batch_norm(main: str) -> ModelProto:
    """A residual block of a Conv and a batch norm, with its main branch ``n`` or ``nd``."""
    norm = {k: np.linspace(0.5, 1.5, CHANNELS, dtype=np.float32) for k in ("g", "m", "v", "be")}
    nodes = [*pair("x", "xd"), *weight_pair(), conv("xd", out="c")]
    nodes.append(node("BatchNormalization", ["c", "g", "be", "m", "v"], "n"))
    nodes += [*pair("n", "nd", "zs"), node("Add", [main, "xd"], "y", name="add")]
    return model(nodes, norm)


def gemm(axis: int, *, transposed: bool) -> Callable[[], ModelProto]:
    matrix = np.random.default_rng(5).normal(0, 0.05, (256, 512)).astype(np.float32)
    matrix = matrix if transposed else matrix.T.copy()
    scales = (np.abs(matrix).max(1 - axis) / 127).astype(np.float32)
    constants = {"g": matrix, "gs": scales, "gz": np.zeros(len(scales), np.int8)}
    constants["gb"] = np.zeros(256, np.float32)
    last = node("Gemm", ["xd", "gd", "gb"], "y", name="fc", transB=int(transposed))
    nodes = [*pair("x", "xd"), *pair("g", "gd", "gs", "gz", axis), last]
    return lambda: model(nodes, constants, shape=(8, 512))


def integers() -> ModelProto:
    nodes = [node("QuantizeLinear", ["x", "xs", "zero"], "q")]
    inputs = ["q", "xs", "zero", "steps", "ws", "zeros", "ys", "zero"]
    nodes.append(node("QLinearConv", inputs, "yq", name="op", pads=[1] * 4))
    return model([*nodes, node("DequantizeLinear", ["yq", "ys", "zero"], "y")])


def dynamic_scale() -> ModelProto:
    nodes = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="op")]
    nodes.append(node("DequantizeLinear", ["q", "s", "z"], "xd"))
    return model([*nodes, conv("xd", "w")])


def conv_integer() -> ModelProto:
    nodes = [node("QuantizeLinear", ["x", "xs", "zero"], "q")]
    nodes.append(node("ConvInteger", ["q", "steps", "zero", "zero"], "i", name="op", pads=[1] * 4))
    return model([*nodes, node("Cast", ["i"], "y", to=TensorProto.FLOAT)])


def computed_scale() -> ModelProto:
    nodes = [node("ReduceMax", ["x"], "s", keepdims=0), *pair("x", "xd", "s")]
    return model([*nodes, *weight_pair(), conv("xd")])


def with_shape(*shape: int | str) -> Callable[[], ModelProto]:
    return lambda: sound(shape=shape)


def unpaired() -> ModelProto:
    nodes = [node("QuantizeLinear", ["x", "xs", "zero"], "q", name="lonely")]
    nodes.append(node("Cast", ["q"], "xd", to=TensorProto.FLOAT))
    return model([*nodes, *weight_pair(), conv("xd")])


def pooled(operator: str, **attributes: Any) -> onnx.NodeProto:
    return node(operator, ["xd"], "xe", name="between", **attributes)


def padded(mode: str = "constant", fill: bool = False) -> onnx.NodeProto:
    inputs = ["xd", "pads"] + (["fill"] if fill else [])
    return node("Pad", inputs, "xe", name="between", mode=mode)


PADS: dict[str, Any] = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.float32(1)}
BIAS_SCALES = (W_SCALES * X_SCALE).astype(np.float32)
BIAS_STEPS = np.rint(BIAS / BIAS_SCALES).astype(np.int32)
SHIFTED = (W_STEPS.astype(int) + 128).astype(np.uint8)
ONE_ZERO = W_SCALES.copy()
ONE_ZERO[5] = 0
TURN_TOLERANCE = 0.25  # of outputs around 10: every weight is rounded at another step

CASES = {
    "sound": Case(sound, set(), "int8"),
    "stored int8 weights": Case(
        stored(W_STEPS, np.zeros(CHANNELS, np.int8)), {"weights-stored-int8"}, "int8"
    ),
    "per-tensor weights": Case(weights(ws=np.float32(0.002), axis=None), set(), "int8"),
    "opset 13": Case(lambda: sound(opset=13), set(), "int8"),
    "dynamic batch": Case(with_shape("batch", CHANNELS, 8, 8), set(), "int8"),
    "max-pool between": Case(
        behind(pooled("MaxPool", kernel_shape=[3, 3], strides=[1, 1])), set(), "int8"
    ),
    "zero pad between": Case(behind(padded(), **PADS), set(), "int8"),
    "edge pad between": Case(behind(padded("edge"), **PADS), set(), "int8"),
    "transpose between": Case(behind(pooled("Transpose", perm=[0, 1, 3, 2])), set(), "int8"),
    # zero-points
    "no zero-point at a Q": Case(
        lambda: sound(activation=pair("x", "xd", "xs", None)),
        {"zero-point-missing"}, "int8", {"zero-point-missing"}, reference=sound,
    ),
    "no zero-point at a DQ": Case(
        stored(W_STEPS, None),
        {"zero-point-missing", "weights-stored-int8"}, "int8", {"zero-point-missing"},
    ),
    "uint8 activation around 0": Case(
        activation(xz=np.uint8(0)), {"zero-point-uint8"}, "wrong"
    ),
    "uint8 activation around 128": Case(
        activation(xz=np.uint8(128)), {"zero-point-nonzero"}, "rejects", {"zero-point-nonzero"}
    ),
    "asymmetric int8": Case(activation(xz=np.int8(3)), {"zero-point-nonzero"}, "rejects"),
    "asymmetric uint8": Case(activation(xz=np.uint8(100)), {"zero-point-nonzero"}, "rejects"),
    "uint8 weights around 128": Case(
        stored(SHIFTED, np.full(CHANNELS, 128, np.uint8)),
        {"zero-point-nonzero"}, "rejects", {"zero-point-nonzero"},
    ),
    "uint8 weights around 0": Case(
        stored(W_STEPS.view(np.uint8), np.zeros(CHANNELS, np.uint8)),
        {"zero-point-uint8"}, "rejects",
    ),
    "small uint8 weights around 0": Case(
        stored(np.abs(W_STEPS).astype(np.uint8), np.zeros(CHANNELS, np.uint8)),
        {"zero-point-uint8"}, "rejects", {"zero-point-uint8"},
    ),
    "asymmetric int8 weights that fit": Case(
        stored(W_STEPS // 2, np.full(CHANNELS, 5, np.int8)),
        {"zero-point-nonzero", "weights-stored-int8"}, "rejects", {"zero-point-nonzero"},
    ),
    "int16 activation": Case(
        lambda: sound(
            activation=pair("x", "xd", "xs", "xz"), constants={"xz": np.int16(0)}, opset=21
        ),
        {"integer-type", "opset-new"}, "rejects",
    ),
    "one zero-point for many scales": Case(
        weights(wz=np.int8(0)),
        {"zero-point-size"}, "rejects", {"zero-point-size"}, reference=sound,
    ),
    # scales
    "scale 0": Case(activation(xs=np.float32(0)), {"scale-value"}, "rejects"),
    "scale negative": Case(activation(xs=np.float32(-0.02)), {"scale-value"}, "rejects"),
    "scale nan": Case(activation(xs=np.float32(np.nan)), {"scale-value"}, "rejects"),
    "scale infinite": Case(activation(xs=np.float32(np.inf)), {"scale-value"}, "wrong"),
    "one weight scale 0": Case(weights(ws=ONE_ZERO), {"scale-value"}, "rejects"),
    "too few scales": Case(weights(ws=W_SCALES[:32]), {"scale-count"}, "rejects"),
    "no scales at all": Case(
        activation(xs=np.zeros(0, np.float32), xz=np.zeros(0, np.int8)),
        {"scale-count", "activation-per-channel"}, "rejects",
    ),
    "scales with four dimensions": Case(
        weights(ws=W_SCALES.reshape(-1, 1, 1, 1)), {"scale-count"}, "rejects"
    ),
    "scale from the input": Case(computed_scale, {"scale-computed"}, "crashes"),
    "activation scale of shape [1]": Case(
        activation(xs=np.full(1, X_SCALE), xz=np.zeros(1, np.int8)),
        {"activation-scale-vector"}, "float", {"activation-scale-vector"},
    ),
    "per-channel activation": Case(
        activation(
            xs=np.linspace(0.02, 0.03, CHANNELS, dtype=np.float32),
            xz=np.zeros(CHANNELS, np.int8), axis=1,
        ),
        {"activation-per-channel"}, "float",
    ),
    "per-channel activation, all equal": Case(
        activation(xs=np.full(CHANNELS, X_SCALE), xz=np.zeros(CHANNELS, np.int8), axis=1),
        {"activation-per-channel"}, "float", {"activation-per-channel"},
    ),
    "weight scales along the input channels": Case(
        weights(ws=COLUMN_SCALES, axis=1), {"weight-axis"}, "float", {"weight-axis"},
        TURN_TOLERANCE,
    ),
    "weight scales along the default axis": Case(
        weights(ws=COLUMN_SCALES, axis=None), {"weight-axis"}, "float", {"weight-axis"},
        TURN_TOLERANCE,
    ),
    "stored weights along the input channels": Case(
        stored(W_STEPS, np.zeros(CHANNELS, np.int8), COLUMN_SCALES, axis=1),
        {"weight-axis", "weights-stored-int8"}, "float", {"weight-axis"}, TURN_TOLERANCE,
    ),
    "equal weight scales along the input channels": Case(
        weights(ws=np.full(CHANNELS, 0.002, np.float32), axis=1),
        {"weight-axis"}, "float", {"weight-axis"},
    ),
    "Gemm, scales per output": Case(gemm(0, transposed=True), set(), "builds"),
    "Gemm without transB, scales per output": Case(gemm(1, transposed=False), set(), "builds"),
    "Gemm, scales per input": Case(
        gemm(1, transposed=True), {"weight-axis"}, "builds", {"weight-axis"}, 0.05
    ),
    "Gemm without transB, scales per input": Case(
        gemm(0, transposed=False), {"weight-axis"}, "builds", {"weight-axis"}, 0.05
    ),
    # element types
    "FP16 with FP16 scales": Case(half(19), {"scale-fp16"}, "int8"),
    "FP16 scales in opset 17": Case(
        half(17), {"scale-fp16-opset"}, "wrong", {"scale-fp16-opset"}, reference=half(19)
    ),
    "FP16 scales around FP32": Case(
        lambda: sound(constants={"xs": np.float16(0.02), "ws": W_SCALES.astype(np.float16)}),
        {"scale-fp16-opset", "layer-types"}, "rejects", {"scale-fp16-opset"},
        reference=lambda: sound(
            constants={
                "xs": np.float32(np.float16(0.02)),
                "ws": W_SCALES.astype(np.float16).astype(np.float32),
            }
        ),
    ),
    "FP32 scales in an FP16 graph": Case(
        half(19, xs=X_SCALE, ws=W_SCALES), {"scale-type", "layer-types"}, "rejects"
    ),
    "FP32 scales in an FP16 graph without a bias": Case(
        half(19, bias=False, xs=X_SCALE, ws=W_SCALES), {"scale-type"}, "int8"
    ),
    "FP16 weight scales, FP32 activation scales": Case(
        half(19, bias=False, xs=X_SCALE), {"scale-type", "scale-fp16", "layer-types"}, "rejects"
    ),
    "FP32 scales and casts": Case(casted(), set(), "int8"),
    "FP32 scales and casts, scales along the input channels": Case(
        casted(axis=1), {"weight-axis"}, "float", {"weight-axis"}, TURN_TOLERANCE
    ),
    # placement
    "weights only": Case(
        lambda: model([*weight_pair(), conv("x")]), {"activation-not-quantized"}, "float"
    ),
    "activations only": Case(
        lambda: model([*pair("x", "xd"), conv("xd", "w")]), {"weight-not-quantized"}, "float"
    ),
    "ReLU between": Case(behind(pooled("Relu")), {"activation-not-quantized"}, "float"),
    "average pool between": Case(
        behind(pooled("AveragePool", kernel_shape=[3, 3])), {"activation-not-quantized"}, "float"
    ),
    "pad with ones between": Case(
        behind(padded(fill=True), **PADS), {"activation-not-quantized"}, "float"
    ),
    "integers cast to float": Case(
        unpaired, {"quantize-without-dequantize", "activation-not-quantized"}, "float"
    ),
    "int32 bias": Case(
        bias(BIAS_STEPS, BIAS_SCALES, np.zeros(CHANNELS, np.int32)),
        {"bias-int32"}, "rejects", {"bias-int32"}, 1e-5,
    ),
    "int32 bias without zero-point": Case(
        bias(BIAS_STEPS, BIAS_SCALES), {"bias-int32"}, "rejects", {"bias-int32"}, 1e-5
    ),
    "residual": Case(residual, set(), "builds"),
    "residual with a downsample": Case(lambda: residual(downsample=True), set(), "builds"),
    "residual, main branch quantized": Case(
        lambda: residual(quantize_main=True), {"conv-output-quantized"}, "builds",
        {"conv-output-quantized"}, 0.5,
    ),
    "residual with a downsample, both quantized": Case(
        lambda: residual(quantize_main=True, downsample=True), {"conv-output-quantized"}, "builds",
        {"conv-output-quantized"}, 0.5,
    ),
    "residual, downsample straight and main branch quantized": Case(
        lambda: residual(quantize_main=True, quantize_skip=False, downsample=True), set(), "builds"
    ),
    "residual with a batch norm": Case(lambda: batch_norm("n"), set(), "int8"),
    "residual with a batch norm, main branch quantized": Case(
        lambda: batch_norm("nd"), {"conv-output-quantized"}, "builds",
        {"conv-output-quantized"}, 0.5,
    ),
    "residual, float skip": Case(
        lambda: residual(quantize_skip=False), {"skip-not-quantized"}, "builds"
    ),
    "residual, float downsample": Case(
        lambda: residual(quantize_skip=False, downsample=True), {"skip-not-quantized"}, "builds"
    ),
    "Q/DQ before a ReLU": Case(
        lambda: residual(quantize_inner=True), {"conv-output-quantized"}, "builds",
        {"conv-output-quantized"}, 0.5,
    ),
    # operators, opsets, inputs
    "QLinearConv": Case(
        integers, {"unsupported-operator", "quantize-without-dequantize"}, "rejects"
    ),
    "DynamicQuantizeLinear": Case(
        dynamic_scale,
        {"unsupported-operator", "scale-computed", "weight-not-quantized"}, "rejects",
    ),
    "ConvInteger": Case(
        conv_integer, {"unsupported-operator", "quantize-without-dequantize"}, "rejects"
    ),
    "an operator of ONNX Runtime": Case(
        lambda: model([node("FusedConv", ["x", "w", "b"], "y", domain="com.microsoft")]),
        {"unsupported-operator", "not-quantized"}, "rejects",
    ),
    "a standard operator in ONNX Runtime's domain": Case(
        lambda: model([node("Gelu", ["x"], "y", domain="com.microsoft")]),
        {"not-quantized"}, "builds",
    ),
    "Q and DQ of ONNX Runtime's domain": Case(
        lambda: sound(
            activation=[
                node("QuantizeLinear", ["x", "xs", "zero"], "q", domain="com.microsoft"),
                node("DequantizeLinear", ["q", "xs", "zero"], "xd", domain="com.microsoft"),
            ]
        ),
        set(), "int8",
    ),
    "opset 18": Case(lambda: sound(opset=18), {"opset-label"}, "int8", {"opset-label"}),
    "opset 22": Case(
        lambda: sound(opset=22), {"opset-label", "opset-new"}, "int8", {"opset-label"}
    ),
    "an operator that changed in opset 18": Case(
        lambda: model(
            [*pair("x", "xd"), node("ReduceMax", ["xd", "axes"], "y", name="op")],
            {"axes": np.array([1], np.int64)},
            opset=18,
        ),
        {"opset-operator"}, "builds",
    ),
    "dynamic height and width": Case(
        with_shape(1, CHANNELS, "height", "width"), {"dynamic-dimension"}, "rejects"
    ),
    "transpose of a uint8 input": Case(
        lambda: model(
            [
                node("Transpose", ["x"], "t", name="op", perm=[0, 3, 1, 2]),
                node("Cast", ["t"], "y", to=TensorProto.FLOAT),
            ],
            shape=(1, 8, 8, 3), types=UINT8_IN,
        ),
        {"uint8-input", "not-quantized"}, "rejects",
    ),
    "cast of a uint8 input": Case(
        lambda: model(
            [
                node("Cast", ["x"], "c", to=TensorProto.FLOAT),
                node("Transpose", ["c"], "y", perm=[0, 3, 1, 2]),
            ],
            shape=(1, 8, 8, 3), types=UINT8_IN,
        ),
        {"not-quantized"}, "builds",
    ),
    "plain float": Case(lambda: model([conv("x", "w")]), {"not-quantized"}, "float"),
}  # fmt: skip


def rules(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.rule for finding in findings}


def plan_size(network: ModelProto) -> int:
    require("tensorrt_rtx")
    from resnet_edge.backends.tensorrt_rtx import build_plan

    batch = network.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    plan = build_plan(
        network.SerializeToString(), compute_capabilities=("8.6",), profile=(batch,) * 3
    )
    return len(plan.data)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_lint_says_exactly_what_is_wrong(case: Case) -> None:
    findings = lint(case.make())
    assert rules(findings) == case.rules
    assert {f.rule for f in findings if f.fixable} >= case.fixed


def test_every_rule_has_a_case() -> None:
    assert {rule.id for rule in RULES} == set().union(*(case.rules for case in CASES.values()))
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tensorrt_rtx_agrees_with_lint(case: Case, tmp_path: Path) -> None:
    """What lint calls an error is rejected (or known to be wrong), and so on."""
    network = case.make()
    findings = select(lint(network), ["rtx"])
    severities = {finding.severity for finding in findings}
    assert ("error" in severities) == (case.rtx in ("rejects", "crashes", "wrong"))
    if case.rtx == "crashes":
        assert_the_builder_dies(network, tmp_path / "model.onnx")
    elif case.rtx == "rejects":
        with pytest.raises(BuildError):
            plan_size(network)
    else:
        size = plan_size(network)
        if case.rtx == "int8":
            assert size < INT8_PLAN
            assert "slow" not in severities
        elif case.rtx == "float":
            assert size > INT8_PLAN
            assert "slow" in severities or rules(findings) == {"not-quantized"}


def assert_the_builder_dies(network: ModelProto, path: Path) -> None:
    require("tensorrt_rtx")
    onnx.save(network, path)
    program = (
        "import sys, pathlib; from resnet_edge.backends.tensorrt_rtx import build_plan\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "build_plan(data, compute_capabilities=('8.6',), profile=(1, 1, 1))"
    )
    arguments = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, check=False)
    assert result.returncode != 0


FIXABLE = {name: case for name, case in CASES.items() if case.fixed}


@pytest.mark.parametrize("case", FIXABLE.values(), ids=FIXABLE)
def test_a_repair_removes_the_finding_and_keeps_what_the_graph_computes(case: Case) -> None:
    network = case.make()
    before = network.SerializeToString()
    result = fix(network)
    assert network.SerializeToString() == before
    assert rules(result.fixed) == case.fixed
    assert result.findings == lint(result.model)
    assert not any(finding.fixable for finding in result.findings)
    assert not rules(result.findings) & case.fixed
    onnx.checker.check_model(result.model, full_check=True)
    expected = run(case.reference() if case.reference else network)
    moved = np.abs(run(result.model).astype(np.float64) - expected).max()
    assert moved <= case.tolerance
    assert (moved > 0) == (case.tolerance > 1e-4)


@pytest.mark.parametrize("case", FIXABLE.values(), ids=FIXABLE)
def test_tensorrt_rtx_builds_int8_after_a_repair(case: Case) -> None:
    fixed = fix(case.make())
    assert select(fixed.findings, ["rtx"]) == ()
    size = plan_size(fixed.model)
    assert size < INT8_PLAN or case.rtx == "builds"


def test_a_sound_graph_is_left_alone() -> None:
    network = residual()
    result = fix(network)
    assert result.fixed == ()
    assert result.model == network


def test_a_repair_for_one_tensorrt_leaves_alone_what_only_concerns_others() -> None:
    result = fix(sound(opset=18, activation=pair("x", "xd", "xs", None)), ["rtx"])
    assert result.fixed == ()
    assert result.findings == ()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("zero-point-missing", ("8.5", "8.6")),
        ("scale-fp16", ("8.5", "8.6")),
        ("scale-type", ("strong",)),
        ("layer-types", ("strong", "rtx")),
        ("bias-int32", FLAVOURS),
    ],
)
def test_a_finding_names_the_tensorrt_flavours_it_concerns(
    rule: str, expected: tuple[Flavour, ...]
) -> None:
    case = next(case for case in CASES.values() if rule in case.rules)
    [finding, *_] = [f for f in lint(case.make()) if f.rule == rule]
    assert finding.flavours == expected
    assert select([finding], ["rtx"]) == (
        (Finding(**{**vars(finding), "flavours": ("rtx",)}),) if "rtx" in expected else ()
    )


def test_findings_come_with_errors_first_and_name_node_cause_and_fix() -> None:
    network = residual(quantize_main=True)
    network.graph.node[0].input.pop()  # the zero-point of xd_Q
    errors = [finding.severity for finding in lint(network)]
    assert errors == ["error", "slow"]
    missing, blocked = lint(network)
    assert (missing.node, blocked.node) == ("xd_Q", "c2d_Q")
    assert "Add add" in blocked.message
    assert "rounding disappears" in blocked.fix


def test_a_pair_is_reported_once() -> None:
    findings = lint(activation(xs=np.float32(0))())
    assert [finding.node for finding in findings] == ["xd_Q"]


def test_nodes_without_a_name_are_called_by_their_output() -> None:
    network = bias(BIAS_STEPS, BIAS_SCALES)()
    for item in network.graph.node:
        item.name = ""
    assert [finding.node for finding in lint(network)] == ["bd"]
    assert rules(fix(network).fixed) == {"bias-int32"}


def test_the_missing_zero_point_of_a_q_says_that_onnx_runtime_will_differ() -> None:
    [at_q, at_dq] = lint(sound(activation=pair("x", "xd", "xs", None)))
    assert "ONNX Runtime assumes uint8, its results change" in at_q.fix
    assert "ONNX Runtime" not in at_dq.fix


def test_a_q_takes_the_type_of_the_zero_point_its_dq_has() -> None:
    q, dq = pair("x", "xd", "xs", "uz")
    q.input.pop()
    network = sound(activation=[q, dq], constants={"uz": np.uint8(0)})
    expected = run(network)
    fixed = fix(network)
    assert rules(fixed.findings) == {"zero-point-uint8"}
    assert np.array_equal(run(fixed.model), expected)


def test_a_layer_of_a_shared_weight_is_repaired_once() -> None:
    nodes = [*pair("x", "xd"), *pair("w", "wd", "ws", "zeros", 1), conv("xd", out="c1")]
    nodes += [*pair("c1", "c1d", "ys"), conv("c1d")]
    network = model(nodes, {"ws": COLUMN_SCALES})
    result = fix(network)
    assert [finding.node for finding in result.fixed] == ["c1_conv", "y_conv"]
    assert result.findings == ()
    assert sum(i.name.startswith("ws") for i in result.model.graph.initializer) == 2


def test_parameters_that_others_share_keep_their_value() -> None:
    nodes = [*pair("x", "xd", "s", "z"), *pair("w", "wd", "s", "z"), conv("xd", out="c1")]
    nodes += [*pair("c1", "c1d", "s", "other"), conv("c1d")]
    constants = {"s": np.float32(0.01), "z": np.uint8(128), "other": np.uint8(128)}
    network = model(nodes, constants)
    expected = run(network)
    result = fix(network)
    assert result.findings == ()
    assert np.array_equal(run(result.model), expected)


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear", "Conv", "Add"])
def test_a_node_without_its_inputs_is_an_error_of_ours(operator: str) -> None:
    with pytest.raises(GraphError, match="too few inputs"):
        lint(model([node(operator, ["x"], "y")]))


def test_a_model_without_an_opset_is_an_error_of_ours() -> None:
    network = sound()
    del network.opset_import[:]
    with pytest.raises(GraphError, match="opset"):
        lint(network)


def test_scales_are_found_behind_constant_and_identity_nodes() -> None:
    scale = numpy_helper.from_array(np.float32(-1), "v")
    makers = [
        [node("Constant", [], "s", value=scale)],
        [node("Constant", [], "s", value_float=-1.0)],
        [node("Constant", [], "s0", value=scale), node("Identity", ["s0"], "s")],
    ]
    for before in makers:
        network = model([*before, *pair("x", "xd", "s"), *weight_pair(), conv("xd")])
        assert rules(lint(network)) == {"scale-value"}


def table(names: tuple[str, ...]) -> RangesTable:
    ranges = {name: TensorRange(4.0, -4.0, 4.0, {}) for name in names}
    return RangesTable(ranges, {}, "", (), 0)


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_our_own_fp32_graph_is_accepted_by_every_tensorrt(weights: Weights) -> None:
    network = float_net()
    placement = place(network.graph)
    graph = engine_graph(network, placement, table(placement.tensors), weights=weights)
    assert rules(lint(graph)) == ({"weights-stored-int8"} if weights == "int8" else set())
    assert plan_size(graph) > 0


def test_our_own_fp16_graph_is_accepted_by_strongly_typed_builders() -> None:
    network = to_fp16(float_net())
    placement = place(network.graph)
    graph = engine_graph(network, placement, table(placement.tensors), weights="int8")
    findings = lint(graph)
    assert rules(findings) == {"scale-fp16", "weights-stored-int8"}
    assert select(findings, ["10-weak", "strong", "rtx"]) == ()
    assert plan_size(graph) > 0


@pytest.mark.parametrize(
    ("activation_type", "symmetric", "quantize_bias", "expected"),
    [
        ("int8", True, False, set()),
        ("int8", True, True, {"bias-int32"}),
        ("uint8", True, True, {"bias-int32", "zero-point-nonzero"}),
        ("uint8", False, True, {"bias-int32", "zero-point-nonzero", "zero-point-uint8"}),
        ("int8", False, False, {"zero-point-nonzero"}),
    ],
)
def test_what_onnx_runtime_quantized_is_repaired_if_it_is_symmetric(
    tmp_path: Path, activation_type: str, symmetric: bool, quantize_bias: bool, expected: set[str]
) -> None:
    path = foreign(tmp_path, activation=activation_type, symmetric=symmetric, bias=quantize_bias)
    network = onnx.load(path)
    errors = {f.rule for f in lint(network) if f.severity == "error"}
    assert errors == expected
    if expected:
        with pytest.raises(BuildError):
            plan_size(network)
    result = fix(network)
    left = [finding for finding in result.findings if finding.severity != "note"]
    if symmetric:
        assert left == []
        assert plan_size(result.model) > 0
        assert np.abs(run(result.model) - run(network)).max() < 0.1
    else:
        assert "zero-point-nonzero" in {finding.rule for finding in left}


@st.composite
def defects(draw: st.DrawFn) -> ModelProto:
    """A network with any mixture of defects that ONNX Runtime runs and a repair keeps exactly."""
    nodes, constants = [], {}
    around = draw(st.sampled_from([0, 128]))
    zero = np.uint8(128) if around else np.int8(0)
    vector = draw(st.booleans())
    constants["xs"] = np.full(1, 0.02, np.float32) if vector else np.float32(0.02)
    constants["xz"] = np.full(1, zero) if vector else zero
    nodes += pair("x", "xd", "xs", "xz")
    kind = draw(st.sampled_from(["float", "int8", "uint8", "untyped"]))
    if kind == "float":
        nodes += weight_pair()
    else:
        shifted = kind == "uint8"
        constants["steps"] = SHIFTED if shifted else W_STEPS
        constants["wz"] = np.full(CHANNELS, 128, np.uint8) if shifted else np.zeros(64, np.int8)
        inputs = ["steps", "ws"] + ([] if kind == "untyped" else ["wz"])
        nodes.append(node("DequantizeLinear", inputs, "wd", axis=0))
    name = "b"
    if draw(st.booleans()):
        constants |= {"bi": BIAS_STEPS, "bs": BIAS_SCALES, "bz": np.zeros(CHANNELS, np.int32)}
        inputs = ["bi", "bs"] + (["bz"] if draw(st.booleans()) else [])
        nodes.append(node("DequantizeLinear", inputs, "bd", axis=0))
        name = "bd"
    nodes.append(conv("xd", bias=name))
    return model(nodes, constants, opset=draw(st.sampled_from([13, 17, 18, 20])))


@given(network=defects())
def test_any_mixture_of_defects_is_repaired_to_a_graph_that_computes_the_same(
    network: ModelProto,
) -> None:
    result = fix(network)
    assert rules(result.findings) <= {"weights-stored-int8"}
    assert np.allclose(run(result.model), run(network), rtol=0, atol=1e-5)
    assert list(result.fixed) == sorted(
        (finding for finding in lint(network) if finding.fixable), key=result.fixed.index
    )
