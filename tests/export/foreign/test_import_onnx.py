"""Foreign ONNX classifiers become bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.reference import Evaluated, Golden
from resnet_edge.errors import CheckpointError, GraphError
from resnet_edge.export.foreign.import_onnx import ImportConfig, import_onnx
from resnet_edge.export.stage import reload_model
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.relabel import opset_of
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images
from resnet_edge.verify.candidate import find_candidate
from resnet_edge.verify.stage import verify
from tests.conftest import require
from tests.export.foreign.bring import (
    BODY,
    CONFIG,
    LEGACY,
    SPEC,
    assert_equal_for_any_batch,
    bring,
    logits_of,
    write,
)
from tests.export.foreign.models import (
    DYNAMIC,
    KERAS,
    SIZE,
    UNFOLDED,
    ViewsByHand,
    caffe_like,
    keras,
    legacy_export,
    numbers,
    plain,
    run_original,
    softmax,
    tf_like,
    tiny_network,
    uint8_camera,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from resnet_edge.bundle.bundle import Bundle

require("onnxsim")
require("onnxruntime")


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("style", LEGACY)
@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_what_the_legacy_exporter_of_torch_writes_becomes_a_bundle(
    tmp_path: Path, opset: int, style: str, simplify: bool
) -> None:
    network = tiny_network()
    original = legacy_export(network, opset, **LEGACY[style])
    config = ImportConfig(image_spec=SPEC, simplify=simplify)
    result = bring(tmp_path, original, config)
    assert_equal_for_any_batch(result, original)
    assert set(result.nodes) == {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    model = load_graph(result.bundle.artifact(MODEL))
    assert (opset_of(model), model.ir_version) == (17, 8)
    assert ("fixed at 1 and is free now" in "".join(result.notes)) == (style != "dynamic")
    assert not any("onnxsim" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["bottleneck", "option-a"])
def test_other_blocks_and_shortcuts_are_imported_too(tmp_path: Path, kind: str) -> None:
    original = legacy_export(tiny_network(kind), 13)
    assert_equal_for_any_batch(bring(tmp_path, original), original)


def test_parameters_and_multiply_adds_are_those_of_the_network(tmp_path: Path) -> None:
    from resnet_edge.models.resnet import count_macs

    network = tiny_network()
    info = bring(tmp_path, legacy_export(network, 13, **UNFOLDED)).bundle.model
    assert info.parameters == sum(p.numel() for p in network.parameters())
    assert info.macs == count_macs(network, (3, SIZE, SIZE))
    assert (info.architecture, info.num_classes, info.labels) == ("onnx", 5, None)


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("options", [{}, DYNAMIC], ids=["fixed", "dynamic"])
def test_views_written_by_hand_work_for_any_batch(
    tmp_path: Path, rows: int | None, options: dict[str, Any]
) -> None:
    original = legacy_export(ViewsByHand(rows), 13, **options)
    result = bring(tmp_path, original)
    assert result.nodes["Reshape"] == 1
    assert "Shape" not in result.nodes
    if rows:  # the original only takes one image, whatever it says
        original.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert_equal_for_any_batch(result, original)


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("head", ["mean", "squeeze"])
def test_a_tensorflow_model_is_turned_to_channels_first(
    tmp_path: Path, head: str, simplify: bool
) -> None:
    original = tf_like(head)
    result = bring(tmp_path, original, ImportConfig(image_spec=SPEC, simplify=simplify))
    assert_equal_for_any_batch(result, original)
    assert result.probabilities is not None
    assert result.probabilities.accepted
    assert any("Softmax is left out" in note for note in result.notes)
    assert {"Softmax", "MatMul", "Mul", "ReduceMean"}.isdisjoint(result.nodes)
    assert result.nodes.get("Transpose", 0) == (head == "squeeze")
    assert result.nodes["Gemm"] == 1


@pytest.mark.parametrize("opset", [13, 17])
def test_what_tf2onnx_made_of_a_keras_network_computes_what_keras_does(
    tmp_path: Path, opset: int
) -> None:
    result = bring(tmp_path, keras(opset))
    assert_equal_for_any_batch(result, keras(opset))
    with np.load(KERAS / "outputs.npz") as wanted:
        logits = logits_of(result.bundle, wanted["images"].transpose(0, 3, 1, 2))
        assert np.allclose(softmax(logits), wanted["outputs"], atol=1e-5)
    assert result.nodes["Conv"] == 8
    assert {"Transpose", "Softmax", "MatMul"}.isdisjoint(result.nodes)


@pytest.mark.parametrize("simplify", [True, False])
def test_a_model_of_an_old_converter_is_modernised(tmp_path: Path, simplify: bool) -> None:
    original = caffe_like()
    result = bring(tmp_path, original, ImportConfig(image_spec=SPEC, simplify=simplify))
    assert_equal_for_any_batch(result, original)
    assert result.nodes == {
        "Conv": 2, "Relu": 1, "Add": 1, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1
    }  # fmt: skip
    model = load_graph(result.bundle.artifact(MODEL))
    assert [i.name for i in model.graph.input] == ["input"]


@pytest.mark.parametrize("opset", [13, 18, 20, 22])
def test_raw_pixels_are_cast_before_they_are_transposed(tmp_path: Path, opset: int) -> None:
    original = uint8_camera(opset)
    result = bring(tmp_path, original)
    assert result.bundle.model.image_spec.input == "uint8"
    model = load_graph(result.bundle.artifact(MODEL))
    assert [n.op_type for n in model.graph.node[:2]] == ["Cast", "Transpose"]
    assert opset_of(model) == 17
    assert {"Shape", "Gather", "Concat"}.isdisjoint(result.nodes)
    assert_equal_for_any_batch(result, original)


def test_our_own_exports_are_imported_as_they_were(
    exported: Callable[[str], Bundle], tmp_path: Path
) -> None:
    for name in ("basic", "uint8"):
        ours = exported(name)
        result = import_onnx(ours.artifact(MODEL), tmp_path / name)
        assert result.bundle.model.image_spec == ours.model.image_spec
        assert result.parity.max_abs <= 1e-5 * result.parity.max_logit
        assert result.nodes == ours.entry(MODEL).details["nodes"]
        assert result.notes == ()


def test_what_the_dynamo_exporter_writes_becomes_a_bundle(tmp_path: Path) -> None:
    from resnet_edge.export.torch_onnx import torch_to_onnx

    network = tiny_network()
    original = torch_to_onnx(network, SPEC)
    assert opset_of(original) == 18
    result = bring(tmp_path, original)
    assert_equal_for_any_batch(result, original)
    assert result.nodes["GlobalAveragePool"] == 1
    model = load_graph(result.bundle.artifact(MODEL))
    assert {"conv1", "layer1.0.conv1", "fc"} <= {n.name for n in model.graph.node}


def test_weights_in_a_second_file_are_part_of_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    path = folder / "model.onnx"
    original = legacy_export(tiny_network(), 13)
    onnx.save_model(
        original, path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    result = import_onnx(path, tmp_path / "b", CONFIG)
    assert result.parity.accepted
    assert set(result.bundle.entry(MODEL).inputs) == {"onnx", "onnx:weights.bin", "images"}
    assert import_onnx(path, tmp_path / "b", CONFIG).cached
    weights = np.fromfile(folder / "weights.bin", np.float32)
    (weights * 1.5).tofile(folder / "weights.bin")
    changed = import_onnx(path, tmp_path / "b", CONFIG)
    assert not changed.cached
    assert changed.bundle.model.source_sha256 != result.bundle.model.source_sha256
    (folder / "weights.bin").unlink()
    with pytest.raises(GraphError, match="cannot be read"):
        import_onnx(path, tmp_path / "b", CONFIG)


def test_a_second_import_of_the_same_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, tf_like())
    first = import_onnx(path, tmp_path / "b", CONFIG)
    stamp = first.bundle.artifact(MODEL).stat().st_mtime_ns
    second = import_onnx(path, tmp_path / "b", CONFIG)
    assert (first.cached, second.cached) == (False, True)
    assert second.bundle.artifact(MODEL).stat().st_mtime_ns == stamp
    assert (second.parity, second.probabilities) == (first.parity, first.probabilities)
    assert (second.notes, second.nodes) == (first.notes, first.nodes)
    assert second.bundle.model == first.bundle.model
    for other in (
        ImportConfig(image_spec=SPEC, simplify=False),
        ImportConfig(image_spec=SPEC, labels=tuple("abcde")),
        ImportConfig(),
    ):
        assert not import_onnx(path, tmp_path / "b", other).cached


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, legacy_export(tiny_network(), 11, **UNFOLDED))
    first, second = (import_onnx(path, tmp_path / name, CONFIG).bundle for name in "ab")
    assert first.names() == second.names()
    for name in first.names():
        assert first.artifact(name).read_bytes() == second.artifact(name).read_bytes()


def test_the_reference_is_the_original_model(tmp_path: Path, easy_images: Path) -> None:
    original = plain(f"{BODY} z = MatMul(f, two) y = Softmax(z)", ("N", 1, 28, 28),
                     w=numbers(8, 1, 3, 3), two=numbers(8, 2))  # fmt: skip
    source = open_images(easy_images, split="test")
    config = ImportConfig(labels=("above", "below"))
    result = import_onnx(write(tmp_path, original), tmp_path / "b", config, images=source)
    spec = result.bundle.model.image_spec
    known = Evaluated.load(result.bundle)
    assert known is not None
    assert (known.source, len(known.keys)) == ("onnx", len(source))
    recorded = known.lookup([source.key(i) for i in range(len(source))])
    assert recorded is not None
    x = spec.to_input(np.stack([spec.pixels(source.load(i)) for i in range(len(source))]))
    assert np.allclose(softmax(recorded), run_original(original, x), atol=1e-5)
    golden = Golden.load(result.bundle)
    assert set(golden.labels) == {0, 1}
    candidate = find_candidate(result.bundle)
    assert verify(result.bundle, candidate, source).agreement == 100
    assert verify(result.bundle, candidate, None).agreement == 100
    fresh = ArrayImages(
        tmp_path, np.stack([np.asarray(source.load(i)) + 1 for i in range(8)]), None
    )
    assert verify(result.bundle, candidate, fresh).source == "onnx"
    with pytest.raises(CheckpointError, match="no PyTorch model"):
        reload_model(result.bundle, tmp_path / "foreign.onnx")
