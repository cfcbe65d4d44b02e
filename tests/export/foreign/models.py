"""ONNX classifiers as other tools write them, for the tests of import and normalisation."""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from resnet_edge.models.resnet import ResNet, ResNetConfig
from tests.conftest import onnx_model, require, stir_batch_norms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

torch = require("torch")
SIZE, CLASSES = 16, 5


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def tiny_network(kind: str = "basic", channels: int = 3) -> ResNet:
    """A residual network of two stages with batch norms that do something."""
    torch.manual_seed(0)
    config = ResNetConfig(
        "bottleneck" if kind == "bottleneck" else "basic", (1, 1), (4, 8),
        "imagenet" if kind == "bottleneck" else "small",
        shortcut="A" if kind == "option-a" else "B", in_channels=channels, num_classes=CLASSES,
    )  # fmt: skip
    return stir_batch_norms(ResNet(config)).eval()


def legacy_export(model: Any, opset: int, *, batch: int = 1, **options: Any) -> ModelProto:
    """What ``torch.onnx.export(dynamo=False)`` writes for 3 x 16 x 16 images."""
    stream = io.BytesIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (torch.zeros(batch, 3, SIZE, SIZE),), stream,
                dynamo=False, opset_version=opset, **options,
            )  # fmt: skip
    finally:
        logger.setLevel(level)
    return onnx.load_model_from_string(stream.getvalue())


UNFOLDED: dict[str, Any] = {
    "training": torch.onnx.TrainingMode.PRESERVE,
    "do_constant_folding": False,
    "keep_initializers_as_inputs": True,
}
DYNAMIC: dict[str, Any] = {
    "input_names": ["pixel_values"], "output_names": ["scores"],
    "dynamic_axes": {"pixel_values": {0: "n"}, "scores": {0: "n"}},
}  # fmt: skip


class ViewsByHand(torch.nn.Module):
    """A network that flattens as old code does: from ``size()``, or for one image only."""

    def __init__(self, rows: int | None) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.fc = torch.nn.Linear(4, CLASSES)
        self.rows = rows

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.conv(x)).mean((2, 3), keepdim=True)
        return self.fc(x.view(self.rows or x.size(0), -1))


TF = """
tf (float[unk__1,16,16,3] image) => (float[unk__2,5] probabilities) {
    centred = Sub(image, mean)
    chw = Transpose <perm=[0,3,1,2]> (centred)
    padded = Pad(chw, pads, zero)
    conv1 = Conv <strides=[2,2], kernel_shape=[3,3]> (padded, w1)
    scaled = Mul(conv1, scale)
    shifted = Add(scaled, shift)
    relu1 = Relu(shifted)
    conv2 = Conv <auto_pad="SAME_UPPER", kernel_shape=[3,3]> (relu1, w2, b2)
    add = Add(conv2, relu1)
    relu2 = Clip(add, zero, six)
    hwc = Transpose <perm=[0,2,3,1]> (relu2)
    HEAD
    dense = MatMul(pooled, kernel)
    logits = Add(dense, bias)
    probabilities = Softmax(logits)
}"""
TF_HEADS = {
    "mean": "pooled = ReduceMean <axes=[1,2], keepdims=0> (hwc)",
    "squeeze": "mean4 = ReduceMean <axes=[1,2], keepdims=1> (hwc)\n pooled = Squeeze(mean4, axes)",
}


def tf_like(head: str = "mean", opset: int = 13) -> ModelProto:
    """As tf2onnx writes a Keras network: N x H x W x C, MatMul and Add, Softmax."""
    return onnx_model(
        TF.replace("HEAD", TF_HEADS[head]), opset=opset,
        mean=numbers(3), pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), zero=np.float32(0),
        six=np.float32(6), w1=numbers(8, 3, 3, 3), scale=numbers(1, 8, 1, 1) + 1,
        shift=numbers(1, 8, 1, 1, seed=1), w2=numbers(8, 8, 3, 3), b2=numbers(8),
        axes=np.array([1, 2]), kernel=numbers(8, 5), bias=numbers(5),
    )  # fmt: skip


KERAS = Path(__file__).parent / "tf2onnx_keras"


def keras(opset: int) -> ModelProto:
    """What tf2onnx made of a Keras ResNet; see `tf2onnx_keras/make.py`."""
    return onnx.load(KERAS / f"resnet-opset{opset}.onnx")


