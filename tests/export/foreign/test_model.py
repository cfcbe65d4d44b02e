"""What of a foreign model is taken, assumed and refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from resnet_edge.bundle.names import MODEL
from resnet_edge.errors import BundleError, ConfigError, DataError, ExportError, GraphError
from resnet_edge.export.foreign.import_onnx import ImportConfig, import_onnx
from resnet_edge.export.foreign.model import image_input, read_foreign
from resnet_edge.export.foreign.preprocessing import choose_image_spec, recorded_image_spec
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.relabel import opset_of
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.spec import IMAGENET, ImageSpec
from tests.conftest import require
from tests.export.foreign.bring import (
    BODY,
    CONFIG,
    HEAD,
    SPEC,
    assert_equal_for_any_batch,
    bring,
    write,
)
from tests.export.foreign.models import (
    SIZE,
    UNFOLDED,
    legacy_export,
    numbers,
    plain,
    tf_like,
    tiny_network,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

require("onnxsim")
require("onnxruntime")


def test_a_failure_of_onnxsim_is_noted_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxsim

    monkeypatch.setattr(onnxsim, "simplify", lambda model: (model, False))
    original = legacy_export(tiny_network(), 13, **UNFOLDED)
    result = bring(tmp_path, original)
    assert_equal_for_any_batch(result, original)
    assert "BatchNormalization" not in result.nodes
    assert any("onnxsim" in note and "without it" in note for note in result.notes)


def test_operators_newer_than_opset_17_keep_their_opset_and_that_is_said(tmp_path: Path) -> None:
    original = plain("c = Conv(x, w) r = Mish(c) " + HEAD + " y = Gemm(f, fc)", opset=18)
    result = bring(tmp_path, original)
    assert_equal_for_any_batch(result, original)
    assert opset_of(load_graph(result.bundle.artifact(MODEL))) == 18
    assert any("stays at opset 18" in note and "Mish" in note for note in result.notes)


def test_of_several_outputs_the_one_with_a_number_per_class_is_taken(tmp_path: Path) -> None:
    text = f"{BODY} y = Gemm(f, fc) z = Softmax(y)"
    original = plain(text)
    for name in ("r", "z"):  # feature maps, and the same logits after softmax
        original.graph.output.append(onnx.ValueInfoProto(name=name))
    result = bring(tmp_path, original)
    assert_equal_for_any_batch(result, original)
    assert result.probabilities is None


def test_ambiguous_outputs_are_refused_by_name_and_can_be_chosen(tmp_path: Path) -> None:
    original = plain(f"{BODY} y = Gemm(f, fc) aux = Gemm(f, other)", other=numbers(8, 7))
    original.graph.output.append(onnx.ValueInfoProto(name="aux"))
    with pytest.raises(GraphError, match="several outputs could be the logits: y, aux"):
        bring(tmp_path, original)
    chosen = ImportConfig(image_spec=SPEC, output="aux")
    assert bring(tmp_path, original, chosen).bundle.model.num_classes == 7
    with pytest.raises(ConfigError, match="no output nowhere") as caught:
        bring(tmp_path, original, ImportConfig(image_spec=SPEC, output="nowhere"))
    assert "y, aux" in (caught.value.hint or "")


@pytest.mark.parametrize("activation", ["Softmax <axis=1>", "LogSoftmax"])
def test_pooled_maps_and_other_softmaxes_are_classifiers_too(
    tmp_path: Path, activation: str
) -> None:
    body = f"c = Conv(x, w) m = GlobalAveragePool(c) s = {activation} (m) y = Identity(s)"
    result = bring(tmp_path, plain(body.replace("LogSoftmax", "LogSoftmax <axis=1>")))
    assert result.bundle.model.num_classes == 8
    assert result.probabilities is not None
    assert result.probabilities.accepted
    assert (result.nodes.get("Softmax"), result.nodes["Flatten"]) == (None, 1)


QUANTIZED = "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) c = Conv(d, w) " + HEAD


REFUSED = {
    "quantized": (plain(f"{QUANTIZED} y = Gemm(f, fc)", s=np.float32(1)),
                  "already quantized: it has QuantizeLinear", "float model"),
    "no convolution": (plain("f = Flatten(x) y = Gemm(f, big)", big=numbers(3 * SIZE * SIZE, 5)),
                       "no convolution", "convolutional"),
    "segmentation": (plain("y = Conv(x, w)"), "no image classifier", "one row"),
    "one number": (plain(f"{BODY} y = Gemm(f, one)", one=numbers(8, 1)), "no image classifier",
                   "2 or more"),
    "four channels": (plain("y = Conv(x, w)", ("N", 4, 8, 8)), "4 channels", "1 .gray. or 3"),
    "half weights": (plain("y = Conv(x, h)", h=numbers(8, 3, 3, 3).astype(np.float16)),
                     "float16 weights .h.", "float32"),
    "double weights": (plain("y = Conv(x, h)", h=numbers(8, 3, 3, 3).astype(np.float64)),
                       "float64 weights .h.", "float32"),
    "training": (plain(
        f"c = Conv(x, w) r, m2, v2 = BatchNormalization <training_mode=1> (c, ones, ones, ones, "
        f"ones) {HEAD} y = Gemm(f, fc)"), "exported in training mode: BatchNormalization", "eval"),
    "branches": (plain(
        f"{BODY} t = Shape(x) y = If <then_branch = g1 () => (float[a,b] u) {{ u = Gemm(f, fc) }}, "
        "else_branch = g2 () => (float[a,b] v) { v = Gemm(f, fc) }> (yes)", yes=np.array(True)),
                 "branches or loops .If.", "onnxsim"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_float_classifier_is_refused_with_a_hint(tmp_path: Path, kind: str) -> None:
    model, message, hint = REFUSED[kind]
    with pytest.raises(GraphError, match=message) as caught:
        bring(tmp_path, model)
    assert re.search(hint, caught.value.hint or "")
    assert not (tmp_path / "bundle").exists()


def test_inputs_that_are_no_images_are_refused_by_name(tmp_path: Path) -> None:
    two = plain(f"{BODY} y = Gemm(f, fc)")
    two.graph.input.append(onnx.helper.make_tensor_value_info("mask", 1, [1]))
    flat = plain(f"{BODY} y = Gemm(f, fc)")
    del flat.graph.input[0].type.tensor_type.shape.dim[0]
    half = plain(f"{BODY} y = Gemm(f, fc)")
    half.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    raw = plain(f"{BODY} y = Gemm(f, fc)")
    raw.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    for model, message in (
        (two, "2 inputs: x, mask"),
        (flat, "input x has 3 dimensions"),
        (half, "input x takes float16"),
        (raw, "uint8 as N x C x H x W"),
    ):
        with pytest.raises(GraphError, match=message):
            bring(tmp_path, model)


def test_custom_operators_are_refused(tmp_path: Path) -> None:
    model = plain(f"{BODY} y = Gemm(f, fc)")
    model.graph.node[1].domain = "com.microsoft"
    with pytest.raises(GraphError, match=r"com\.microsoft::Relu"):
        bring(tmp_path, model)


def expected_image_spec(path: Path) -> ImageSpec:
    """The preprocessing that is taken for a file unless something else is said."""
    model = read_foreign(path).model
    return choose_image_spec(image_input(model), recorded_image_spec(model), None)[0]


DEFAULTS = [
    ((3, 224, 224), IMAGENET),
    ((3, None, None), IMAGENET),
    ((3, 64, 96), ImageSpec(73, (64, 96), IMAGENET.mean, IMAGENET.std)),
    ((3, 32, 32), ImageSpec(32, (32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
    ((1, 28, 28), ImageSpec(28, (28, 28), (0.2860,), (0.3530,), color="gray")),
]


@pytest.mark.parametrize(("shape", "spec"), DEFAULTS)
def test_preprocessing_that_nobody_recorded_is_assumed_and_noted(
    tmp_path: Path, shape: tuple[Any, ...], spec: ImageSpec
) -> None:
    dims = tuple(d or "any" for d in shape)
    model = plain(f"{BODY} y = Gemm(f, fc)", ("N", *dims))
    path = write(tmp_path, model)
    assert expected_image_spec(path) == spec
    if shape != (3, None, None):
        result = import_onnx(path, tmp_path / "b")
        assert result.bundle.model.image_spec == spec
        assert "pass --resize --crop --mean --std --color" in result.notes[0]


def test_recorded_preprocessing_and_labels_are_binding(
    exported: Callable[[str], Bundle], tmp_path: Path
) -> None:
    path = exported("basic").artifact(MODEL)
    recorded = exported("basic").model.image_spec
    assert expected_image_spec(path) == recorded
    import_onnx(path, tmp_path / "same", ImportConfig(image_spec=recorded))
    other = ImageSpec(40, (32, 32), recorded.mean, recorded.std)
    with pytest.raises(ConfigError, match="resize 32 against 40"):
        import_onnx(path, tmp_path / "other", ImportConfig(image_spec=other))
    with pytest.raises(ConfigError, match="3 class names for the 10 numbers"):
        import_onnx(path, tmp_path / "other", ImportConfig(labels=("a", "b", "c")))
    assert not (tmp_path / "other").exists()


def test_preprocessing_of_another_size_is_refused(tmp_path: Path) -> None:
    small = ImageSpec(8, (8, 8), SPEC.mean, SPEC.std)
    with pytest.raises(ConfigError, match="gives 3 x 8 x 8 images, the model takes 3 x 16 x 16"):
        bring(tmp_path, tf_like(), ImportConfig(image_spec=small))


def test_images_of_another_model_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    pixels = np.zeros((4, SIZE, SIZE), np.uint8)
    source = ArrayImages(tmp_path, pixels, np.array([0, 1, 2, 7]))
    path = write(tmp_path, tf_like())
    with pytest.raises(DataError, match="label 7"):
        import_onnx(path, tmp_path / "b", CONFIG, images=source)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(BundleError, match="not a bundle"):
        import_onnx(path, tmp_path / "notes", CONFIG)
    assert not (tmp_path / "b").exists()
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def test_a_model_that_overflows_on_images_is_refused(tmp_path: Path) -> None:
    model = plain(f"{BODY} y = Gemm(f, huge)", huge=np.full((8, 5), 3e38, np.float32))
    with pytest.raises(ExportError, match="NaN or infinity"):
        bring(tmp_path, model)


def test_a_normalised_model_that_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_edge.export.normalize import normal_form as classifier

    def forget(model: ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Gemm":
                del node.input[2:]

    monkeypatch.setattr(classifier, "flatten_output", forget)
    with pytest.raises(ExportError, match="differs from the original"):
        bring(tmp_path, legacy_export(tiny_network(), 13))
    assert not (tmp_path / "bundle").exists()
