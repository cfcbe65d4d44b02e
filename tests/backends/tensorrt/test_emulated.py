"""From a bundle to outputs through a TensorRT of every version, on the emulated device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.emulation.bindings import VERSIONS
from tests.emulation.device import run_on_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from resnet_edge.bundle.bundle import Bundle

LIBRARY = "cuda-python"
# How far each precision is from the float network, in logits of up to 12.
EFFECT = {"fp32": (0, 1e-5), "fp16": (3e-4, 0.01), "int8": (0.01, 0.5)}
FLAGS = {"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"], "int8-fp32": ["INT8"]}


def deploy(bundle: str, variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Build and run every variant."""
    from tests.backends.tensorrt.flow import Flow
    from tests.emulation import control
    from tests.emulation.fake_tensorrt import state

    state.DLA_CORES = 2
    flow = Flow(bundle)
    found = [flow.facts(flow.build(**variant)) for variant in variants]
    return [*found, {"live": control.live(), "retained": control.retained()}]


def deployed(
    bundle: Path, version: str, *variants: dict[str, Any], **device: Any
) -> list[dict[str, Any]]:
    """Return what is known of every variant, after checking that it ran and left nothing."""
    *found, after = run_on_device(
        LIBRARY, deploy, str(bundle), variants, tensorrt=version, **device
    )
    assert after == {"live": {}, "retained": 0}
    for variant, one in zip(variants, found, strict=True):
        smallest, largest = EFFECT[variant["precision"]]
        assert smallest <= one["effect"] <= largest
        # Sums in another order end on the other side of a few of the roundings.
        assert one["error"] <= min(0.3 * one["effect"], 1e-3) + 1e-5
        assert one["single"] < (1e-4 if one["effect"] < 1e-5 else 0.05)
        assert one["agreement"] > 0.8
        assert one["device"] == "Emulated GPU"
        assert isinstance(one["layer"], dict)  # detailed, not only a name
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_precision_is_built_and_run_as_the_version_does_it(
    bundle_copy: Path, version: str
) -> None:
    found = deployed(
        bundle_copy, version,
        {"precision": "fp32"}, {"precision": "fp16"}, {"precision": "int8"},
        {"precision": "int8", "rest": "fp32"},
    )  # fmt: skip
    strong = version == "11.4"
    for flags, one in zip(FLAGS.values(), found, strict=True):
        assert one["header"]["flags"] == ([] if strong else flags)  # TF32 is off in all
        assert one["header"]["strong"] == strong
        shapes = one["header"]["profiles"][0]["input"]
        assert [shape[0] for shape in shapes] == [1, 8, 8]
        assert one["notes"][0].startswith("strongly" if strong else "weakly")
    graphs = [one["onnx"].removeprefix("model.").removesuffix("onnx").strip(".") for one in found]
    assert graphs == (["", "fp16", "int8-fp16", "int8"] if strong else ["", "", "int8", "int8"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_builder_is_told_the_smallest_optimal_and_largest_batch(
    bundle_copy: Path, version: str
) -> None:
    (one,) = deployed(bundle_copy, version, {"precision": "fp32", "profile": [1, 2, 8]})
    (profile,) = one["header"]["profiles"]
    assert [shape[0] for shape in profile["input"]] == [1, 2, 8]


def test_strong_typing_on_tensorrt_10_takes_the_types_from_the_graph(bundle_copy: Path) -> None:
    fp16, int8 = deployed(
        bundle_copy, "10.3",
        {"precision": "fp16", "strongly_typed": True},
        {"precision": "int8", "strongly_typed": True},
    )  # fmt: skip
    assert (fp16["onnx"], int8["onnx"]) == ("model.fp16.onnx", "model.int8-fp16.onnx")
    for one in (fp16, int8):
        assert one["header"]["strong"]
        assert one["header"]["flags"] == []


def test_raw_pixels_go_in_as_uint8(calibrated: Callable[[str], Bundle], tmp_path: Path) -> None:
    import shutil

    bundle = shutil.copytree(calibrated("uint8").path, tmp_path / "bundle")
    fp16, int8 = deployed(bundle, "10.3", {"precision": "fp16"}, {"precision": "int8"})
    assert fp16["header"]["profiles"][0]["input"][1] == [8, 32, 32, 3]
    assert int8["header"]["flags"] == ["FP16", "INT8"]


@pytest.mark.parametrize("version", ["8.6", "10.3", "10.16"])
def test_implicit_int8_takes_our_ranges(bundle_copy: Path, version: str) -> None:
    (one,) = deployed(bundle_copy, version, {"precision": "int8", "implicit": "ranges"})
    assert one["header"]["flags"] == ["FP16", "INT8"]
    assert one["name"] == "model.int8-implicit.engine"
    first, *entries = one["header"]["calibration"].splitlines()
    number = {"8.6": "8601", "10.3": "100300", "10.16": "101601"}[version]
    assert first == f"TRT-{number}-EntropyCalibration2"
    assert len(entries) > 40
    assert "implicit INT8 (ranges)" in one["notes"][0]
    in_float = {name for name, kind in one["header"]["precisions"].items() if kind != "INT8"}
    assert "logits" in in_float  # they have no range
    assert not any(name.startswith(("relu", "add", "getitem", "mean")) for name in in_float)
    (warning,) = one["warnings"]
    assert "for tensor logits" in warning


@pytest.mark.parametrize("version", ["8.6", "10.3"])
@pytest.mark.parametrize(
    ("kind", "algorithm"), [("entropy", "EntropyCalibration2"), ("minmax", "MinMaxCalibration")]
)
def test_tensorrt_calibrates_on_our_images(
    bundle_copy: Path, shipped_images: Path, version: str, kind: str, algorithm: str
) -> None:
    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.images.opening import open_images
    from tests.emulation.fake_tensorrt.precision import scales_in

    (one,) = deployed(
        bundle_copy, version,
        {"precision": "int8", "implicit": kind, "images": str(shipped_images / "calibration"),
         "profile": [1, 32, 64]},
    )  # fmt: skip
    calibration = one["header"]["calibration"]
    number = {"8.6": "8601", "10.3": "100300"}[version]
    assert calibration.splitlines()[0] == f"TRT-{number}-{algorithm}"
    assert len(scales_in(calibration)) > 20
    images = open_images(shipped_images / "calibration")
    full = len(images) // 32 * 32  # TensorRT takes whole batches of the optimal size
    bundle = Bundle.open(bundle_copy)
    inputs = bundle.model.image_spec.to_input(images.pixels[:full, ..., None])
    with OnnxRuntimeSession(bundle.file("model.onnx"), optimise="none") as session:
        logits = session.run({"input": inputs})["logits"]
    assert scales_in(calibration)["logits"] == pytest.approx(abs(logits).max() / 127, rel=1e-5)
    assert f"({kind})" in one["notes"][0]


def test_layers_that_lose_too_much_stay_in_float(bundle_copy: Path) -> None:
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.quantize.stage import store_float_layers

    store_float_layers(Bundle.open(bundle_copy), {"keep_float": ["conv1", "fc"]})
    (one,) = deployed(bundle_copy, "10.3", {"precision": "int8", "implicit": "ranges"})
    assert one["header"]["flags"] == ["FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"]
    precisions = one["header"]["precisions"]
    assert (precisions["getitem"], precisions["relu"]) == ("HALF", "INT8")  # conv1, its ReLU


@pytest.mark.parametrize(
    ("version", "options", "flags"),
    [
        ("8.6", {"precision": "fp16"}, ["FP16", "GPU_FALLBACK"]),
        ("10.3", {"precision": "fp16"}, ["FP16", "GPU_FALLBACK"]),
        ("8.6", {"precision": "int8", "implicit": "ranges"}, ["FP16", "GPU_FALLBACK", "INT8"]),
        ("10.3", {"precision": "int8", "implicit": "ranges"}, ["FP16", "GPU_FALLBACK", "INT8"]),
        ("11.4", {"precision": "fp16"}, ["GPU_FALLBACK"]),
    ],
)
def test_the_dla_runs_what_it_can_and_the_rest_is_named(
    bundle_copy: Path, version: str, options: dict[str, Any], flags: list[str]
) -> None:
    (one,) = deployed(bundle_copy, version, {"dla": 1, "profile": [8, 8, 8], **options})
    assert one["header"]["dla"] == 1
    assert one["header"]["flags"] == flags
    assert "-dla1" in one["name"]
    placement = one["notes"][1]
    assert placement.startswith("DLA core 1 can run ")
    assert "the GPU runs" in placement
    assert "fc" in placement


def test_verify_proves_the_engine_itself_whatever_its_profile(
    bundle_copy: Path, shipped_images: Path
) -> None:
    def work(bundle: str, folder: str) -> list[Any]:
        import sys
        from dataclasses import replace
        from pathlib import Path

        from resnet_edge.images.opening import open_images
        from resnet_edge.verify.candidate import find_candidate
        from resnet_edge.verify.stage import verify
        from tests.backends.tensorrt.flow import Flow

        sys.modules["torch"] = None  # as on a device; the float model is the reference there
        flow = Flow(bundle)
        images = open_images(Path(folder))
        few = replace(images, pixels=images.pixels[:150], labels=images.labels[:150])
        found = []
        for profile in ([1, 8, 8], [5, 5, 5]):
            engine = flow.build(precision="int8", profile=profile).engine
            candidate = find_candidate(flow.bundle, engine=engine)
            for source in (None, few):
                result = verify(flow.bundle, candidate, source)
                found.append([result.executed, result.n, result.agreement])
        return found

    for executed, count, agreement in run_on_device(
        LIBRARY, work, str(bundle_copy), str(shipped_images / "test"), tensorrt="10.3"
    ):
        assert executed == "engine"
        assert count in (32, 150)
        assert agreement > 95


def test_no_graph_stands_in_for_an_implicit_engine(bundle_copy: Path) -> None:
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.errors import BackendUnavailableError
    from resnet_edge.verify.candidate import find_candidate

    deployed(
        bundle_copy, "10.3",
        {"precision": "int8"}, {"precision": "int8", "implicit": "ranges"},
    )  # fmt: skip
    bundle = Bundle.open(bundle_copy)
    folder = bundle.path / "engines" / "orin"
    assert find_candidate(bundle, engine=folder / "model.int8.engine").executed == "graph"
    with pytest.raises(BackendUnavailableError, match="cannot stand in"):
        find_candidate(bundle, engine=folder / "model.int8-implicit.engine")
