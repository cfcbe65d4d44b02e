"""Networks, what lint must say about them, and what TensorRT-RTX does with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.conftest import require
from tests.quantize.graphs import (
    BIAS,
    CHANNELS,
    W_SCALES,
    W_STEPS,
    WEIGHT,
    X_SCALE,
    conv,
    model,
    node,
    pair,
    residual,
    sound,
    weight_pair,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from resnet_edge.lint.check import Finding
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
    "uint8 activation around 127": Case(  # above 127 steps, one step more is cut off
        activation(xs=np.float32(X_SCALE / 2), xz=np.uint8(127)),
        {"zero-point-nonzero"}, "rejects", {"zero-point-nonzero"}, 0.2,
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
    from resnet_edge.backends.tensorrt.rtx import build_plan

    batch = network.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    plan = build_plan(
        network.SerializeToString(), compute_capabilities=("8.6",), profile=(batch,) * 3
    )
    return len(plan.data)
