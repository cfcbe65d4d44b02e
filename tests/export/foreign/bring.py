"""Bring a foreign ONNX classifier into a bundle, and compare the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.reference import Golden
from resnet_edge.export.foreign.import_onnx import ImportConfig, ImportResult, import_onnx
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.images.spec import ImageSpec
from tests.export.foreign.models import DYNAMIC, SIZE, UNFOLDED, run_original, softmax

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

SPEC = ImageSpec(resize=SIZE, crop=(SIZE, SIZE), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
CONFIG = ImportConfig(image_spec=SPEC)
HEAD = "m = GlobalAveragePool(r) f = Flatten(m)"
BODY = f"c = Conv(x, w) r = Relu(c) {HEAD}"


def write(folder: Path, model: ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "foreign.onnx"
    onnx.save(model, path)
    return path


def bring(folder: Path, model: ModelProto, config: ImportConfig = CONFIG) -> ImportResult:
    return import_onnx(write(folder, model), folder / "bundle", config)


def logits_of(bundle: Bundle, x: Any) -> Any:
    return run_original(load_graph(bundle.artifact(MODEL)), x)


def assert_equal_for_any_batch(result: ImportResult, original: ModelProto) -> None:
    """The bundle's model computes what the original does, on golden images in any batch."""
    assert result.parity.accepted
    golden = Golden.load(result.bundle)
    assert len(golden.pixels) == 32
    x = result.bundle.model.image_spec.to_input(golden.pixels)
    wide = original.graph.input[0].type.tensor_type.shape.dim[3].dim_value == 3
    nhwc = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if wide and x.shape[1] == 3 else x
    expected = run_original(original, nhwc)
    for size in (1, 5, 32):
        logits = logits_of(result.bundle, x[:size])
        assert np.allclose(logits, golden.logits[:size], atol=1e-3 * np.abs(golden.logits).max())
        found = logits if result.probabilities is None else softmax(logits)
        assert np.allclose(found, expected[:size], rtol=1e-3, atol=1e-3 * np.abs(expected).max())


LEGACY = {"folded": {}, "unfolded": UNFOLDED, "dynamic": DYNAMIC}
