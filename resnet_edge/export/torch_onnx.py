"""PyTorch to ONNX through the dynamo exporter, with a dynamic batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnx import ModelProto

from resnet_edge.backends.pytorch import deployable
from resnet_edge.errors import ExportError
from resnet_edge.images.spec import ImageSpec

if TYPE_CHECKING:
    from resnet_edge.models.resnet import ResNet

__all__ = ["torch_to_onnx"]

_EXPORT_OPSET = 18  # the dynamo exporter writes nothing older


def torch_to_onnx(model: ResNet, spec: ImageSpec) -> ModelProto:
    """Export a network that takes the spec's input, named ``input``, to ``logits``.

    Raises:
        ExportError: The exporter failed.
    """
    import torch

    dtype = torch.uint8 if spec.input == "uint8" else torch.float32
    example = torch.zeros(2, *spec.input_shape, dtype=dtype)
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                deployable(model, spec),
                (example,),
                dynamo=True,
                opset_version=_EXPORT_OPSET,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"torch.onnx.export failed: {error}") from error
    assert program is not None  # dynamo=True always returns a program
    proto: ModelProto = program.model_proto
    return proto


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's advice about its own internals away from the user."""
    loggers = [
        logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
