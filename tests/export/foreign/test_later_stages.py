"""All stages work on the bundle of a foreign ONNX classifier."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.bench.contenders import contenders
from resnet_edge.bench.stage import BenchConfig, bench
from resnet_edge.build.stage import BuildConfig, build
from resnet_edge.bundle.names import GRAPHS, MODEL
from resnet_edge.bundle.reference import Golden
from resnet_edge.calibrate.collect import collect
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import Recipe
from resnet_edge.catalog.targets import load_target
from resnet_edge.errors import ConfigError
from resnet_edge.export.foreign.import_onnx import ImportConfig
from resnet_edge.graph.onnx_model import fixed_batch, load_graph
from resnet_edge.graph.stand_in import stand_in
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images
from resnet_edge.quantize.stage import quantize
from resnet_edge.verify.candidate import find_candidate
from resnet_edge.verify.stage import verify
from tests.conftest import require
from tests.export.foreign.bring import BODY, SPEC, bring, logits_of
from tests.export.foreign.models import (
    SIZE,
    UNFOLDED,
    caffe_like,
    keras,
    legacy_export,
    numbers,
    plain,
    run_original,
    tf_like,
    tiny_network,
    uint8_camera,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

require("onnxsim")
require("onnxruntime")


@pytest.fixture(scope="module")
def calibrated_import(
    tmp_path_factory: pytest.TempPathFactory, shipped_images: Path
) -> Callable[[str], Bundle]:
    """Imported and calibrated models by kind; only to be read, or built from."""
    make_model: dict[str, Callable[[], ModelProto]] = {
        "torch": lambda: legacy_export(tiny_network("bottleneck"), 11, **UNFOLDED),
        "option-a": lambda: legacy_export(tiny_network("option-a"), 17),
        "tensorflow": lambda: tf_like("squeeze"),
        "keras": lambda: keras(13),
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


KINDS = ["torch", "option-a", "tensorflow", "keras", "caffe", "uint8"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_is_made_of_an_imported_model(
    calibrated_import: Callable[[str], Bundle], kind: str
) -> None:
    bundle = calibrated_import(kind)
    golden = Golden.load(bundle)
    x = bundle.model.image_spec.to_input(golden.pixels)
    for graph in GRAPHS:
        logits = run_original(stand_in(load_graph(quantize(bundle, graph).path)), x)
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
        quantized = stand_in(load_graph(quantize(bundle, graph).path))
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
    assert (found.min, found.max) == (x.min(), x.max())
    for graph in GRAPHS:
        assert fixed_batch(load_graph(quantize(bundle, graph).path)) == batch
    for name, precisions in (("cpu", ("fp32", "int8")), ("rtx-4090", ("fp32", "fp16", "int8"))):
        if name != "cpu" and importlib.util.find_spec("tensorrt_rtx") is None:
            continue
        for precision in precisions:
            build(bundle, load_target(name), BuildConfig(precision, profile=(batch,) * 3))
            candidate = find_candidate(bundle)
            assert verify(bundle, candidate, None).agreement >= 90
            some = ArrayImages(
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
