"""From a bundle to outputs with TensorRT for RTX: built for real, run on the emulated device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import require
from tests.emulation.device import run_on_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from resnet_edge.bundle.bundle import Bundle


@pytest.fixture
def tiny(calibrated: Callable[[str], Bundle], tmp_path: Path) -> str:
    import shutil

    require("tensorrt_rtx")
    return str(shutil.copytree(calibrated("tiny").path, tmp_path / "bundle"))


def on_ada(function: Callable[..., Any], *arguments: Any) -> Any:
    return run_on_device("cuda-python", function, *arguments, major=8, minor=9)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_kernels_are_kept_beside_the_engine_and_used_again(tiny: str, precision: str) -> None:
    def work(path: str, precision: str) -> list[Any]:
        from tests.backends.tensorrt.rtx_flow import RtxFlow
        from tests.emulation import control

        flow = RtxFlow(path)
        emulated, built = flow.emulated, flow.build(precision)
        described = flow.layers(built)
        found = []
        for accepts, batches in ((True, [8, 1]), (True, [8, 1]), (True, [8, 3]), (False, [8])):
            emulated.accepts, emulated.steps[:] = accepts, []
            before = flow.kept(built)
            with flow.open(built) as session:
                control.called()
                errors = [flow.error(session, built, n) for n in batches for _ in range(3)]
                captured = [n for n in control.called() if "Capture" in n or "Graph" in n]
            found.append([max(errors), captured, list(emulated.steps), flow.kept(built) == before])
        return [described, found, flow.kept(built)[0], control.live()]

    described, found, kept, live = on_ada(work, tiny, precision)
    assert described > 5  # layers, told by the engine
    assert live == {}
    start = ["asked", "loaded", "context WHOLE_GRAPH_CAPTURE, a cache"]
    new = [[f"compiled kernel for {n}" for n in batches] for batches in ([8, 1], [], [3], [8])]
    for (error, captured, steps, unchanged), compiled in zip(found, new, strict=True):
        assert error < 1e-5
        assert captured == []  # the library captures by itself
        assert steps == [*start, *compiled]
        assert unchanged == (not compiled)  # written only when it has grown
    assert kept == "kernel for 8"  # the last one began anew


def test_verify_proves_the_engine_itself(tiny: str) -> None:
    def work(path: str) -> list[Any]:
        from resnet_edge.verify.candidate import find_candidate
        from resnet_edge.verify.stage import verify
        from tests.backends.tensorrt.rtx_flow import RtxFlow

        flow = RtxFlow(path)
        candidate = find_candidate(flow.bundle, engine=flow.build("int8").engine)
        result = verify(flow.bundle, candidate, None)
        return [result.executed, result.n, result.agreement, flow.emulated.steps]

    executed, count, agreement, steps = on_ada(work, tiny)
    assert (executed, count) == ("engine", 32)
    assert agreement > 80
    assert steps[-1].startswith("compiled")


def test_an_engine_that_does_not_fit_is_refused_with_the_reasons(tiny: str) -> None:
    def work(path: str) -> list[Any]:
        import tensorrt_rtx as trt

        from resnet_edge.errors import EngineMismatchError
        from tests.backends.tensorrt.rtx_flow import RtxFlow

        flow = RtxFlow(path)
        emulated, built = flow.emulated, flow.build("fp32")
        emulated.steps[:] = []
        data = built.engine.read_bytes()
        cases = [(trt.EngineValidity.INVALID, 1 + 4, data), (trt.EngineValidity.INVALID, 0, data),
                 (trt.EngineValidity.VALID, 0, data[:-9] + b"different")]  # fmt: skip
        for emulated.validity, emulated.diagnostics, content in cases:
            built.engine.write_bytes(content)
            try:
                flow.open_unchecked(built)
            except EngineMismatchError as error:
                flow.said.append(error.message)
        built.engine.write_bytes(data)
        steps = list(emulated.steps)
        emulated.validity = trt.EngineValidity.SUBOPTIMAL
        flow.open_unchecked(built).close()
        return [flow.said, steps]

    (invalid, silent, malformed, suboptimal), steps = on_ada(work, tiny)
    assert "version mismatch, old cuda driver" in invalid
    assert "no reason" in silent
    assert "malformed engine" in malformed
    assert "not as fast" in suboptimal
    assert steps == ["asked"] * 3  # none of them was loaded


# What the library does not give; the outcome; what is said.
LACKING = [
    ("config", "DeviceError", "execution context"),
    ("cache", "runs", "kernels are not kept"),
    ("set_cache", "runs", "kernels are not kept"),
    ("serialize", "runs", "kernels are not kept"),
    ("unwritable", "runs", "kernels are not kept"),
    ("unreadable", "runs", "cannot read"),
    ("deserialize", "EngineMismatchError", "cannot load"),
    ("context", "DeviceError", "execution context"),
    ("execute", "DeviceError", "could not run"),
    ("kernel", "DeviceError", "running on the device failed"),
]


@pytest.mark.parametrize(("failure", "outcome", "words"), LACKING, ids=[f[0] for f in LACKING])
def test_what_fails_is_our_error_or_costs_only_the_kernels(
    tiny: str, failure: str, outcome: str, words: str
) -> None:
    def work(path: str, failure: str) -> list[Any]:
        from pathlib import Path

        from resnet_edge.backends.tensorrt.rtx import runtime_cache_path
        from resnet_edge.errors import ResnetEdgeError
        from tests.backends.tensorrt.rtx_flow import RtxFlow
        from tests.emulation import control
        from tests.emulation.fake_tensorrt import state

        flow = RtxFlow(path)
        built = flow.build("fp32")
        cache = runtime_cache_path(built.engine)
        cache.parent.mkdir(parents=True)
        if failure == "unwritable":
            cache.mkdir()
        elif failure == "unreadable":
            cache.write_bytes(b"")
            real = Path.read_bytes

            def read_bytes(self: Path) -> bytes:
                if self == cache:
                    raise PermissionError(13, "Permission denied")
                return real(self)

            Path.read_bytes = read_bytes
        else:
            flow.emulated.lacking.add(failure)
            state.failures.add(failure)
        try:
            with flow.open(built) as session:
                outcome = "runs" if flow.error(session, built, 8) < 1e-5 else "wrong"
        except ResnetEdgeError as error:
            outcome = type(error).__name__
            flow.said.append(error.message)
        return [outcome, flow.said, control.live(), control.retained()]

    found, said, live, retained = on_ada(work, tiny, failure)
    assert found == outcome
    assert len(said) == (3 if failure == "kernel" else 1)  # a broken device cannot be tidied up
    assert words in said[-1]
    assert (live, retained) == ({}, 0)


@pytest.mark.parametrize("function", ["cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync"])
def test_after_a_failure_of_the_driver_the_session_goes_on_and_kernels_are_kept(
    tiny: str, function: str
) -> None:
    def work(path: str, function: str) -> list[Any]:
        from resnet_edge.errors import DeviceError
        from tests.backends.tensorrt.rtx_flow import RtxFlow
        from tests.emulation import control

        flow = RtxFlow(path)
        built = flow.build("fp32")
        failed = 0
        with flow.open(built) as session:
            control.fail(function, control.OUT_OF_MEMORY)
            try:
                session.run(flow.feed(8))
            except DeviceError:
                failed += 1
            error = flow.error(session, built, 8)
        return [failed, error, flow.kept(built)[0], control.live(), control.retained()]

    failed, error, kept, live, retained = on_ada(work, tiny, function)
    assert failed == 1
    assert error < 1e-5
    assert kept == "kernel for 8"
    assert (live, retained) == ({}, 0)


def test_threads_share_the_kernels(tiny: str) -> None:
    def work(path: str) -> list[Any]:
        from concurrent.futures import ThreadPoolExecutor
        from threading import Barrier

        from tests.backends.tensorrt.rtx_flow import RtxFlow

        flow = RtxFlow(path)
        built = flow.build("fp32")
        flow.emulated.steps[:] = []
        barrier = Barrier(2)
        with flow.open(built) as session, session._lane(), ThreadPoolExecutor(2) as pool:

            def run(size: int) -> float:
                barrier.wait(60)
                return max(flow.error(session, built, size) for _ in range(5))

            errors = list(pool.map(run, (8, 3)))
        return [errors, flow.emulated.steps, flow.kept(built)[0]]

    errors, steps, kept = on_ada(work, tiny)
    assert max(errors) < 1e-5
    contexts = {step for step in steps if step.startswith("context")}
    assert contexts == {"context WHOLE_GRAPH_CAPTURE, a cache"}
    assert sum(step.startswith("context") for step in steps) > 1
    assert kept.splitlines() == ["kernel for 3", "kernel for 8"]


def test_another_gpu_is_an_obstacle(tiny: str) -> None:
    from pathlib import Path

    from resnet_edge.backends.config import BuildConfig
    from resnet_edge.build.stage import build
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.catalog.targets import load_target

    def work(path: str) -> list[Any]:
        from pathlib import Path

        from resnet_edge.bundle.bundle import Bundle
        from resnet_edge.verify.candidate import find_candidate

        candidate = find_candidate(
            Bundle.open(Path(path)), precision="fp32", backend="tensorrt_rtx"
        )
        return [candidate.executed, candidate.obstacle]

    build(Bundle.open(Path(tiny)), load_target("rtx-4090"), BuildConfig("fp32", profile=(1, 4, 8)))
    executed, obstacle = run_on_device("cuda-python", work, tiny, major=8, minor=7)
    assert executed == "graph"
    assert "8.9" in obstacle
    assert "8.7" in obstacle
