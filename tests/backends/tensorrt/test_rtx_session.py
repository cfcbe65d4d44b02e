"""Running engines of TensorRT for RTX: asked first, kernels kept, graphs left to the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import require
from tests.emulation.device import run_on_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from resnet_edge.bundle import Bundle


@pytest.fixture
def built(exported: Callable[[str], Bundle], tmp_path: Path) -> str:
    """A bundle with an FP32 engine for compute capability 8.9, built for real."""
    import shutil

    from resnet_edge.backends.config import BuildConfig
    from resnet_edge.build import build
    from resnet_edge.bundle import Bundle
    from resnet_edge.targets import load_target

    require("tensorrt_rtx")
    bundle = Bundle.open(shutil.copytree(exported("tiny").path, tmp_path / "bundle"))
    build(bundle, load_target("rtx-4090"), BuildConfig("fp32", profile=(1, 4, 8)))
    return str(bundle.path)


def on_ada(function: Callable[..., Any], *arguments: Any) -> Any:
    return run_on_device("cuda-python", function, *arguments, major=8, minor=9)


def test_kernels_are_kept_beside_the_engine_and_used_again(built: str) -> None:
    def work(path: str) -> list[Any]:
        from pathlib import Path

        import numpy as np

        from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
        from resnet_edge.backends.tensorrt_rtx import runtime_cache_path
        from resnet_edge.bundle import Bundle
        from resnet_edge.reference import Golden
        from resnet_edge.verify.candidate import find_candidate
        from tests.backends.tensorrt.rtx_runtime import Emulated
        from tests.emulation import control

        bundle = Bundle.open(Path(path))
        emulated = Emulated(bundle.file("model.onnx"), (1, 4, 8))
        feed = {"input": bundle.model.image_spec.to_input(Golden.load(bundle).pixels[:8])}
        with OnnxRuntimeSession(bundle.file("model.onnx")) as session:
            expected = session.run(feed)["logits"]
        candidate = find_candidate(bundle, precision="fp32", backend="tensorrt_rtx")
        kept = runtime_cache_path(candidate.file)
        states = [kept.is_file()]
        for accepts in (True, True, False):
            emulated.accepts = accepts
            with candidate.open() as session:
                control.called()
                for _ in range(3):
                    got = session.run(feed)["logits"]
                    np.testing.assert_allclose(got, expected, atol=1e-5)
                captured = [n for n in control.called() if "Capture" in n or "Graph" in n]
            states.append(kept.read_bytes().decode())
        return [
            candidate.executed, states, [c.decode() for c in emulated.caches],
            emulated.strategies, captured, control.live(),
        ]  # fmt: skip

    executed, states, caches, strategies, captured, live = on_ada(work, built)
    assert executed == "engine"
    assert states == [False, "compiled", "compiled", "compiled"]
    assert caches == ["compiled", "compiled"]
    assert set(strategies) == {"WHOLE_GRAPH_CAPTURE"}
    assert captured == []  # the library captures by itself
    assert live == {}


def test_an_engine_that_does_not_fit_is_refused_with_the_reasons(built: str) -> None:
    def work(path: str) -> list[str]:
        import logging
        from pathlib import Path

        import tensorrt_rtx as trt

        from resnet_edge.bundle import Bundle
        from resnet_edge.errors import EngineMismatchError
        from resnet_edge.verify.candidate import find_candidate
        from tests.backends.tensorrt.rtx_runtime import Emulated

        said: list[str] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append(record.getMessage())

        logging.getLogger("resnet_edge").addHandler(Handler())
        bundle = Bundle.open(Path(path))
        emulated = Emulated(bundle.file("model.onnx"), (1, 4, 8))
        candidate = find_candidate(bundle, precision="fp32", backend="tensorrt_rtx")
        emulated.validity = trt.EngineValidity.INVALID
        for diagnostics in (1 + 4, 0):
            emulated.diagnostics = diagnostics
            try:
                candidate.open()
            except EngineMismatchError as error:
                said.append(error.message)
        emulated.validity = trt.EngineValidity.SUBOPTIMAL
        candidate.open().close()
        return said

    invalid, silent, suboptimal = on_ada(work, built)
    assert "version mismatch, old cuda driver" in invalid
    assert "no reason" in silent
    assert "not as fast" in suboptimal


def test_another_gpu_is_an_obstacle(built: str) -> None:
    def work(path: str) -> list[Any]:
        from pathlib import Path

        from resnet_edge.bundle import Bundle
        from resnet_edge.verify.candidate import find_candidate

        candidate = find_candidate(
            Bundle.open(Path(path)), precision="fp32", backend="tensorrt_rtx"
        )
        return [candidate.executed, candidate.obstacle]

    executed, obstacle = run_on_device("cuda-python", work, built, major=8, minor=7)
    assert executed == "graph"
    assert "8.9" in obstacle
    assert "8.7" in obstacle
