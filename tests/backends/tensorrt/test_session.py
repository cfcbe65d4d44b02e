"""The run side: threads, graphs, shapes, memory and order, on the emulated device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.backends.cuda.device import LIBRARIES
from tests.emulation.bindings import VERSIONS
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


@pytest.mark.parametrize("library", LIBRARIES)
def test_outputs_are_the_callers_and_equal_the_graphs(tiny: str, library: str) -> None:
    def work(bundle: str) -> list[Any]:
        import numpy as np

        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        built = flow.build()
        with flow.open(built) as session:
            first = session.run(flow.feed)["logits"]
            kept = first.copy()
            for size in (1, 8, 3, 8, 3, 3, 1):
                rows = flow.feed["input"][::-1][:size]
                got = session.run({"input": rows})["logits"]
                np.testing.assert_allclose(got, flow.expected(built)[::-1][:size], atol=1e-5)
        np.testing.assert_array_equal(first, kept)
        inputs = [session.inputs[0].name, session.inputs[0].shape, session.inputs[0].dtype]
        return [inputs, [o.shape for o in session.outputs]]

    inputs, outputs = run_on_device(library, work, tiny, tensorrt="10.3")
    assert inputs == ["input", [None, 1, 8, 8], "float32"]
    assert outputs == [[None, 10]]


def test_a_fixed_profile_is_a_fixed_shape(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        with flow.open(flow.build(profile=[4, 4, 4])) as session:
            rows = session.run_rows(flow.feed["input"][:6])["logits"]
            return [session.inputs[0].shape, session.outputs[0].shape, rows.shape]

    assert on_device(work, tiny) == [[4, 1, 8, 8], [4, 10], [6, 10]]


def test_any_number_of_images_goes_through_any_profile(tiny: str) -> None:
    def work(bundle: str) -> list[float]:
        import numpy as np

        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        found = []
        for profile in ([1, 2, 3], [4, 4, 4], [3, 5, 5], [1, 1, 1]):
            built = flow.build(profile=profile)
            with flow.open(built) as session:
                got = session.run_rows(flow.feed["input"])["logits"]
            found.append(float(np.abs(got - flow.expected(built)).max()))
        return found

    assert max(on_device(work, tiny)) < 1e-5


def test_what_does_not_fit_is_refused_with_what_does(tiny: str) -> None:
    def work(bundle: str) -> list[str]:
        import numpy as np

        from resnet_edge.errors import ConfigError
        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        said = []
        with flow.open(flow.build()) as session:
            for feed in (
                {"x": flow.feed["input"]},
                {"input": flow.feed["input"].astype(np.float64)},
                {"input": flow.feed["input"][:, :, :4]},
                {"input": np.zeros((9, 1, 8, 8), np.float32)},
                {"input": np.zeros((0, 1, 8, 8), np.float32)},
            ):
                try:
                    session.run(feed)
                except ConfigError as error:  # noqa: PERF203
                    said.append(f"{error.message} {error.hint}")
            session.run(flow.feed)
        return said

    names, dtype, shape, many, none = on_device(work, tiny)
    assert "['input']" in names
    assert "float32" in dtype
    assert "float64" in dtype
    assert "(8, 1, 4, 8)" in shape
    assert "1 to 8 images" in many
    assert "--profile" in many
    assert "not 0" in none


def test_a_graph_is_captured_for_a_batch_that_repeats_and_ends_with_it(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow = Flow(bundle)
        rows, counts = flow.feed["input"], []
        with flow.open(flow.build()) as session:
            for size in (2, 2, 2, 1, 2, 4, 4, 4, 2, 2):
                control.called()
                session.run({"input": rows[:size]})
                called = control.called()
                counts.append(
                    [
                        sum(name.startswith("cuStreamBeginCapture") for name in called),
                        sum(name.startswith("cuGraphLaunch") for name in called),
                    ]
                )
            held = control.live()
        return [counts, held]

    plain, captured, launched = [0, 0], [1, 1], [0, 1]
    counts, held = on_device(work, tiny)
    assert counts == [
        plain, captured, launched, plain, plain, plain, captured, launched, plain, captured,
    ]  # fmt: skip
    assert held["executable graphs"] == 1


@pytest.mark.parametrize("integrated", [0, 1])
def test_memory_is_that_of_the_largest_batch_alone(tiny: str, integrated: int) -> None:
    def work(bundle: str) -> list[Any]:
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow, found = Flow(bundle), []
        built, rows = flow.build(), flow.feed["input"]
        for sizes in ([8], [1, 2, 4, 8], [1, 1, 3, 3, 8, 2, 8, 1]):
            with flow.open(built) as session:
                for size in sizes:
                    session.run({"input": rows[:size]})
                found.append([control.live(), control.live_bytes()])
        return found

    at_once, *grown = on_device(work, tiny, integrated=integrated)
    assert at_once[0]["host memory"] == 2
    assert grown == [at_once] * 2


@pytest.mark.parametrize("function", ["cuGraphLaunch", "cuMemcpyHtoDAsync", "cuStreamSynchronize"])
def test_after_an_error_of_the_device_everything_is_set_again(tiny: str, function: str) -> None:
    def work(bundle: str, function: str) -> list[Any]:
        import numpy as np

        from resnet_edge.errors import DeviceError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow, steps = Flow(bundle), []
        built = flow.build()
        with flow.open(built) as session:
            for turn in range(7):
                if turn == 3:
                    control.fail(function, control.INVALID_VALUE)
                control.called()
                try:
                    outputs = session.run(flow.feed)["logits"]
                    np.testing.assert_allclose(outputs, flow.expected(built), atol=1e-5)
                except DeviceError:
                    steps.append("failed")
                    continue
                called = " ".join(control.called())
                captured = "cuStreamBeginCapture" in called
                launched = "cuGraphLaunch" in called
                steps.append("captured" if captured else "launched" if launched else "plain")
            held = control.live()["executable graphs"]
        return [steps, held, control.live()]

    steps, held, live = on_device(work, tiny, function)
    assert steps == ["plain", "captured", "launched", "failed", "plain", "captured", "launched"]
    assert held == 1
    assert live == {}


@pytest.mark.parametrize(("function", "call"), [("cuMemHostAlloc", 1), ("cuMemAlloc", 2)])
def test_a_batch_there_is_no_memory_for_does_not_spoil_the_smaller_ones(
    tiny: str, function: str, call: int
) -> None:
    def work(bundle: str, function: str, call: int) -> list[Any]:
        import numpy as np
        import pytest

        from resnet_edge.errors import DeviceError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow, held = Flow(bundle), []
        built = flow.build()
        expected, rows = flow.expected(built), flow.feed["input"]
        with flow.open(built) as session:
            session.run({"input": rows[:2]})
            held.append(control.live_bytes())
            control.fail(function, control.OUT_OF_MEMORY, call=call)
            with pytest.raises(DeviceError, match="no memory left"):
                session.run({"input": rows})
            for size in (2, 8):
                got = session.run({"input": rows[:size]})["logits"]
                np.testing.assert_allclose(got, expected[:size], atol=1e-5)
                held.append(control.live_bytes())
        return [held, control.live()]

    (before, after, grown), live = on_device(work, tiny, function, call)
    assert after == before
    assert grown == 4 * before
    assert live == {}


def test_an_engine_that_cannot_be_captured_runs_without_graphs(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        import numpy as np

        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow = Flow(bundle)
        built = flow.build()
        with flow.open(built) as session:
            session.run(flow.feed)
            control.fail("cuStreamEndCapture", control.INVALID_VALUE)
            outputs = [session.run(flow.feed)["logits"] for _ in range(3)]
            control.called()
            session.run(flow.feed)
            launched = any(name.startswith("cuGraphLaunch") for name in control.called())
        difference = max(float(np.abs(o - flow.expected(built)).max()) for o in outputs)
        return [difference, launched, control.live()]

    difference, launched, live = on_device(work, tiny)
    assert difference < 1e-5
    assert not launched
    assert live == {}


def test_on_shared_memory_nothing_is_copied(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        import numpy as np

        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow = Flow(bundle)
        built = flow.build()
        with flow.open(built) as session:
            control.called()
            outputs = [session.run(flow.feed)["logits"] for _ in range(3)]
            copies = [name for name in control.called() if name.startswith("cuMemcpy")]
            held = control.live()
        return [max(float(np.abs(o - flow.expected(built)).max()) for o in outputs), copies, held]

    difference, copies, held = on_device(work, tiny, integrated=1)
    assert difference < 1e-5
    assert copies == []
    assert "device memory" not in held
    difference, copies, held = on_device(work, tiny)
    assert difference < 1e-5
    assert len(copies) == 6
    assert held["device memory"] == 2


@pytest.mark.parametrize("version", ["8.6", "11.4"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_threads_get_a_lane_of_their_own_and_the_right_outputs(
    tiny: str, library: str, version: str
) -> None:
    def work(bundle: str) -> list[Any]:
        import threading

        import numpy as np

        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow = Flow(bundle)
        built = flow.build()
        expected, worst, together = flow.expected(built), [], threading.Barrier(6)
        with flow.open(built) as session:

            def serve(seed: int) -> None:
                random = np.random.default_rng(seed)
                together.wait()
                for _ in range(30):
                    chosen = random.integers(0, 8, random.integers(1, 9))
                    got = session.run({"input": flow.feed["input"][chosen]})["logits"]
                    worst.append(float(np.abs(got - expected[chosen]).max()))

            threads = [threading.Thread(target=serve, args=(n,)) for n in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            streams = control.live()["streams"]
        return [len(worst), max(worst), streams, control.live(), control.retained()]

    count, worst, streams, live, retained = run_on_device(library, work, tiny, tensorrt=version)
    assert count == 180
    assert worst < (0.05 if version == "11.4" else 1e-5)
    assert 1 <= streams <= 6
    assert (live, retained) == ({}, 0)


def test_the_times_of_the_gpu_are_taken_apart(tiny: str) -> None:
    def work(bundle: str) -> list[list[float]]:
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow = Flow(bundle)
        with flow.open(flow.build()) as session:
            times = session.measure(flow.feed, warm_up=0.0, seconds=0.0, count=5)
            assert "events" not in control.live()
            assert list(times.parts) == ["h2d", "compute", "d2h"]
            return [list(row) for row in zip(times.total, *times.parts.values(), strict=True)]

    times = on_device(work, tiny)
    assert len(times) == 5
    assert all(part >= 0 for time in times for part in time)
    assert all(compute > 0 for _, _, compute, _ in times)
    assert all(whole >= sum(parts) for whole, *parts in times)


def test_a_measurement_is_warmed_up_by_calls_that_do_not_count(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        from resnet_edge.backends.tensorrt.lane import Lane
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        blocks, measure = [], Lane.measure

        def watch(lane: Lane, feed: Any, seconds: float, count: int) -> Any:
            control.called()
            times = measure(lane, feed, seconds, count)
            captures = sum(name.startswith("cuStreamBeginCapture") for name in control.called())
            blocks.append([seconds, count, len(times.total), captures])
            return times

        Lane.measure = watch
        flow = Flow(bundle)
        with flow.open(flow.build()) as session:
            times = session.measure(flow.feed, warm_up=0.01, seconds=0.0, count=5)
        return [blocks, len(times.total)]

    (warm_up, block), count = on_device(work, tiny)
    assert warm_up[0] == 0.01
    assert warm_up[2] >= warm_up[1] >= 20
    assert warm_up[3] == 1  # its graph is captured before what counts
    assert block == [0.0, 5, 5, 0]
    assert count == 5


def test_everything_is_released_in_order_and_closing_twice_is_allowed(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:

        import tensorrt as trt

        from resnet_edge.errors import DeviceError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        order = []

        class Watched:
            """Stands for an object of TensorRT's and says when the last reference to it goes."""

            def __init__(self, name: str, real: Any, made: dict[str, str]) -> None:
                self.name, self.real, self.made = name, real, made

            def __getattr__(self, attribute: str) -> Any:
                found = getattr(self.real, attribute)
                kind = self.made.get(attribute)
                return (lambda *a: Watched(kind, found(*a), self.made)) if kind else found

            def __del__(self) -> None:
                order.append(self.name)

        made = {"deserialize_cuda_engine": "engine", "create_execution_context": "context"}
        flow = Flow(bundle)
        built = flow.build()
        real = trt.Runtime
        trt.Runtime = lambda logger: Watched("runtime", real(logger), made)
        session = flow.open(built)
        session.run(flow.feed)
        assert order == []
        session.close()
        session.close()
        try:
            session.run(flow.feed)
        except DeviceError as error:
            return [order, error.message, control.live(), control.retained()]
        return [order, "ran", control.live(), control.retained()]

    order, message, live, retained = on_device(work, tiny)
    assert order == ["context", "engine", "runtime"]
    assert "closed" in message
    assert (live, retained) == ({}, 0)


