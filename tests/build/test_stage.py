"""Engines for real targets: real TensorRT-RTX plans, built without a GPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.build.stage import BuildConfig, build
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.sidecar import read_sidecar, sidecar_path
from resnet_edge.catalog.targets import Target, load_target
from resnet_edge.errors import BuildError, CalibrationError, ConfigError, EngineMismatchError
from resnet_edge.files import sha256_file
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.backends.config import Precision

RTX = load_target("rtx-4090")


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """ResNet-18 at 224 with random weights, calibrated on a few upscaled images."""
    torch = require("torch")
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.recipes import Recipe
    from resnet_edge.export.stage import export
    from resnet_edge.images.arrays import ArrayImages
    from resnet_edge.models.zoo import create

    folder = tmp_path_factory.mktemp("resnet18")
    torch.manual_seed(0)
    torch.save(create("resnet18").state_dict(), folder / "resnet18.pt")
    bundle = export(folder / "resnet18.pt", folder / "bundle").bundle
    pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64), dtype=np.uint8)
    calibrate(bundle, ArrayImages(folder, pixels, None), Recipe("test", "", "minmax", images=8))
    return bundle


def test_plans_of_resnet18_differ_by_precision(resnet18: Bundle) -> None:
    require("tensorrt_rtx")
    size = {p: build(resnet18, RTX, BuildConfig(p)).size for p in ("fp32", "fp16", "int8")}
    mixed = build(resnet18, RTX, BuildConfig("int8", rest="fp32"))
    assert size["int8"] < 0.45 * size["fp32"]
    assert mixed.size < 0.45 * size["fp32"]
    assert 0.4 * size["fp32"] < size["fp16"] < 0.6 * size["fp32"]
    assert mixed.engine.name != "model.int8.engine"


@pytest.mark.parametrize("target", ["rtx-2080-ti", "rtx-3090", "rtx-4090", "rtx-5090"])
def test_every_rtx_target_builds_fp16_without_a_gpu(bundle: Bundle, target: str) -> None:
    require("tensorrt_rtx")
    result = build(bundle, load_target(target), BuildConfig("fp16"))
    assert result.size > 100_000
    assert result.sidecar.compute_capabilities == (load_target(target).compute_capability,)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_sidecar_says_what_the_engine_is(bundle: Bundle, precision: Precision) -> None:
    require("tensorrt_rtx")
    result = build(bundle, RTX, BuildConfig(precision, profile=(1, 4, 16)))
    sidecar = read_sidecar(result.engine)
    assert sidecar == result.sidecar
    assert (sidecar.backend, sidecar.target, sidecar.precision) == (
        "tensorrt_rtx", "rtx-4090", precision,
    )  # fmt: skip
    assert sidecar.rest == ("fp16" if precision == "int8" else precision)
    assert sidecar.profile == (1, 4, 16)
    assert sidecar.onnx_sha256 == sha256_file(bundle.path / sidecar.onnx)
    assert sidecar.runtime_version.count(".") >= 2


def test_a_second_build_is_skipped_and_a_changed_one_is_not(bundle: Bundle) -> None:
    require("tensorrt_rtx")
    first = build(bundle, RTX, BuildConfig("fp16"))
    again = build(Bundle.open(bundle.path), RTX, BuildConfig("fp16"))
    assert again.cached
    assert again.sidecar == first.sidecar
    assert not build(bundle, RTX, BuildConfig("fp16", profile=(1, 1, 1))).cached
    sidecar_path(first.engine).unlink()
    assert not build(bundle, RTX, BuildConfig("fp16", profile=(1, 1, 1))).cached


def test_the_cpu_engine_is_the_twin_and_runs(bundle: Bundle) -> None:
    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
    from resnet_edge.bundle.reference import Golden

    result = build(bundle, load_target("cpu"), BuildConfig("int8"))
    assert result.sidecar.onnx == "model.int8-cpu.onnx"
    assert result.sidecar.rest == "fp32"
    golden = Golden.load(bundle)
    with OnnxRuntimeSession(result.engine) as session:
        logits = session.run({"input": bundle.model.image_spec.to_input(golden.pixels)})["logits"]
    assert (logits.argmax(1) == golden.logits.argmax(1)).mean() > 0.9


def test_int8_without_calibration_says_how_to_calibrate(bundle: Bundle) -> None:
    from resnet_edge.bundle.names import TABLE

    bundle.file(TABLE).unlink()
    with pytest.raises(CalibrationError) as caught:
        build(bundle, load_target("cpu"), BuildConfig("int8"))
    assert "--data" in str(caught.value.hint)
    assert not (bundle.path / "engines").exists()


@pytest.mark.parametrize(("target", "precision"), [("cpu", "fp16"), ("rtx-2080-ti", "int8")])
def test_what_cannot_work_is_refused(bundle: Bundle, target: str, precision: Precision) -> None:
    with pytest.raises(ConfigError) as caught:
        build(bundle, load_target(target), BuildConfig(precision))
    assert caught.value.hint


@pytest.mark.parametrize("profile", [(0, 1, 1), (4, 2, 8), (1, 8, 4)])
def test_senseless_profiles_are_refused(profile: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="makes no sense"):
        BuildConfig("fp16", profile=profile)


def test_an_unsupported_compute_capability_is_refused_by_name(bundle: Bundle) -> None:
    require("tensorrt_rtx")
    hopper = Target("h100", "", "tensorrt_rtx", "9.0")
    with pytest.raises(ConfigError, match=r"9\.0"):
        build(bundle, hopper, BuildConfig("fp16"))


def test_a_graph_the_parser_refuses_is_explained() -> None:
    require("tensorrt_rtx")
    import onnx

    from resnet_edge.backends.tensorrt.rtx import build_plan

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Unknown (x) }"
    )
    with pytest.raises(BuildError, match="Unknown"):
        build_plan(model.SerializeToString(), compute_capabilities=("8.9",), profile=(1, 1, 1))


def test_a_sidecar_with_other_keys_is_refused(bundle: Bundle) -> None:
    result = build(bundle, load_target("cpu"), BuildConfig("int8"))
    value = json.loads(result.sidecar_file.read_text())
    del value["onnx"]
    result.sidecar_file.write_text(json.dumps(value))
    with pytest.raises(EngineMismatchError, match="not an engine's sidecar"):
        read_sidecar(result.engine)


def test_a_batch_of_one_leaves_the_classifier_in_float(bundle: Bundle) -> None:
    require("tensorrt_rtx")
    from resnet_edge.graph.onnx_model import load_graph

    def classifier_input(profile: tuple[int, int, int]) -> str:
        result = build(bundle, RTX, BuildConfig("int8", profile=profile))
        nodes = {n.name: n for n in load_graph(bundle.path / result.sidecar.onnx).graph.node}
        return str(nodes["fc"].input[1])

    assert "dequantized" in classifier_input((1, 8, 32))
    assert "dequantized" not in classifier_input((1, 1, 1))


def test_weights_of_7_bits_are_a_choice_for_the_cpu_alone(bundle: Bundle) -> None:
    cpu = load_target("cpu")
    full = build(bundle, cpu, BuildConfig("int8", reduce_range=False)).engine.read_bytes()
    reduced = build(bundle, cpu, BuildConfig("int8", reduce_range=True))
    assert not reduced.cached
    assert reduced.engine.read_bytes() != full
    assert build(bundle, cpu, BuildConfig("int8", reduce_range=True)).cached
    for target, precision in ((cpu, "fp32"), (RTX, "int8")):
        with pytest.raises(ConfigError, match="--reduce-range"):
            build(bundle, target, BuildConfig(precision, reduce_range=True))
