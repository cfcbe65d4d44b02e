"""Whatever fails while building or running becomes our error, and nothing stays behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.emulation.device import run_on_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from resnet_edge.bundle.bundle import Bundle

LIBRARY = "cuda-python"


@pytest.fixture
def tiny(exported: Callable[[str], Bundle], tmp_path: Path) -> str:
    import shutil

    return str(shutil.copytree(exported("tiny").path, tmp_path / "bundle"))


def on_device(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return run_on_device(LIBRARY, function, *arguments, **{"tensorrt": "10.3", **options})


# What the fake is to fail at; where; our error; words of its message or hint.
FAILURES = [
    ("parse", "build", "BuildError", ("cannot parse",)),
    ("build", "build", "BuildError", ("no kernel for conv1", "--workspace")),
    ("build out of memory", "build", "BuildError", ("memory", "swap")),
    ("inspector", "build", "BuildError", ("cannot describe the engine", "memory")),
    ("deserialize", "open", "EngineMismatchError", ("cannot load", "memory")),
    ("context", "run", "DeviceError", ("execution context", "memory")),
    ("shape", "run", "DeviceError", ("refused the shape",)),
    ("infer", "run", "DeviceError", ("does not know the shape of input",)),
    ("address", "run", "DeviceError", ("refused the memory",)),
    ("execute", "run", "DeviceError", ("could not run", "Cask convolution")),
    ("kernel", "run", "DeviceError", ("running on the device failed",)),
]


@pytest.mark.parametrize("version", ["8.6", "10.3", "11.4"])
@pytest.mark.parametrize(
    ("failure", "step", "kind", "words"), FAILURES, ids=[f[0] for f in FAILURES]
)
def test_a_failure_of_tensorrt_is_our_error(
    tiny: str, version: str, failure: str, step: str, kind: str, words: tuple[str, ...]
) -> None:
    def work(bundle: str, failure: str) -> list[Any]:
        from resnet_edge.errors import ResnetEdgeError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control
        from tests.emulation.fake_tensorrt import state

        flow, step = Flow(bundle), "build"
        built = None
        if failure == "deserialize":  # the builder describes its engine, which loads it too
            built, step = flow.build(), "open"
        state.failures.add(failure)
        try:
            built = built or flow.build()
            step = "open"
            with flow.open(built) as session:
                step = "run"
                session.run(flow.feed)
        except ResnetEdgeError as error:
            said = f"{error.message} | {error.hint}"
            return [step, type(error).__name__, said, control.live(), control.retained()]
        return ["nothing"]

    if version == "8.6" and failure == "context":
        version = "10.3"  # one message serves both
    found, name, said, live, retained = on_device(work, tiny, failure, tensorrt=version)
    assert (found, name) == (step, kind)
    assert all(word in said for word in words), said
    assert (live, retained) == ({}, 0)


@pytest.mark.parametrize(
    ("function", "call", "words"),
    [
        ("cuMemAlloc", 1, "no memory left"),
        ("cuMemAlloc", 2, "no memory left"),
        ("cuMemHostAlloc", 2, "no memory left"),
        ("cuStreamCreate", 1, "creating a stream"),
        ("cuMemcpyHtoDAsync", 1, "copying to the device"),
        ("cuMemcpyDtoHAsync", 1, "copying from the device"),
        ("cuStreamSynchronize", 1, "running on the device"),
        ("cuGraphLaunch", 1, "launching a CUDA graph"),
    ],
)
def test_a_failure_of_the_driver_is_our_error_and_the_session_goes_on(
    tiny: str, function: str, call: int, words: str
) -> None:
    def work(bundle: str, function: str, call: int) -> list[Any]:
        import numpy as np

        from resnet_edge.errors import DeviceError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow, said = Flow(bundle), []
        built = flow.build()
        with flow.open(built) as session:
            code = control.OUT_OF_MEMORY if "lloc" in function else control.INVALID_VALUE
            control.fail(function, code, call=call)
            for _ in range(4):
                try:
                    outputs = session.run(flow.feed)["logits"]
                except DeviceError as error:  # noqa: PERF203
                    said.append(error.message)
            difference = float(np.abs(outputs - flow.expected(built)).max())
        return [said, difference, control.live(), control.retained()]

    said, difference, live, retained = on_device(work, tiny, function, call)
    assert len(said) == 1
    assert words in said[0]
    assert difference < 1e-5
    assert (live, retained) == ({}, 0)


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "RuntimeError"])
@pytest.mark.parametrize("where", ["enter", "advance"])
def test_what_goes_wrong_in_the_progress_ends_the_build_and_comes_through(
    tiny: str, where: str, kind: str
) -> None:
    def work(bundle: str, where: str, kind: str) -> list[Any]:
        import builtins
        from contextlib import contextmanager

        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        left = []

        class Task:
            def advance(self, steps: int = 1, *, status: str | None = None) -> None:
                if where == "advance" and steps:
                    raise getattr(builtins, kind)("stop")

        class Listener:
            @contextmanager
            def task(self, label: str, total: int | None = None) -> Any:
                if where == "enter":
                    raise getattr(builtins, kind)("stop")
                yield Task()
                left.append(label)

        flow = Flow(bundle)
        try:
            flow.build(progress=Listener())
        except (KeyboardInterrupt, RuntimeError) as error:
            files = [p.name for p in flow.bundle.path.rglob("*.engine*")]
            return [type(error).__name__, left, files, control.live()]
        return ["built"]

    name, left, files, live = on_device(work, tiny, where, kind)
    assert name == kind
    assert left == (["build orin fp32"] if where == "advance" else [])  # the bar is closed
    assert files == []
    assert live == {}


def test_progress_shows_the_outer_phase_and_names_the_inner(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        from contextlib import contextmanager

        from tests.backends.tensorrt.flow import Flow

        seen: list[Any] = []

        class Task:
            def advance(self, steps: int = 1, *, status: str | None = None) -> None:
                seen.append(status or steps)

        class Listener:
            @contextmanager
            def task(self, label: str, total: int | None = None) -> Any:
                seen.append([label, total])
                yield Task()
                seen.append("closed")

        Flow(bundle).build(progress=Listener())
        return seen

    (label, total), *steps = on_device(work, tiny)
    assert label == "build orin fp32"
    assert steps == ["Timing tactics", *[1] * total, "closed"]


def test_without_a_monitor_the_build_is_one_step(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        from contextlib import contextmanager

        from tests.backends.tensorrt.flow import Flow

        seen: list[Any] = []

        class Listener:
            @contextmanager
            def task(self, label: str, total: int | None = None) -> Any:
                seen.append([label, total])
                yield None

        Flow(bundle).build(progress=Listener())
        return seen

    assert on_device(work, tiny, tensorrt="8.6") == [["build orin fp32", 1]]


def test_an_image_that_breaks_calibration_is_the_error_that_is_seen(
    calibrated: Callable[[str], Bundle], shipped_images: Path, tmp_path: Path
) -> None:
    def work(bundle: str, images: str) -> list[Any]:
        from resnet_edge.errors import DataError
        from resnet_edge.images.arrays import ArrayImages
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        def broken(self: Any, index: int) -> None:
            raise OSError("the card was pulled")

        ArrayImages.load = broken
        flow = Flow(bundle)
        try:
            flow.build(precision="int8", implicit="entropy", images=images)
        except DataError as error:
            return [error.message, control.live(), control.retained()]
        return ["built"]

    import shutil

    bundle = shutil.copytree(calibrated("tiny").path, tmp_path / "bundle")
    message, live, retained = on_device(work, str(bundle), str(shipped_images / "test"))
    assert "cannot be decoded" in message
    assert (live, retained) == ({}, 0)


def test_timings_are_kept_unless_asked_not_to(tiny: str) -> None:
    def work(bundle: str) -> list[list[str]]:
        from tests.backends.tensorrt.flow import Flow

        flow, found = Flow(bundle), []
        for options in ({"timing_cache": False}, {"builds": 2}, {}):
            flow.build(**options)
            found.append([p.name for p in flow.cache.rglob("*.bin")])
        return found

    assert on_device(work, tiny) == [[], [], ["10.3.0-emulated-gpu-sm8.7.bin"]]


def test_the_fastest_of_several_builds_is_kept(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        import json
        from dataclasses import replace

        from resnet_edge.backends.tensorrt import backend
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        measured, plans, timed, batches = [3.0, 1.0, 2.0], [], [], []

        def number(*arguments: Any) -> Any:
            """Build, and write into the plan's header which one it is: the fake's are equal."""
            plan = make(*arguments)
            end = 8 + int.from_bytes(plan.data[4:8], "little")
            header = {**json.loads(plan.data[8:end]), "number": len(plans)}
            text = json.dumps(header).encode()
            data = plan.data[:4] + len(text).to_bytes(4, "little") + text + plan.data[end:]
            plans.append(data)
            return replace(plan, data=data)

        def time(trt: Any, plan: bytes, options: Any, batch: int) -> float:
            real(trt, plan, options, batch)
            timed.append(plans.index(plan))
            batches.append(batch)
            return measured[timed[-1]]

        make, backend.build_plan = backend.build_plan, number
        real, backend._gpu_ms = backend._gpu_ms, time
        flow = Flow(bundle)
        built = flow.build(builds=3, profile=[1, 2, 8])
        kept = flow.header(built)["number"]
        return [kept, timed, batches, built.sidecar.notes, control.live()]

    kept, timed, batches, notes, live = on_device(work, tiny)
    assert kept == 1
    assert timed == [0, 1, 2]
    assert batches == [2, 2, 2]  # the optimal one
    assert "fastest of 3 builds" in notes[1]
    assert "batch 2: 3.000, 1.000, 2.000" in notes[1]
    assert live == {}


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ({"devices": 0}, "no usable GPU"),
        ({"major": 8, "minor": 6}, "compute capability 8.7, this Emulated GPU has 8.6"),
        ({"driver_version": 11000}, "11.0"),
    ],
)
@pytest.mark.parametrize("version", ["8.6", "11.4"])
def test_the_wrong_machine_is_refused_before_tensorrt_is_touched(
    tiny: str, version: str, device: dict[str, int], words: str
) -> None:
    def work(bundle: str) -> list[Any]:
        import tensorrt as trt

        from resnet_edge.errors import ResnetEdgeError
        from tests.backends.tensorrt.flow import Flow

        trt.Builder = trt.Runtime = None
        try:
            Flow(bundle).build()
        except ResnetEdgeError as error:
            return [type(error).__name__, error.message, error.hint]
        return ["built"]

    name, message, hint = on_device(work, tiny, tensorrt=version, **device)
    assert name == ("ConfigError" if "major" in device else "BackendUnavailableError")
    assert words in message
    assert hint


def test_a_dla_core_that_is_not_there_is_refused(tiny: str) -> None:
    def work(bundle: str) -> list[str]:
        from resnet_edge.errors import ConfigError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation.fake_tensorrt import state

        said = []
        for cores in (0, 1):
            state.DLA_CORES = cores
            try:
                Flow(bundle).build(precision="fp16", dla=1, profile=[4, 4, 4])
            except ConfigError as error:
                said.append(f"{error.message} {error.hint}")
        return said

    none, one = on_device(work, tiny)
    assert "0 DLA cores" in none
    assert "leave out --dla" in none
    assert "1 DLA cores" in one
    assert "--dla 0" in one
