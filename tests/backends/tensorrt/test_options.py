"""Every option reaches the builder, and the runtime is told what the engine needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.emulation.device import run_on_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from resnet_edge.bundle.bundle import Bundle

VERSIONS = ("8.6", "10.3", "11.4")


@pytest.fixture
def tiny(exported: Callable[[str], Bundle], tmp_path: Path) -> str:
    import shutil

    return str(shutil.copytree(exported("tiny").path, tmp_path / "bundle"))


def on_device(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return run_on_device("cuda-python", function, *arguments, **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_reaches_the_builder(tiny: str, version: str) -> None:
    def work(bundle: str) -> list[Any]:
        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        headers = []
        for options in (
            {},
            {"workspace": 64, "optimization_level": 5},
            {"version_compatible": True, "hardware_compatible": True, "sparsity": True},
        ):
            header = flow.header(flow.build(**options))
            headers.append([header[k] for k in ("workspace", "level", "hardware", "flags")])
        return [flow.target.workspace_bytes, headers]

    workspace, (default, tuned, compatible) = on_device(work, tiny, tensorrt=version)
    assert default == [workspace, 3, "NONE", []]
    assert tuned == [64 << 20, 5, "NONE", []]
    assert compatible == [workspace, 3, "AMPERE_PLUS", ["SPARSE_WEIGHTS", "VERSION_COMPATIBLE"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_compatible_engine_may_run_the_code_it_brings(tiny: str, version: str) -> None:
    def work(bundle: str) -> float:
        import numpy as np

        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        built = flow.build(version_compatible=True, builds=2)  # which loads them to measure
        with flow.open(built) as session:
            return float(np.abs(session.run(flow.feed)["logits"] - flow.expected(built)).max())

    assert on_device(work, tiny, tensorrt=version) < 1e-5


def test_a_hardware_compatible_engine_runs_on_another_gpu(tiny: str) -> None:
    def work(bundle: str) -> list[str]:
        from resnet_edge.errors import EngineMismatchError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation.fake_tensorrt import state

        flow, found = Flow(bundle), []
        for compatible in (True, False):
            state.CAPABILITY = "8.7"
            built = flow.build(hardware_compatible=compatible)
            state.CAPABILITY = "8.9"
            try:
                flow.open(built).close()
                found.append("opened")
            except EngineMismatchError as error:
                found.append(error.message)
        return found

    opened, refused = on_device(work, tiny, tensorrt="10.3")
    assert opened == "opened"
    assert "compute capability 8.7" in refused


def test_a_network_of_which_a_dla_can_run_nothing_is_refused(tiny: str) -> None:
    def work(bundle: str) -> list[str]:
        from resnet_edge.errors import ConfigError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation.fake_tensorrt import config, state

        state.DLA_CORES, config._ON_DLA = 2, ()
        try:
            Flow(bundle).build(precision="fp16", dla=0, profile=[4, 4, 4])
        except ConfigError as error:
            return [error.message, error.hint]
        return ["built"]

    message, hint = on_device(work, tiny, tensorrt="10.3")
    assert "can run none" in message
    assert "leave out --dla" in hint


def test_several_builds_need_a_library_to_measure_them_with(tiny: str) -> None:
    def work(bundle: str) -> str:
        import tensorrt as trt

        from resnet_edge.errors import BackendUnavailableError
        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        flow.build()
        trt.Builder = None  # it is refused before anything is built
        try:
            flow.build(builds=2)
        except BackendUnavailableError as error:
            return error.message
        return "built"

    assert "--builds measures" in run_on_device("", work, tiny, tensorrt="10.3")


def test_a_sidecar_of_another_device_warns_and_a_damaged_one_is_refused(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        import logging
        from dataclasses import replace

        from resnet_edge.backends.registry import get_backend
        from resnet_edge.errors import EngineMismatchError
        from tests.backends.tensorrt.flow import Flow

        said: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger("resnet_edge").addHandler(handler)
        flow = Flow(bundle)
        built, backend = flow.build(), get_backend("tensorrt")
        backend.open(built.engine, built.sidecar).close()
        quiet = list(said)
        backend.open(built.engine, replace(built.sidecar, device="Another GPU")).close()
        try:
            backend.open(built.engine, replace(built.sidecar, settings={"dla": "one"}))
        except EngineMismatchError as error:
            said.append(error.message)
        return [quiet, said]

    quiet, (slow, damaged) = on_device(work, tiny, tensorrt="10.3")
    assert quiet == []
    assert "built on Another GPU and may be slow on Emulated GPU" in slow
    assert "its DLA core is 'one'" in damaged


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    import numpy as np
    import onnx

    from tests.conftest import onnx_model

    def work(path: str) -> list[Any]:
        from pathlib import Path

        import numpy as np
        import tensorrt as trt

        from resnet_edge.backends.config import BuildConfig
        from resnet_edge.backends.tensorrt.builder import build_plan
        from resnet_edge.backends.tensorrt.engine import LoadOptions
        from resnet_edge.backends.tensorrt.session import TensorRTSession
        from resnet_edge.backends.tensorrt.settings import PlanRequest
        from resnet_edge.progress import SILENT

        request = PlanRequest(BuildConfig("fp32", profile=(1, 1, 2)))
        plan = build_plan(trt, Path(path), request, SILENT)
        with TensorRTSession(trt, plan.data, LoadOptions("engine")) as session:
            outputs: list[Any] = session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist()
            return outputs

    weights = np.arange(3, dtype=np.float32)
    model = onnx_model("g (float[n,3] x) => (float[n,3] y) { y = Add(x, w) }", w=weights)
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert (tmp_path / "weights.bin").is_file()
    assert on_device(work, str(path), tensorrt="10.3") == [[1, 2, 3]]
