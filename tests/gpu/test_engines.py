"""Engines on the GPU of this machine: built, loaded, run, compared with the reference."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.tensorrt.backend import TensorRTBackend
from resnet_edge.build.request import RTX_CAPABILITIES, Request, check_request
from resnet_edge.build.stage import build, layers_path
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.reference import Golden
from resnet_edge.catalog.targets import Target
from resnet_edge.device.nvidia import query_driver
from resnet_edge.errors import ConfigError
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.stand_in import stand_in
from resnet_edge.images.opening import open_images
from resnet_edge.verify.candidate import find_candidate
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.backends.config import Precision

pytestmark = pytest.mark.gpu

GPUS = query_driver().gpus
BACKENDS = ("tensorrt", "tensorrt_rtx")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
# Largest difference from what ONNX Runtime makes of the same graph, relative to the largest logit.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.15}


@pytest.fixture(params=BACKENDS)
def target(request: pytest.FixtureRequest) -> Target:
    """This machine, for a backend that is installed and supports its GPU."""
    backend = request.param
    require("gpu", available=bool(GPUS))
    require(backend)
    capability = GPUS[0].compute_capability
    if backend == "tensorrt_rtx" and capability not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT for RTX does not support compute capability {capability}")
    return Target("here", "", backend, capability)


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


def engine(
    bundle: Bundle, target: Target, precision: Precision, images: Any = None, **options: Any
) -> Any:
    """Build and open an engine; it must be the engine that runs, not its graph."""
    try:
        check_request(target, Request(BuildConfig(precision)))
    except ConfigError as refused:  # INT8 on an RTX 20 card
        pytest.skip(refused.message)
    if target.backend == "tensorrt":  # what an engine computes does not depend on its speed
        options.setdefault("optimization_level", 1)
    config = BuildConfig(precision, profile=(1, 8, 32), **options)
    result = build(bundle, target, config, images=images)
    candidate = find_candidate(bundle, engine=result.engine)
    assert candidate.executed == "engine", candidate.obstacle
    return result, candidate.open()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_computes_what_its_graph_says(
    bundle: Bundle, target: Target, precision: Precision
) -> None:
    golden = Golden.load(bundle)
    feed = {"input": bundle.model.image_spec.to_input(golden.pixels[:32])}
    result, session = engine(bundle, target, precision)
    with session:
        outputs = [session.run(feed)["logits"].astype(np.float32) for _ in range(4)]
        single = session.run({"input": feed["input"][:1]})["logits"]
    graph = stand_in(load_graph(bundle.path / result.sidecar.onnx))
    with OnnxRuntimeSession(graph, optimise="none") as reference:
        expected = reference.run(feed)["logits"].astype(np.float32)
    scale = np.abs(expected).max()
    for found, wanted in ((outputs[0], expected), (single, expected[:1])):
        assert np.abs(found - wanted).max() <= TOLERANCE[precision] * scale
    for repeated in outputs[1:]:  # the third is the first that a CUDA graph gave
        assert np.abs(repeated - outputs[0]).max() <= 1e-3 * scale
    assert (outputs[0].argmax(1) == golden.logits[:32].argmax(1)).mean() >= 0.9


@pytest.mark.parametrize("calibrator", ["ranges", "entropy", "minmax"])
def test_implicit_int8_predicts_what_the_reference_does(
    bundle: Bundle, target: Target, calibrator: str, shipped_images: Path
) -> None:
    if target.backend != "tensorrt" or not TensorRTBackend().features().calibrators:
        pytest.skip(f"this {target.backend} has no implicit quantization")
    golden = Golden.load(bundle)
    images = None if calibrator == "ranges" else open_images(shipped_images / "calibration")
    result, session = engine(bundle, target, "int8", images=images, implicit=calibrator)
    with session:
        logits = session.run({"input": bundle.model.image_spec.to_input(golden.pixels[:32])})
    assert (logits["logits"].argmax(1) == golden.logits[:32].argmax(1)).mean() >= 0.9
    assert "Int8" in layers_path(result.engine).read_text()


def test_the_layers_of_an_engine_are_described(bundle: Bundle, target: Target) -> None:
    result, session = engine(bundle, target, "int8")
    session.close()
    text = layers_path(result.engine).read_text()
    assert "conv1" in text
    if target.backend == "tensorrt":
        assert "Int8" in text
        assert result.sidecar.device == GPUS[0].name


def test_threads_get_the_right_outputs(bundle: Bundle, target: Target) -> None:
    pixels = Golden.load(bundle).pixels
    images = bundle.model.image_spec.to_input(pixels)
    _, session = engine(bundle, target, "fp16")
    worst: list[float] = []
    with session:
        expected = session.run({"input": images[:32]})["logits"]

        def serve(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(50):
                rows = random.integers(0, 32, random.integers(1, 33))
                found = session.run({"input": images[rows]})["logits"]
                worst.append(float(np.abs(found - expected[rows]).max()))

        threads = [threading.Thread(target=serve, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(worst) == 200
    assert max(worst) <= 2e-2 * np.abs(expected).max()


def test_ten_thousand_runs_take_no_memory(bundle: Bundle, target: Target) -> None:
    from resnet_edge.backends.cuda.device import open_device

    images = bundle.model.image_spec.to_input(Golden.load(bundle).pixels)
    _, session = engine(bundle, target, "fp16")
    with open_device() as device, session:
        for _ in range(100):
            session.run({"input": images[:8]})
        before, _ = device.memory_info()
        for _ in range(10_000):
            session.run({"input": images[:8]})
        after, _ = device.memory_info()
    assert before - after < 4 << 20


def test_the_times_of_the_gpu_add_up(bundle: Bundle, target: Target) -> None:
    images = bundle.model.image_spec.to_input(Golden.load(bundle).pixels)
    _, session = engine(bundle, target, "fp16")
    with session:
        times = session.measure({"input": images[:8]}, warm_up=0.0, seconds=0.0, count=100)
    h2d, compute, d2h = (np.array(times.parts[part]) for part in ("h2d", "compute", "d2h"))
    assert min(h2d.min(), d2h.min()) >= 0
    assert compute.min() > 0
    assert len(compute) == len(times.total) >= 100
    assert np.all(np.array(times.total) >= h2d + compute + d2h)


def test_timings_are_kept_for_the_next_build(
    bundle: Bundle, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target.backend != "tensorrt":
        pytest.skip("TensorRT for RTX times nothing when it builds")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = []
    for precision in ("fp32", "fp32", "fp16"):
        _, session = engine(bundle, target, precision, optimization_level=len(sizes))
        session.close()
        (kept,) = (tmp_path / "cache").rglob("*.bin")
        sizes.append(kept.stat().st_size)
    assert 0 < sizes[0] <= sizes[1] < sizes[2]


def test_the_fastest_of_several_builds_is_kept(bundle: Bundle, target: Target) -> None:
    if target.backend != "tensorrt":
        pytest.skip("TensorRT for RTX builds ahead of time")
    result, session = engine(bundle, target, "fp16", builds=2)
    session.close()
    assert any("fastest of 2 builds" in note for note in result.sidecar.notes)
