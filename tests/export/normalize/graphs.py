"""Small graphs in text, and the check that a pass keeps what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from hypothesis import settings

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.export.normalize.shapes import state_output
from tests.conftest import onnx_model
from tests.export.foreign.models import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto


few = settings(max_examples=25)


def graph(body: str, shape: str = "2,3,5,7", *, opset: int = 17, **constants: Any) -> ModelProto:
    """A graph from ``x`` to ``y``."""
    text = f"g (float[{shape}] x) => (float y) {{ {body} }}"
    model = onnx_model(text, opset=opset, **constants)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def run(model: ModelProto, *shape: int) -> Any:
    feed = numbers(*shape or (2, 3, 5, 7), seed=7)
    with OnnxRuntimeSession(model, optimise="none") as session:
        return session.run({session.inputs[0].name: feed})[session.outputs[0].name]


def kinds(model: ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def assert_valid(model: ModelProto) -> None:
    if model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"):
        state_output(model)
    onnx.checker.check_model(model, full_check=True)


def check(model: ModelProto, apply: Callable[[ModelProto], object], *shape: int) -> list[str]:
    """Apply a pass, check that it kept the meaning, and return the operators it left."""
    before = run(model, *shape)
    apply(model)
    assert_valid(model)
    after = run(model, *shape)
    assert after.shape == before.shape
    assert np.allclose(after, before, rtol=1e-4, atol=1e-4)
    return kinds(model)
