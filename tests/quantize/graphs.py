"""Small Q/DQ networks, sound and defective, for the tests of several modules."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[Any]

CHANNELS = 64
_rng = np.random.default_rng(0)
WEIGHT = _rng.normal(0, 0.05, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
BIAS = _rng.normal(0, 0.1, CHANNELS).astype(np.float32)
X_SCALE = np.float32(0.02)
W_SCALES = (np.abs(WEIGHT).reshape(CHANNELS, -1).max(1) / 127).astype(np.float32)
W_STEPS = np.clip(np.rint(WEIGHT / W_SCALES.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
CONSTANTS: dict[str, Any] = {
    "w": WEIGHT,
    "w2": WEIGHT[::-1].copy(),
    "b": BIAS,
    "xs": X_SCALE,
    "ys": np.float32(0.03),
    "zs": np.float32(0.05),
    "zero": np.int8(0),
    "ws": W_SCALES,
    "ws2": W_SCALES[::-1].copy(),
    "zeros": np.zeros(CHANNELS, np.int8),
    "steps": W_STEPS,
}


def node(
    operator: str, inputs: Iterable[str], outputs: str | Sequence[str], **attributes: Any
) -> NodeProto:
    """A node named after its first output."""
    outputs = [outputs] if isinstance(outputs, str) else list(outputs)
    attributes.setdefault("name", f"{outputs[0]}_{operator}")
    return helper.make_node(operator, list(inputs), outputs, **attributes)


def pair(
    tensor: str, out: str, scale: str = "xs", zero: str | None = "zero", axis: int | None = None
) -> list[NodeProto]:
    """A Q and a DQ: ``out_Q`` and ``out_DQ``."""
    given = [scale] + ([zero] if zero else [])
    where = {} if axis is None else {"axis": axis}
    return [
        node("QuantizeLinear", [tensor, *given], f"{out}_q", name=f"{out}_Q", **where),
        node("DequantizeLinear", [f"{out}_q", *given], out, name=f"{out}_DQ", **where),
    ]


def weight_pair(number: str = "") -> list[NodeProto]:
    """A Q and a DQ of the weights ``w`` or ``w2``, per output channel."""
    return pair(f"w{number}", f"wd{number}", f"ws{number}", "zeros", 0)


def conv(tensor: str, weight: str = "wd", out: str = "y", bias: str | None = "b") -> NodeProto:
    """A 3x3 convolution that keeps the size."""
    inputs = [tensor, weight] + ([bias] if bias else [])
    return node("Conv", inputs, out, name=f"{out}_conv", kernel_shape=[3, 3], pads=[1] * 4)


def model(
    nodes: Sequence[NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    shape: Sequence[int | str] = (1, CHANNELS, 8, 8),
    types: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
) -> ModelProto:
    """A model from ``x`` to ``y``; constants by name, the usual ones are there."""
    values = CONSTANTS | (constants or {})
    read = {name for item in nodes for name in item.input}
    rank = 2 if len(shape) == 2 else 4
    domains = {item.domain for item in nodes if item.domain}
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", types[0], list(shape))],
        [helper.make_tensor_value_info("y", types[1], [None] * rank)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items() if k in read],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8 if opset < 19 else 10
    return made


def sound(
    *,
    activation: Sequence[NodeProto] | None = None,
    weight: Sequence[NodeProto] | None = None,
    bias: Sequence[NodeProto] = (),
    constants: dict[str, Any] | None = None,
    **options: Any,
) -> ModelProto:
    """One quantized convolution as TensorRT wants it; parts of it can be replaced.

    The parts make ``xd``, ``wd`` and ``bd``.
    """
    activation = pair("x", "xd") if activation is None else activation
    weight = weight_pair() if weight is None else weight
    last = conv("xd", bias="bd" if bias else "b")
    return model([*activation, *weight, *bias, last], constants, **options)


def residual(
    *,
    quantize_main: bool = False,
    quantize_skip: bool = True,
    quantize_inner: bool = False,
    downsample: bool = False,
) -> ModelProto:
    """A residual block: two convolutions, an Add and a ReLU, then one more convolution."""
    nodes = [*pair("x", "xd"), *weight_pair(), conv("xd", out="c1")]
    if quantize_inner:
        nodes += pair("c1", "c1d", "zs")
    nodes.append(node("Relu", ["c1d" if quantize_inner else "c1"], "r1", name="inner_relu"))
    nodes += [*pair("r1", "r1d", "ys"), *weight_pair("2"), conv("r1d", "wd2", "c2")]
    main, skip = "c2", "xd" if quantize_skip else "x"
    if quantize_main:
        nodes += pair("c2", "c2d", "zs")
        main = "c2d"
    if downsample:
        nodes.append(conv("xd", out="down"))
        skip = "down"
        if quantize_skip:
            nodes += pair("down", "downd", "ys")
            skip = "downd"
    nodes.append(node("Add", [main, skip], "s", name="add"))
    nodes.append(node("Relu", ["s"], "o", name="outer_relu"))
    return model([*nodes, *pair("o", "od", "zs"), conv("od")])


def float_net() -> ModelProto:
    """Conv, ReLU, MaxPool, Conv, ReLU, a residual Add, pooling and Gemm, all float, 8 channels."""
    rng = np.random.default_rng(1)

    def random(*shape: int) -> Array:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    def layer(x: str, number: int) -> NodeProto:
        inputs = [x, f"k{number}", f"b{number}"]
        return node("Conv", inputs, f"c{number}", kernel_shape=[3, 3], pads=[1] * 4)

    nodes = [
        layer("x", 1),
        node("Relu", ["c1"], "r1"),
        node("MaxPool", ["r1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        layer("p1", 2),
        node("Relu", ["c2"], "r2"),
        layer("r2", 3),
        node("Add", ["c3", "p1"], "s"),
        node("Relu", ["s"], "r3"),
        node("GlobalAveragePool", ["r3"], "g"),
        node("Flatten", ["g"], "f"),
        node("Gemm", ["f", "k4", "b4"], "y", transB=1),
    ]
    constants = {"k1": random(8, 3, 3, 3), "k4": random(5, 8), "b4": random(5)}
    constants |= {f"k{i}": random(8, 8, 3, 3) for i in (2, 3)}
    constants |= {f"b{i}": random(8) for i in (1, 2, 3)}
    made = model(nodes, constants, shape=(1, 3, 16, 16))
    made.graph.output[0].type.CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5]).type
    )
    return made


def foreign(folder: Path, *, activation: str, symmetric: bool, bias: bool, **extra: Any) -> Path:
    """``float_net`` as ONNX Runtime's ``quantize_static`` writes it in QDQ format."""
    require("onnxruntime")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            rng = np.random.default_rng(2)
            self.batches = [rng.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(4)]

        def get_next(self) -> dict[str, Array] | None:
            return {"x": self.batches.pop()} if self.batches else None

    source, target = folder / "float.onnx", folder / "foreign.onnx"
    onnx.save(float_net(), source)
    types = {"int8": quantization.QuantType.QInt8, "uint8": quantization.QuantType.QUInt8}
    logging.disable(logging.WARNING)  # that a model could be preprocessed first
    try:
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=types[activation],
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": bias,
                **extra,
            },
        )
    finally:
        logging.disable(logging.NOTSET)
    return target


def run(network: ModelProto, seed: int = 3) -> Array:
    """What ONNX Runtime computes, node by node without fusing, for a random input."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(
        network.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    [given] = session.get_inputs()
    dtype = np.float16 if "float16" in given.type else np.float32
    value = np.random.default_rng(seed).normal(size=given.shape).astype(dtype)
    return np.asarray(session.run(None, {given.name: value})[0])
