"""Implicit INT8: every tensor TensorRT asks for has a range, and none is made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.tensorrt.calibration_cache import read_cache
from resnet_edge.build.implicit import calibration_sha256, implicit_calibration
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL, TABLE
from resnet_edge.calibrate.derived_ranges import derive_ranges
from resnet_edge.errors import CalibrationError, ConfigError, DataError
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.images.opening import open_images
from resnet_edge.quantize.stage import store_float_layers
from tests.conftest import onnx_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANGES = BuildConfig("int8", implicit="ranges")
ENTROPY = BuildConfig("int8", profile=(1, 8, 8), implicit="entropy")


def test_what_commutes_and_what_a_relu_absorbs_inherit_their_range() -> None:
    model = onnx_model(
        "g (float[1,4,8,8] x) => (float[1,4,4,4] y, float[1,4,8,8] z) {"
        " a = Conv (x, w)  r = Relu (a)  p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r)"
        " b = Conv (p, w)  y = Relu (b)  c = Conv (r, w)  d = Relu (c)  z = Add (c, d) }",
        w=np.zeros((4, 4, 1, 1), np.float32),
    )
    filled = derive_ranges(model.graph, {"x": 1.0, "r": 2.0, "y": 3.0, "d": 5.0})
    assert filled == {"x": 1.0, "r": 2.0, "y": 3.0, "d": 5.0, "a": 2.0, "p": 2.0, "b": 3.0}


@pytest.mark.parametrize("name", ["resnet20", "basic", "bottleneck", "uint8"])
def test_every_tensor_between_the_layers_has_a_range(
    calibrated: Callable[[str], Bundle], tmp_path: Path, name: str
) -> None:
    bundle = calibrated(name)
    cache = implicit_calibration(bundle, RANGES, None).cache
    assert cache is not None
    (tmp_path / "cache").write_bytes(cache)
    ranges = read_cache(tmp_path / "cache")
    graph = load_graph(bundle.artifact(MODEL)).graph
    first = next(n.input[0] for n in graph.node if n.op_type == "Conv")
    order = [i.name for i in graph.input] + [o for n in graph.node for o in n.output]
    wanted = order[order.index(first) :]
    missing = [t for t in wanted if t not in ranges]
    assert set(missing) <= {graph.output[0].name}  # what leaves the network stays in float


def test_ranges_that_were_filled_in_clip_nothing_that_matters(
    calibrated: Callable[[str], Bundle],
) -> None:
    """Clipping each tensor to its range, the ReLU's inputs too, leaves the ReLU's output as is."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (4, 8)).astype(np.float32)
    model = onnx_model("g (float[N,8] x) => (float[N,8] y) { y = Relu (x) }")
    with OnnxRuntimeSession(model) as session:
        y = session.run({"x": x})["y"]
        amax = derive_ranges(model.graph, {"y": float(y.max())})["x"]
        np.testing.assert_array_equal(session.run({"x": x.clip(-amax, amax)})["y"], y)


def test_layers_of_the_stored_plan_stay_in_float(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    store_float_layers(bundle, {"keep_float": ["conv1", "fc"]})
    calibration = implicit_calibration(bundle, RANGES, None)
    assert calibration.keep_float == ("conv1", "fc")


def test_without_a_calibration_there_is_nothing_to_build_from(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    bundle.file(TABLE).unlink()
    with pytest.raises(CalibrationError):
        implicit_calibration(bundle, RANGES, None)


def test_tensorrts_own_calibration_gets_full_batches_of_preprocessed_images(
    bundle_copy: Path, shipped_images: Path
) -> None:
    bundle = Bundle.open(bundle_copy)
    images = open_images(shipped_images / "test")
    calibration = implicit_calibration(bundle, ENTROPY, images)
    assert calibration.cache is None
    assert calibration.batches is not None
    found = list(calibration.batches())
    assert len(found) == len(images) // 8
    assert {(b.shape, b.dtype.name) for b in found} == {((8, 1, 28, 28), "float32")}
    pixels = np.stack([bundle.model.image_spec.pixels(images.load(i)) for i in range(8)])
    np.testing.assert_array_equal(found[0], bundle.model.image_spec.to_input(pixels))
    assert len(list(calibration.batches())) == len(found)  # every build gets them all


def test_images_that_tensorrt_cannot_calibrate_on_are_refused(
    bundle_copy: Path, shipped_images: Path, calibrated: Callable[[str], Bundle]
) -> None:
    bundle = Bundle.open(bundle_copy)
    with pytest.raises(ConfigError, match="runs on images"):
        implicit_calibration(bundle, ENTROPY, None)
    images = open_images(shipped_images / "test")
    large = BuildConfig("int8", profile=(1, len(images) + 1, len(images) + 1), implicit="minmax")
    with pytest.raises(DataError, match="one batch"):
        implicit_calibration(bundle, large, images)
    with pytest.raises(ConfigError, match="uint8"):
        implicit_calibration(calibrated("uint8"), ENTROPY, images)


def test_the_hash_tells_calibrations_apart(bundle_copy: Path, shipped_images: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    test = open_images(shipped_images / "test")
    calibration = open_images(shipped_images / "calibration")
    hashes = {
        calibration_sha256(implicit_calibration(bundle, config, images), images)
        for config, images in ((RANGES, None), (ENTROPY, test), (ENTROPY, calibration))
    }
    store_float_layers(bundle, {"keep_float": ["conv1"]})
    hashes.add(calibration_sha256(implicit_calibration(bundle, RANGES, None), None))
    assert len(hashes) == 4
