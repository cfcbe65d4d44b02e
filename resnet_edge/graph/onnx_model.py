"""ONNX models from and to files, and what they say about their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, helper, shape_inference

from resnet_edge.errors import GraphError
from resnet_edge.files import atomic_path
from resnet_edge.tensors import TensorSpec

__all__ = ["expose", "fixed_batch", "infer_shapes", "load_graph", "save_graph", "tensor_specs"]


def load_graph(path: Path) -> ModelProto:
    """Load an ONNX model, external data included.

    Raises:
        GraphError: The file is missing or is not ONNX.
    """
    if not path.is_file():
        raise GraphError(f"no such ONNX file: {path}")
    try:
        model = onnx.load(path)
    except Exception as error:
        raise GraphError(
            f"{path} cannot be read as ONNX: {error}",
            hint="the file is truncated, of another kind, or its external data is missing",
        ) from error
    if not model.graph.node:
        raise GraphError(f"{path} is not an ONNX model: it has no nodes")
    return model


def save_graph(model: ModelProto, path: Path) -> None:
    """Check a model and write it atomically, weights inside.

    Raises:
        GraphError: The model breaks ONNX's own rules.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise GraphError(f"the graph for {path.name} is not valid ONNX: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def infer_shapes(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the extents of every tensor whose rank is known, None where one is not."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int | None, ...]] = {
        i.name: tuple(int(d) for d in i.dims) for i in graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(
                int(d.dim_value) if d.HasField("dim_value") else None for d in tensor.shape.dim
            )
    return shapes


def expose(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """Return a copy of a model that also outputs ``tensors``, for ONNX Runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in present)
    return copy


def fixed_batch(model: ModelProto) -> int | None:
    """Return how many images a model takes at once, None if it takes any number."""
    shape = model.graph.input[0].type.tensor_type.shape
    return int(shape.dim[0].dim_value) or None


def tensor_specs(model: ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and the outputs; a dimension without a number is None."""

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        return TensorSpec(value.name, shape, str(dtype))

    constants = {i.name for i in model.graph.initializer}
    inputs = tuple(spec(i) for i in model.graph.input if i.name not in constants)
    return inputs, tuple(spec(o) for o in model.graph.output)