CAFFE = """
caffe (float[1,3,16,16] data) => (float[1,5] prob) {
    conv1 = Conv <pads=[1,1,1,1], kernel_shape=[3,3]> (data, conv1_w, conv1_b)
    bn1 = BatchNormalization <epsilon=0.001> (conv1, bn_scale, bn_bias, bn_mean, bn_var)
    relu1 = Relu(bn1)
    conv2 = Conv <pads=[1,1,1,1], kernel_shape=[3,3]> (relu1, conv2_w)
    sum = Sum(conv2, relu1)
    pool = AveragePool <kernel_shape=[16,16]> (sum)
    drop = Dropout <ratio=0.5> (pool)
    flat = Reshape(drop, shape)
    logits = Gemm <alpha=0.5, beta=2.0> (flat, fc_w, fc_b)
    prob = Softmax(logits)
}"""


def caffe_like() -> ModelProto:
    """As old converters write: opset 8, IR 3, initializers among the inputs, one image only."""
    model = onnx_model(
        CAFFE, opset=8,
        conv1_w=numbers(8, 3, 3, 3), conv1_b=numbers(8), bn_scale=numbers(8) + 1,
        bn_bias=numbers(8), bn_mean=numbers(8), bn_var=np.abs(numbers(8)) + 0.5,
        conv2_w=numbers(8, 8, 3, 3), shape=np.array([1, 8]), fc_w=numbers(8, 5),
        fc_b=numbers(1, 5),
    )  # fmt: skip
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in model.graph.initializer
    )
    return model


UINT8 = """
camera (uint8[N,16,16,3] frame) => (float[N,5] scores, int64[N] best) {
    chw = Transpose <perm=[0,3,1,2]> (frame)
    float = Cast <to=1> (chw)
    scaled = Div(float, spread)
    conv = Conv <kernel_shape=[3,3]> (scaled, w)
    relu = Relu(conv)
    mean = GlobalAveragePool(relu)
    shape = Shape(mean)
    n = Gather <axis=0> (shape, zero)
    rows = Unsqueeze(n, axis)
    target = Concat <axis=0> (rows, rest)
    flat = Reshape(mean, target)
    scores = Gemm(flat, fc)
    best = ArgMax <axis=1, keepdims=0> (scores)
}"""


def uint8_camera(opset: int = 13) -> ModelProto:
    """Takes raw pixels, and transposes them before it casts them."""
    return onnx_model(
        UINT8, opset=opset,
        spread=np.full((3, 1, 1), 60, np.float32), w=numbers(8, 3, 3, 3), zero=np.array(0),
        axis=np.array([0]), rest=np.array([-1]), fc=numbers(8, 5),
    )  # fmt: skip


def plain(body: str, shape: Sequence[int | str] = ("N", 3, 16, 16), **options: Any) -> ModelProto:
    """A graph from ``x`` to ``y`` with the constants that its body may name."""
    dims = ",".join(map(str, shape))
    constants: dict[str, Any] = {
        "w": numbers(8, int(shape[1]), 3, 3), "fc": numbers(8, 5), "fct": numbers(5, 8),
        "b": numbers(5), "ones": np.ones(8, np.float32), "minus": np.array([0, -1]),
    }  # fmt: skip
    opset = options.pop("opset", 17)
    text = f"g (float[{dims}] x) => (float[a,b] y) {{ {body} }}"
    model = onnx_model(text, opset=opset, **{**constants, **options})
    used = {name for n in model.graph.node for name in n.input}
    for initializer in list(model.graph.initializer):
        if initializer.name not in used:
            model.graph.initializer.remove(initializer)
    return model


def run_original(model: ModelProto, x: Any) -> Any:
    """Run a model in ONNX Runtime, image by image where it takes only one."""
    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession

    stored = {i.name for i in model.graph.initializer}
    (name,) = (i.name for i in model.graph.input if i.name not in stored)
    with OnnxRuntimeSession(model) as session:
        one = session.inputs[0].shape[0] == 1
        parts = [x[i : i + 1] for i in range(len(x))] if one else [x]
        return np.concatenate([next(iter(session.run({name: p}).values())) for p in parts])


def softmax(x: Any) -> Any:
    exp = np.exp(x - x.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def gray(spec: Any) -> Any:
    """The same preprocessing for gray images."""
    return replace(spec, color="gray", mean=(0.3,), std=(0.3,))
