"""All passes in order: a float ONNX classifier to the form the other stages work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import ModelProto

from resnet_edge.errors import ExportError, GraphError
from resnet_edge.export.normalize.layers import (
    count_parameters,
    dense_to_gemm,
    fold_affine,
    give_own_weights,
)
from resnet_edge.export.normalize.layout import sink_transposes, take_nchw
from resnet_edge.export.normalize.passes import (
    drop_no_ops,
    flatten_output,
    keep_output,
    older_forms,
    pool_globally,
    raise_opset,
    tidy_names,
)
from resnet_edge.export.normalize.shapes import (
    fix_input,
    fold_constants,
    free_batch,
    state_output,
)
from resnet_edge.export.normalize.simplify import (
    IR_VERSION,
    OPSET,
    drop_exporter_metadata,
    run_onnxsim,
)
from resnet_edge.graph.macs import layer_macs
from resnet_edge.graph.relabel import opset_of, set_opset

__all__ = ["Normalized", "normalize"]


@dataclass(frozen=True)
class Normalized:
    """A classifier in the form the other stages work on.

    Attributes:
        model: Takes ``input``, gives ``logits``.
        nodes: Number of nodes by operator.
        parameters: Trained numbers of the convolutions, matrix products and batch norms.
        macs: Multiply-adds for one image.
        blocked: The node that keeps the batch from being free; None if it is free, or was not
            to be.
        notes: What could not be done.
    """

    model: ModelProto
    nodes: Mapping[str, int]
    parameters: int
    macs: int
    blocked: str | None
    notes: tuple[str, ...]


def normalize(
    model: ModelProto,
    logits: str,
    shape: Sequence[int],
    *,
    to_nchw: bool = False,
    free: bool = True,
    onnxsim: bool = True,
) -> Normalized:
    """Return a copy of a classifier in the form the other stages work on.

    That is: ``input`` to ``logits``, opset 17 where its operators exist there, constants as
    initializers, batch norms inside the convolutions, fully connected layers as Gemm with the
    output channels first, no weights that layers share, means over the image as
    GlobalAveragePool.

    Args:
        model: The classifier, with one input; initializers are no inputs.
        logits: The tensor that becomes the output; what comes after it is cut off.
        shape: A shape that the input takes, in the model's own layout.
        to_nchw: Turn an N x H x W x C input to N x C x H x W.
        free: Let the batch be any number of images, if no node stands in the way.
        onnxsim: Let onnxsim simplify the graph as well; where it fails that is noted.

    Raises:
        GraphError: The graph cannot be expressed in opset 17 or later.
    """
    copy, notes = onnx.ModelProto(), list[str]()
    copy.CopyFrom(model)
    keep_output(copy, logits)
    fix_input(copy, shape)
    raise_opset(copy, OPSET)
    fold_constants(copy)
    drop_no_ops(copy)
    parameters = count_parameters(copy)
    state_output(copy)
    if onnxsim:
        try:
            copy = run_onnxsim(copy)
        except ExportError as error:
            notes.append(f"{error.message}: the graph was simplified without it")
        fold_constants(copy)
    if to_nchw:
        take_nchw(copy)
    sink_transposes(copy)
    pool_globally(copy)
    dense_to_gemm(copy)
    fold_affine(copy)
    flatten_output(copy)
    macs = sum(layer_macs(copy).values())
    give_own_weights(copy)
    blocked = free_batch(copy) if free else None
    drop_exporter_metadata(copy)
    tidy_names(copy)
    older = onnx.ModelProto()
    older.CopyFrom(copy)
    older_forms(older)
    try:
        set_opset(older, OPSET, IR_VERSION)
        copy = older
    except GraphError as error:
        copy.ir_version = onnx.helper.find_min_ir_version_for(list(copy.opset_import))
        notes.append(f"it stays at opset {opset_of(copy)}, which TensorRT 8 cannot read: {error}")
    nodes = dict(Counter(n.op_type for n in copy.graph.node))
    return Normalized(copy, nodes, parameters, macs, blocked, tuple(notes))
