"""What an ONNX classifier made by someone else takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.inliner import inline_local_functions

from resnet_edge.errors import GraphError
from resnet_edge.files import sha256_file, sha256_json
from resnet_edge.graph.nodes import GraphIndex, attribute
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.relabel import opset_of
from resnet_edge.images.spec import ImageSpec

__all__ = ["ForeignFile", "ImageInput", "image_input", "read_foreign", "refuse_unsupported"]

_QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_CONTROL_FLOW = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class ForeignFile:
    """An ONNX file as it was read, once for everything that is asked of it.

    Attributes:
        path: Where it is.
        model: With external data. Initializers that were also listed as inputs (IR version 3) are
            no longer, and model-local functions are written out.
        hashes: Of every file it consists of, by a name that says which it is.
    """

    path: Path
    model: ModelProto
    hashes: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Hash of all its files."""
        return sha256_json(self.hashes)


@dataclass(frozen=True)
class ImageInput:
    """The image input of a model.

    Attributes:
        name: Of the tensor.
        layout: Order of its axes.
        dtype: Of its elements.
        channels: Number of colours.
        height: Pixels, None where any is taken.
        width: Pixels, None where any is taken.
        batch: Images per call, None where any number is taken.
    """

    name: str
    layout: Literal["NCHW", "NHWC"]
    dtype: Literal["float32", "uint8"]
    channels: int
    height: int | None
    width: int | None
    batch: int | None

    def shape(self, spec: ImageSpec, batch: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch of images that ``spec`` prepared."""
        if self.layout == "NHWC":
            return (batch, *spec.crop, self.channels)
        return (batch, self.channels, *spec.crop)


def read_foreign(path: Path) -> ForeignFile:
    """Load an ONNX file and hash every file it consists of.

    Raises:
        GraphError: It cannot be read.
    """
    model = load_graph(path)
    hashes = _file_hashes(path)
    if model.functions:
        model = inline_local_functions(model)
    stored = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # since when initializers need not be inputs
    return ForeignFile(path, model, hashes)


def _file_hashes(path: Path) -> dict[str, str]:
    bare = onnx.load(path, load_external_data=False)
    hashes = {"onnx": sha256_file(path)}
    attributes = (a.t for n in bare.graph.node for a in n.attribute)
    for tensor in (*bare.graph.initializer, *attributes):
        for item in tensor.external_data:
            if item.key == "location" and f"onnx:{item.value}" not in hashes:
                hashes[f"onnx:{item.value}"] = sha256_file(path.parent / item.value)
    return hashes


def refuse_unsupported(foreign: ForeignFile) -> None:
    """Refuse what is no float classifier that the later stages can work on.

    Raises:
        GraphError: It is of another kind; the message says which.
    """
    model, path = foreign.model, foreign.path
    operators = {n.op_type: n for n in model.graph.node}
    if quantized := sorted(o for o in operators if o in _QUANTIZED or o.startswith("QLinear")):
        raise GraphError(
            f"{path} is already quantized: it has {', '.join(quantized)} nodes",
            hint="start from the float model it was made from; to take over its ranges: "
            f"resnet-edge calibrate FLOAT.onnx --from-qdq {path}",
        )
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(
                f"{path} has {node.domain}::{node.op_type} nodes, which are not standard ONNX",
                hint="export it again without custom or runtime-specific operators",
            )
    if found := [o for o in _CONTROL_FLOW if o in operators]:
        raise GraphError(
            f"{path} branches or loops ({', '.join(found)})",
            hint="export it with a fixed image size, or run onnxsim on it first",
        )
    if "Conv" not in operators:
        raise GraphError(
            f"{path} has no convolution", hint="only convolutional image classifiers are supported"
        )
    index, opset = GraphIndex(model.graph), opset_of(model)
    for node in model.graph.node:
        if _is_training(node, index, opset):
            raise GraphError(
                f"{path} was exported in training mode: {node.op_type} "
                f"{node.name or node.output[0]} does not do what it does at inference",
                hint="export it in evaluation mode: model.eval()",
            )
    _refuse_other_types(model.graph, path)


def _is_training(node: NodeProto, index: GraphIndex, opset: int) -> bool:
    if node.op_type == "Dropout" and len(node.input) > 2:
        return bool(index.constant(node.input[2]))
    if node.op_type != "BatchNormalization":
        return False
    return bool(attribute(node, "training_mode", 0)) or (opset < 14 and any(node.output[1:]))


def _refuse_other_types(graph: GraphProto, path: Path) -> None:
    index = GraphIndex(graph)
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul", "BatchNormalization"):
            for name in node.input[1:]:
                value = index.constant(name)
                if value is not None and str(value.dtype) != "float32":
                    raise GraphError(
                        f"{path} has {value.dtype} weights ({name})",
                        hint="export it in float32; resnet-edge makes the FP16 engine from that",
                    )


def image_input(model: ModelProto) -> ImageInput:
    """Find out how a model wants its images.

    Raises:
        GraphError: It does not take one image tensor of 1 or 3 channels.
    """
    names = [i.name for i in model.graph.input]
    if len(names) != 1:
        raise GraphError(
            f"the model has {len(names)} inputs: {', '.join(names)}",
            hint="only models that take one batch of images are supported",
        )
    tensor = model.graph.input[0].type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    if len(dims) != 4:
        raise GraphError(
            f"input {names[0]} has {len(dims)} dimensions",
            hint="an image input has four: N x C x H x W or N x H x W x C",
        )
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.UINT8):
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise GraphError(
            f"input {names[0]} takes {kind}", hint="export it with a float32 or uint8 input"
        )
    layout = _layout(model.graph, dims)
    if tensor.elem_type == TensorProto.UINT8 and layout == "NCHW":
        raise GraphError(
            f"input {names[0]} takes uint8 as N x C x H x W, which TensorRT cannot read",
            hint="export it with a float32 input, or with uint8 as N x H x W x C",
        )
    batch, *image = dims
    channels, height, width = image if layout == "NCHW" else (image[2], image[0], image[1])
    channels = channels or _first_conv_channels(model.graph)
    if channels not in (1, 3):
        raise GraphError(
            f"input {names[0]} has {channels} channels",
            hint="images have 1 (gray) or 3 (rgb or bgr)",
        )
    dtype: Literal["float32", "uint8"] = (
        "uint8" if tensor.elem_type == TensorProto.UINT8 else "float32"
    )
    return ImageInput(names[0], layout, dtype, channels, height, width, batch)


def _layout(graph: GraphProto, dims: list[int | None]) -> Literal["NCHW", "NHWC"]:
    first, last = dims[1] in (1, 3), dims[3] in (1, 3)
    if first != last:
        return "NCHW" if first else "NHWC"
    tensor: str = graph.input[0].name
    index = GraphIndex(graph)
    while node := index.only_consumer(tensor):  # down to where the layout shows
        if node.op_type == "Transpose" and list(attribute(node, "perm", [])) == [0, 3, 1, 2]:
            return "NHWC"
        if node.op_type not in ("Cast", "Identity", "Sub", "Mul", "Div", "Add"):
            break
        tensor = node.output[0]
    return "NCHW"


def _first_conv_channels(graph: GraphProto) -> int | None:
    index = GraphIndex(graph)
    for node in graph.node:
        if node.op_type == "Conv" and (weight := index.constant(node.input[1])) is not None:
            return int(weight.shape[1]) * int(attribute(node, "group", 1))
    return None
