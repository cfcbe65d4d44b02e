"""Run an ONNX classifier made by someone else, and find its logits by running it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from resnet_edge.backends.base import Session
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.errors import ConfigError, GraphError
from resnet_edge.export.foreign.model import ImageInput
from resnet_edge.graph.nodes import GraphIndex, attribute
from resnet_edge.graph.onnx_model import expose
from resnet_edge.graph.relabel import opset_of
from resnet_edge.images.spec import ImageSpec
from resnet_edge.tensors import TensorSpec

__all__ = ["ClassOutput", "ForeignSession", "class_output"]

_TWO = 2  # images in a blank batch, so that the batch shows in the shapes
_RESHAPING = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_SOFTMAX_OF_ITS_AXIS = 13  # before this opset Softmax took all axes from its own on


@dataclass(frozen=True)
class ClassOutput:
    """The output of a model that has one number for each class.

    Attributes:
        name: Of the output.
        logits: Of the tensor before its softmax; the output itself where there is none.
        activation: What lies between: ``Softmax``, ``LogSoftmax`` or nothing.
        num_classes: Numbers per image.
    """

    name: str
    logits: str
    activation: str | None
    num_classes: int

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn logits into what the output holds."""
        if self.activation is None:
            return logits
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return np.asarray(log if self.activation == "LogSoftmax" else np.exp(log), np.float32)


class ForeignSession(Session):
    """A classifier in ONNX Runtime that takes our images, whatever its own layout and batch.

    Args:
        model: The classifier.
        source: Its input.
        spec: What prepares the images.
        outputs: Tensors to return, N x classes each; they need not be outputs of the graph.
    """

    def __init__(
        self, model: ModelProto, source: ImageInput, spec: ImageSpec, outputs: Sequence[str]
    ) -> None:
        self._session = OnnxRuntimeSession(expose(model, outputs))
        self._source = source
        self._names = tuple(outputs)
        self.inputs = (TensorSpec("input", (None, *spec.input_shape), source.dtype),)
        self.outputs = tuple(TensorSpec(name, (None, None), "float32") for name in outputs)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run any number of images and return the tensors asked for."""
        images = feed["input"]
        if (self._source.layout, self._source.dtype) == ("NHWC", "float32"):
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        found = self._session.run_rows(images, self._source.batch)
        return {name: found[name].reshape(len(images), -1) for name in self._names}

    def close(self) -> None:
        """Drop the session."""
        self._session.close()


def class_output(
    model: ModelProto, source: ImageInput, spec: ImageSpec, wanted: str | None = None
) -> tuple[ClassOutput, ImageInput]:
    """Find the output that has one number for each class, by running the model on blank images.

    Args:
        model: The classifier.
        source: Its input.
        spec: What prepares its images.
        wanted: The output to take; None takes the only one that has the shape.

    Returns:
        The output; and the input again, with the batch fixed to 1 where the model says that it
        takes any and does not.

    Raises:
        ConfigError: It has no output ``wanted``.
        GraphError: None or several outputs could be meant, or ONNX Runtime cannot run the model.
    """
    names = [o.name for o in model.graph.output]
    if wanted is not None and wanted not in names:
        raise ConfigError(
            f"the model has no output {wanted}", hint=f"its outputs are {', '.join(names)}"
        )
    softmax = {name: _softmax_before(model, name) for name in names}
    hidden = {name: node.input[0] for name, node in softmax.items() if node is not None}
    source, found = _run_blank(model, source, spec, [*names, *hidden.values()])
    batch = source.batch or _TWO
    candidates: dict[str, ClassOutput] = {}
    for name in [wanted] if wanted is not None else names:
        classes = _classes(found[name], batch)
        if classes < 2:
            continue
        candidates[name] = ClassOutput(name, name, None, classes)
        node = softmax[name]
        if node is not None and _over_classes(node, found[hidden[name]], batch, opset_of(model)):
            candidates[name] = ClassOutput(name, hidden[name], node.op_type, classes)
    logits = {c.logits for c in candidates.values()}
    if len(logits) == 1:
        (only,) = logits
        return candidates.get(only) or next(iter(candidates.values())), source
    shapes = ", ".join(f"{n} {list(found[n].shape)} {found[n].dtype}" for n in names)
    if not candidates:
        raise GraphError(
            f"the model is no image classifier: for {batch} images its outputs are {shapes}",
            hint="a classifier gives one row of 2 or more float32 numbers for each image",
        )
    raise GraphError(
        f"several outputs could be the logits: {', '.join(candidates)}",
        hint="say which: resnet-edge export MODEL.onnx --output-name NAME",
    )


def _run_blank(
    model: ModelProto, source: ImageInput, spec: ImageSpec, tensors: Sequence[str]
) -> tuple[ImageInput, dict[str, NDArray[Any]]]:
    with OnnxRuntimeSession(expose(model, tensors)) as session:
        for batch in [source.batch] if source.batch else [_TWO, 1]:
            images = np.zeros(source.shape(spec, batch), source.dtype)
            try:
                found = session.run({source.name: images})
            except Exception as error:  # ONNX Runtime's exception classes are private
                failure = error
                continue
            return (source if batch == _TWO else replace(source, batch=batch)), found
    raise GraphError(
        f"ONNX Runtime cannot run the model: {failure}",
        hint="check that --crop is the image size the model was exported for",
    ) from failure


def _classes(value: NDArray[Any], batch: int) -> int:
    """Return how many float32 numbers each image has, 0 if it has more than a row of them."""
    rank_fits = value.ndim == 2 or (value.ndim == 4 and sorted(value.shape[1:])[:2] == [1, 1])
    if not rank_fits or value.shape[0] != batch or str(value.dtype) != "float32":
        return 0
    return int(value[0].size)


def _softmax_before(model: ModelProto, output: str) -> NodeProto | None:
    """Return the (Log)Softmax an output ends in, if nothing but reshaping follows it."""
    producer = GraphIndex(model.graph).producer
    node = producer.get(output)
    while node is not None and node.op_type in _RESHAPING:
        node = producer.get(node.input[0])
    return node if node is not None and node.op_type in ("Softmax", "LogSoftmax") else None


def _over_classes(node: NodeProto, value: NDArray[Any], batch: int, opset: int) -> bool:
    """Whether a softmax runs over the classes of each image."""
    if _classes(value, batch) < 2:
        return False
    old = opset < _SOFTMAX_OF_ITS_AXIS
    axis = int(attribute(node, "axis", 1 if old else -1)) % value.ndim
    together = prod(value.shape[axis:]) if old else value.shape[axis]
    return axis > 0 and together == value[0].size
