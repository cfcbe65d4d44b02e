"""Foreign ONNX classifiers become bundles that all stages work on."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from resnet_edge.bench.latency import BenchConfig, bench
from resnet_edge.build import BuildConfig, build
from resnet_edge.calibrate.collect import collect
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.data import IdxImages, open_images
from resnet_edge.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    GraphError,
)
from resnet_edge.export import MODEL, reload_model
from resnet_edge.foreign.stage import ImportConfig, ImportResult, expected_image_spec, import_onnx
from resnet_edge.graph import fixed_batch, load_graph, opset_of
from resnet_edge.imaging import IMAGENET, ImageSpec
from resnet_edge.pipeline import contenders
from resnet_edge.quantize.stage import GRAPHS, quantize
from resnet_edge.recipes import Recipe
from resnet_edge.reference import Evaluated, Golden
from resnet_edge.targets import load_target
from resnet_edge.verify.accuracy import verify
from resnet_edge.verify.candidate import find_candidate
from tests.conftest import require
from tests.foreign_models import (
    DYNAMIC,
    SIZE,
    UNFOLDED,
    ViewsByHand,
    caffe_like,
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

    from onnx import ModelProto

    from resnet_edge.bundle import Bundle

require("onnxsim")
require("onnxruntime")
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
        assert result.nodes == ours.entry(MODEL)["details"]["nodes"]
        assert result.notes == ()


def test_what_the_dynamo_exporter_writes_becomes_a_bundle(tmp_path: Path) -> None:
    from resnet_edge.torch_onnx import torch_to_onnx

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
    assert set(result.bundle.entry(MODEL)["inputs"]) == {"onnx", "onnx:weights.bin", "images"}
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
    fresh = IdxImages(tmp_path, np.stack([np.asarray(source.load(i)) + 1 for i in range(8)]), None)
    assert verify(result.bundle, candidate, fresh).source == "onnx"
    with pytest.raises(CheckpointError, match="no PyTorch model"):
        reload_model(result.bundle, tmp_path / "foreign.onnx")


@pytest.fixture(scope="module")
def calibrated_import(
    tmp_path_factory: pytest.TempPathFactory, shipped_images: Path
) -> Callable[[str], Bundle]:
    """Imported and calibrated models by kind; only to be read, or built from."""
    make_model: dict[str, Callable[[], ModelProto]] = {
        "torch": lambda: legacy_export(tiny_network("bottleneck"), 11, **UNFOLDED),
        "option-a": lambda: legacy_export(tiny_network("option-a"), 17),
        "tensorflow": lambda: tf_like("squeeze"),
        "caffe": caffe_like,
        "uint8": lambda: uint8_camera(20),
    }

    @cache
    def make(kind: str) -> Bundle:
        folder = tmp_path_factory.mktemp(kind)
        bundle = bring(folder, make_model[kind]()).bundle
        images = open_images(shipped_images / "calibration")
        calibrate(bundle, images, Recipe("test", "few images", "minmax", images=64))
        return bundle

    return make


KINDS = ["torch", "option-a", "tensorflow", "caffe", "uint8"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_is_made_of_an_imported_model(
    calibrated_import: Callable[[str], Bundle], kind: str
) -> None:
    bundle = calibrated_import(kind)
    golden = Golden.load(bundle)
    x = bundle.model.image_spec.to_input(golden.pixels)
    for graph in GRAPHS:
        logits = run_original(load_graph(quantize(bundle, graph).path), x)
        spread = golden.logits.max(1).mean() - golden.logits.min(1).mean()
        assert np.abs(logits - golden.logits).max() < 0.15 * spread, graph
    build(bundle, load_target("cpu"), BuildConfig("int8"))
    assert verify(bundle, find_candidate(bundle), None).agreement >= 90


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrt_rtx_builds_an_imported_model(
    calibrated_import: Callable[[str], Bundle], kind: str
) -> None:
    require("tensorrt_rtx")
    bundle = calibrated_import(kind)
    for precision in ("fp32", "fp16", "int8"):
        built = build(bundle, load_target("rtx-4090"), BuildConfig(precision, profile=(1, 2, 4)))
        assert built.size > 10_000


PADDED = "Conv <pads=[1,1,1,1]>"
SHARING = {
    "bias": f"c = {PADDED}(x, w, sb) r = Relu(c) d = {PADDED}(r, v, sb) e = Relu(d) "
    f"g = {PADDED}(e, u, sb) a = Add(g, r) s = Relu(a)",
    "weight": f"c = {PADDED}(x, w, sb) r = Relu(c) d = {PADDED}(r, v) e = Relu(d) "
    f"g = {PADDED}(e, v, sb) a = Add(g, r) s = Relu(a)",
}


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("kind", SHARING)
def test_layers_that_share_a_weight_or_a_bias_are_quantized_each_by_itself(
    tmp_path: Path, shipped_images: Path, kind: str, simplify: bool
) -> None:
    original = plain(
        f"{SHARING[kind]} m = GlobalAveragePool(s) f = Flatten(m) y = Gemm(f, fc)",
        sb=numbers(8), v=numbers(8, 8, 3, 3, seed=1), u=numbers(8, 8, 3, 3, seed=2),
    )  # fmt: skip
    bundle = bring(tmp_path, original, ImportConfig(image_spec=SPEC, simplify=simplify)).bundle
    weights = [n.input[1:] for n in load_graph(bundle.artifact(MODEL)).graph.node
               if n.op_type in ("Conv", "Gemm")]  # fmt: skip
    names = [name for layer in weights for name in layer]
    assert len(names) == len(set(names))
    images = open_images(shipped_images / "calibration")
    calibrate(bundle, images, Recipe("test", "few images", "minmax", images=64))
    golden = Golden.load(bundle)
    x = bundle.model.image_spec.to_input(golden.pixels)
    spread = golden.logits.max(1).mean() - golden.logits.min(1).mean()
    for graph in GRAPHS:
        quantized = load_graph(quantize(bundle, graph).path)
        assert np.abs(run_original(quantized, x) - golden.logits).max() < 0.1 * spread, graph


def test_a_model_that_mixes_the_images_of_a_batch_keeps_its_batch(tmp_path: Path) -> None:
    body = f"{BODY} t = Transpose <perm=[1,0]> (f) u = Reshape(t, one) y = Gemm(u, fc)"
    original = plain(body, (1, 3, SIZE, SIZE), one=np.array([1, 8]))
    result = bring(tmp_path, original)
    assert result.parity.accepted
    model = load_graph(result.bundle.artifact(MODEL))
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][:1] == [1]
    assert any("stays fixed at 1: Reshape" in note for note in result.notes)


def test_a_model_whose_images_depend_on_each_other_keeps_its_batch(tmp_path: Path) -> None:
    body = f"{BODY} n = Sub(f, centre) y = Gemm(n, fc)"
    original = plain(body, (2, 3, SIZE, SIZE), centre=numbers(2, 8))
    result = bring(tmp_path, original)
    assert result.parity.accepted
    assert any("the batch stays fixed at 2" in note for note in result.notes)
    golden = Golden.load(result.bundle)
    x = result.bundle.model.image_spec.to_input(golden.pixels)
    assert np.allclose(logits_of(result.bundle, x[:2]), golden.logits[:2], atol=1e-5)


def of_fixed_batch(batch: int) -> ModelProto:
    """A classifier that looks as if it mixed the images of a batch, and so keeps it."""
    body = f"{BODY} t = Reshape(f, together) n = Clip(t, low) u = Reshape(n, rows) y = Gemm(u, fc)"
    return plain(
        body, (batch, 3, SIZE, SIZE), low=np.float32(-50),
        together=np.array([1, 8 * batch] if batch > 1 else [8, 1]), rows=np.array([batch, 8]),
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_model_of_fixed_batch_goes_through_every_stage(
    tmp_path: Path, shipped_images: Path, batch: int
) -> None:
    bundle = bring(tmp_path, of_fixed_batch(batch)).bundle
    assert fixed_batch(load_graph(bundle.artifact(MODEL))) == batch
    images = open_images(shipped_images / "calibration")
    table = calibrate(bundle, images, Recipe("test", "few images", "auto", images=61)).table
    assert len(table.images) == 61
    x = bundle.model.image_spec.to_input(
        np.stack([bundle.model.image_spec.pixels(images.load(i)) for i in range(len(images))
                  if images.key(i) in table.images])
    )  # fmt: skip
    found = table.tensors[
        "input"
    ]  # every image counts once, whatever the last batch is filled with
    assert (found.minimum, found.maximum) == (x.min(), x.max())
    for graph in GRAPHS:
        assert fixed_batch(load_graph(quantize(bundle, graph).path)) == batch
    for name, precisions in (("cpu", ("fp32", "int8")), ("rtx-4090", ("fp32", "fp16", "int8"))):
        if name != "cpu" and importlib.util.find_spec("tensorrt_rtx") is None:
            continue
        for precision in precisions:
            build(bundle, load_target(name), BuildConfig(precision, profile=(batch,) * 3))
            candidate = find_candidate(bundle)
            assert verify(bundle, candidate, None).agreement >= 90
            some = IdxImages(
                tmp_path, np.stack([np.asarray(images.load(i)) + 1 for i in range(9)]), None
            )
            assert verify(bundle, candidate, some).n == 9
    config = BenchConfig(duration=0, iterations=4, warm_up=0)
    results, _ = bench(bundle, contenders(bundle), config)
    assert {r.batch for r in results} == {batch}
    with pytest.raises(ConfigError, match=f"takes {batch} images at once") as caught:
        bench(bundle, contenders(bundle), replace(config, batches=(batch, 8)))
    assert f"--batch {batch}" in (caught.value.hint or "")


def test_counts_of_a_fixed_batch_are_those_of_a_free_one(
    tmp_path: Path, shipped_images: Path
) -> None:
    images = open_images(shipped_images / "calibration")
    fixed, free = (
        load_graph(bring(tmp_path / str(i), model).bundle.artifact(MODEL))
        for i, model in enumerate([of_fixed_batch(4), plain(f"{BODY} y = Gemm(f, fc)")])
    )
    tensors = ["input", next(n.output[0] for n in fixed.graph.node if n.op_type == "Relu")]
    one, other = (
        collect(m, tensors, images, SPEC, indices=range(10)).histograms for m in (fixed, free)
    )
    for name in tensors:
        assert one[name].total
        assert np.array_equal(one[name].counts, other[name].counts)


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
    source = IdxImages(tmp_path, pixels, np.array([0, 1, 2, 7]))
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
    from resnet_edge.normalize import classifier

    def forget(model: ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Gemm":
                del node.input[2:]

    monkeypatch.setattr(classifier, "flatten_output", forget)
    with pytest.raises(ExportError, match="differs from the original"):
        bring(tmp_path, legacy_export(tiny_network(), 13))
    assert not (tmp_path / "bundle").exists()
