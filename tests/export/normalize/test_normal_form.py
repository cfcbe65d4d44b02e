from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.export.normalize.normal_form import normalize
from resnet_edge.graph.nodes import attribute
from tests.conftest import require
from tests.export.foreign.models import caffe_like, tf_like
from tests.export.normalize.graphs import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

require("onnxruntime")


@pytest.mark.parametrize("onnxsim", [True, False])
@pytest.mark.parametrize("make", [tf_like, caffe_like])
def test_all_passes_together_are_idempotent(make: Callable[[], ModelProto], onnxsim: bool) -> None:
    if onnxsim:
        require("onnxsim")
    original = make()
    stored = {i.name for i in original.graph.initializer}
    inputs = [i for i in original.graph.input if i.name not in stored]
    del original.graph.input[:]
    original.graph.input.extend(inputs)
    original.ir_version = 8
    nhwc = make is tf_like
    shape = (2, 16, 16, 3) if nhwc else (1, 3, 16, 16)
    first = normalize(original, "logits", shape, to_nchw=nhwc, onnxsim=onnxsim)
    second = normalize(first.model, "logits", (2, 3, 16, 16), onnxsim=onnxsim)
    assert second.nodes == first.nodes
    assert (second.macs, second.blocked, second.notes) == (first.macs, None, ())
    assert np.allclose(run(second.model, 4, 3, 16, 16), run(first.model, 4, 3, 16, 16), atol=1e-6)
    assert {"Constant", "Identity", "MatMul", "BatchNormalization"}.isdisjoint(first.nodes)
    for node in first.model.graph.node:
        assert node.op_type != "Gemm" or attribute(node, "transB") == 1
