"""Bias correction: give back the mean error that quantization adds to every output channel.

Nagel et al. 2019 (arXiv 1906.04721), in its empirical form: the mean over images and positions of
a layer's error on float inputs is subtracted from its bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from resnet_edge.quantize.probe import LayerError

__all__ = ["correct_biases"]


def correct_biases(model: ModelProto, errors: Mapping[str, LayerError]) -> ModelProto:
    """Return a copy of the float model whose biases make up for the layers' mean errors.

    Only to be quantized with the ranges the errors were measured with: as a float model it is off
    by just these errors.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    initializers = {i.name: i for i in corrected.graph.initializer}
    for node in corrected.graph.node:
        error = errors.get(node.name)
        if error is None:
            continue
        if len(node.input) > 2 and node.input[2]:
            bias = initializers[node.input[2]]
            value = numpy_helper.to_array(bias) - error.bias
            bias.CopyFrom(numpy_helper.from_array(value.astype(np.float32), bias.name))
        else:  # an exporter drops biases that are all zero
            name = f"{node.name}.bias_correction"
            value = np.asarray(-error.bias, np.float32)
            corrected.graph.initializer.append(numpy_helper.from_array(value, name))
            del node.input[2:]
            node.input.append(name)
    return corrected