def test_a_session_in_use_is_not_torn_down_under_the_thread_that_uses_it(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        import threading

        import numpy as np
        import pytest

        from resnet_edge.backends.tensorrt.lane import Lane
        from resnet_edge.errors import DeviceError
        from tests.backends.tensorrt.flow import Flow

        flow, inside, go_on, outputs = Flow(bundle), threading.Event(), threading.Event(), []
        built, enqueue = flow.build(), Lane._execute

        def wait(lane: Lane) -> None:
            inside.set()
            assert go_on.wait(60)
            enqueue(lane)

        Lane._execute = wait
        session = flow.open(built)
        thread = threading.Thread(target=lambda: outputs.append(session.run(flow.feed)))
        thread.start()
        assert inside.wait(60)
        with pytest.raises(DeviceError, match="1 threads use it"):
            session.close()
        go_on.set()
        thread.join()
        np.testing.assert_allclose(outputs[0]["logits"], flow.expected(built), atol=1e-5)
        session.close()
        with pytest.raises(DeviceError, match="closed"):
            session.run(flow.feed)
        return [thread.is_alive()]

    assert on_device(work, tiny) == [False]


def test_ten_thousand_runs_leave_nothing_behind(tiny: str) -> None:
    def work(bundle: str) -> list[Any]:
        import resource

        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        def peak() -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

        flow = Flow(bundle)
        with flow.open(flow.build()) as session:
            for turn in range(500):
                session.run({"input": flow.feed["input"][: 8 - turn % 8]})
            before, held = peak(), control.live()
            for turn in range(10_000):
                session.run({"input": flow.feed["input"][: 1 + turn % 8]})
            grown, still = peak() - before, control.live()
        return [grown, held == still, control.live()]

    grown, same, live = on_device(work, tiny)
    assert grown < 4096  # KiB
    assert same
    assert live == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_of_another_version_or_gpu_is_known_before_it_is_read(
    tiny: str, version: str
) -> None:
    def work(bundle: str) -> list[Any]:
        from dataclasses import replace

        import tensorrt as trt

        from resnet_edge.backends.registry import get_backend
        from resnet_edge.errors import EngineMismatchError
        from tests.backends.tensorrt.flow import Flow

        flow = Flow(bundle)
        built = flow.build()
        backend, said = get_backend("tensorrt"), []
        trt.Runtime = None  # nothing may create one
        for change in ({"runtime_version": "9.9.9"}, {"compute_capabilities": ("8.6",)}):
            sidecar = replace(built.sidecar, **change)
            said.append(backend.obstacle(sidecar))
            try:
                backend.open(built.engine, sidecar)
            except EngineMismatchError as error:
                said.append(error.message)
        return [backend.obstacle(built.sidecar), *said]

    fits, version_said, refused, capability_said, refused_too = on_device(
        work, tiny, tensorrt=version
    )
    assert fits is None
    assert "9.9.9" in version_said
    assert version_said in refused
    assert "8.6" in capability_said
    assert "8.7" in capability_said
    assert capability_said in refused_too


@pytest.mark.parametrize("damage", ["rtx", "text", "other version", "other gpu"])
def test_what_tensorrt_itself_refuses_is_explained(tiny: str, damage: str) -> None:
    def work(bundle: str, damage: str) -> str:
        from resnet_edge.backends.registry import get_backend
        from resnet_edge.errors import EngineMismatchError
        from tests.backends.tensorrt.flow import Flow
        from tests.emulation import control

        flow = Flow(bundle)
        built = flow.build()
        data = built.engine.read_bytes()
        built.engine.write_bytes({
            "rtx": b"vtrt" + data[4:],
            "text": b"not an engine",
            "other version": data.replace(b'"10.3.0"', b'"10.3.9"'),
            "other gpu": data.replace(b'"8.7"', b'"8.6"'),
        }[damage])  # fmt: skip
        try:
            get_backend("tensorrt").open(built.engine, built.sidecar)
        except EngineMismatchError as error:
            assert control.live() == {}
            assert control.retained() == 0
            return f"{error.message} | {error.hint}"
        return "opened"

    said = on_device(work, tiny, damage)
    assert "model.fp32.engine" in said
    assert "build it again" in said
    assert {
        "rtx": "TensorRT for RTX built it",
        "text": "no engine of this TensorRT",
        "other version": "built with TensorRT 10.3.9",
        "other gpu": "built for compute capability 8.6",
    }[damage] in said
