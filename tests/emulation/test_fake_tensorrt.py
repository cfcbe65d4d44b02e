"""The fake TensorRT has what the real bindings have, and computes what the model says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.emulation.bindings import VERSIONS
from tests.emulation.device import run_on_device
from tests.emulation.fake_tensorrt.surface import RECORD, record

LIBRARY = "cuda-python"


def flow(precision: str, failure: str, dynamic: bool) -> dict[str, Any]:
    """Build and run a network with the API all versions share; runs beside the fake."""
    import numpy as np
    import tensorrt as trt
    from onnx.reference import ReferenceEvaluator

    from resnet_edge.backends.cuda.device import open_device
    from resnet_edge.errors import DeviceError
    from tests.conftest import onnx_model
    from tests.emulation import control
    from tests.emulation.fake_tensorrt import state
    from tests.emulation.fake_tensorrt.precision import scales_in
    from tests.emulation.rounded import rounded_outputs

    said: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity != trt.ILogger.Severity.WARNING:
                said.append(msg)

    if failure:
        state.failures.add(failure)
    if precision == "dla":
        state.DLA_CORES = 2
    batch = "n" if dynamic else 2
    text = f"""g (float[{batch},1,4,4] x) => (float[{batch},2,4,4] y) {{
        c = Conv <pads=[1,1,1,1]> (x, w)  y = Relu(c) }}"""
    weights = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3) - 8
    model = onnx_model(text, w=weights)
    flags = trt.NetworkDefinitionCreationFlag
    logger = Logger()
    builder = trt.Builder(logger)
    created = 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0
    net = builder.create_network(created)
    parser = trt.OnnxParser(net, logger)
    if not parser.parse(model.SerializeToString()):
        return {"step": "parse", "said": parser.get_error(0).desc()}
    config = builder.create_builder_config()
    if precision in ("fp16", "int8", "dla") and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if precision == "dla":
        config.default_device_type, config.DLA_core = trt.DeviceType.DLA, 1
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if dynamic:
        profile = builder.create_optimization_profile()
        low, high = (2, 2) if precision == "dla" else (1, 4)
        profile.set_shape("x", (low, 1, 4, 4), (2, 1, 4, 4), (high, 1, 4, 4))
        assert config.add_optimization_profile(profile) == 0
        if precision == "int8":
            config.set_calibration_profile(profile)
    device = open_device()
    images = device.host_buffer((2, 1, 4, 4), "float32")
    images.array[:] = np.random.default_rng(0).integers(-4095, 4096, (2, 1, 4, 4)) / 1024
    stream, source = device.stream(), device.alloc(images.nbytes)
    stream.copy_to_device(source, images.array)
    stream.synchronize()
    caches: list[bytes] = []
    if precision == "int8":

        class Calibrator(trt.IInt8EntropyCalibrator2):
            def __init__(self) -> None:
                trt.IInt8EntropyCalibrator2.__init__(self)
                self.left = 2

            def get_batch_size(self) -> int:
                return 2

            def get_batch(self, names: list[str]) -> list[int] | None:
                self.left -= 1
                return [source.pointer] if self.left >= 0 else None

            def read_calibration_cache(self) -> None:
                return None

            def write_calibration_cache(self, cache: bytes) -> None:
                caches.append(bytes(cache))

        config.set_flag(trt.BuilderFlag.INT8)
        calibrator = config.int8_calibrator = Calibrator()
        assert calibrator.left == 2
    plan = builder.build_serialized_network(net, config)
    if plan is None:
        device.close()
        return {"step": "build", "said": said[-1]}
    runtime = trt.Runtime(logger)
    if precision == "dla":
        runtime.DLA_core = 1
    engine = runtime.deserialize_cuda_engine(bytes(plan))
    if engine is None:
        device.close()
        return {"step": "deserialize", "said": said[-1]}
    context = engine.create_execution_context()
    result = device.host_buffer((2, 2, 4, 4), "float32")
    target = device.alloc(result.nbytes)
    if context is None:
        device.close()
        return {"step": "context", "said": said[-1]}
    right = context.set_input_shape("x", (2, 1, 4, 4))
    right &= context.set_tensor_address("x", source.pointer)
    right &= context.set_tensor_address("y", target.pointer)
    with device.activate():
        ran = right and context.execute_async_v3(stream_handle=stream.handle)
    stream.copy_to_host(result.array, target)
    try:
        stream.synchronize()
    except DeviceError as error:
        return {"step": "synchronize", "said": error.message}
    reference = ReferenceEvaluator(model).run(None, {"x": images.array.copy()})[0]
    cache = caches[0].decode() if caches else ""
    rounded = rounded_outputs(
        model,
        {"x": images.array.copy()},
        half=precision in ("fp16", "int8", "dla"),
        ranges={name: 127 * scale for name, scale in scales_in(cache).items()},
    )["y"]
    out = {
        "step": "done",
        "right": right,
        "ran": ran,
        "equal": bool(np.allclose(result.array, reference, atol=1e-5)),
        "rounded": bool(np.allclose(result.array, rounded, atol=1e-5)),
        "io": [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)],
        "shape": list(context.get_tensor_shape("y")),
        "cache": cache,
        "amax": [float(abs(images.array).max()), float(reference.max())],
    }
    device.close()
    out["left"] = [control.live(), control.abandoned(), control.retained()]
    return out


@pytest.mark.parametrize("version", VERSIONS)
def test_the_recorded_surface_is_that_of_the_real_bindings(version: str) -> None:
    assert json.loads(RECORD.read_text())[version] == record(version)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_built_engine_computes_the_model(version: str, dynamic: bool) -> None:
    found = run_on_device(LIBRARY, flow, "fp32", "", dynamic, tensorrt=version)
    assert (found["step"], found["ran"], found["equal"]) == ("done", True, True)
    assert (found["io"], found["shape"]) == (["x", "y"], [2, 2, 4, 4])
    assert found["left"] == [{}, 0, 0]


@pytest.mark.parametrize("precision", ["fp16", "int8", "dla"])
@pytest.mark.parametrize("version", ["8.6", "10.3"])
def test_weakly_typed_builds_take_flags_calibrators_and_dla(version: str, precision: str) -> None:
    found = run_on_device(LIBRARY, flow, precision, "", True, tensorrt=version)
    assert (found["step"], found["equal"], found["rounded"]) == ("done", False, True)
    if precision == "int8":
        first, *entries = found["cache"].splitlines()
        assert first == f"TRT-{'8601' if version == '8.6' else '100300'}-EntropyCalibration2"
        lines = dict(line.rsplit(": ", 1) for line in entries)
        scale = {name: float(_float(text)) for name, text in lines.items()}
        assert scale["x"] == pytest.approx(found["amax"][0] / 127, rel=1e-5)
        assert scale["y"] == pytest.approx(found["amax"][1] / 127, rel=1e-5)


def _float(text: str) -> float:
    import struct

    return float(struct.unpack(">f", bytes.fromhex(text))[0])


@pytest.mark.parametrize("version", ["8.6", "11.4"])
@pytest.mark.parametrize(
    ("failure", "step"),
    [
        ("parse", "parse"),
        ("build", "build"),
        ("build out of memory", "build"),
        ("deserialize", "deserialize"),
        ("context", "context"),
        ("kernel", "synchronize"),
    ],
)
def test_a_failure_that_is_asked_for_happens(version: str, failure: str, step: str) -> None:
    found = run_on_device(LIBRARY, flow, "fp32", failure, True, tensorrt=version)
    assert found["step"] == step
    assert found["said"]


@pytest.mark.parametrize("failure", ["shape", "address", "execute"])
def test_what_returns_a_bool_can_return_false(failure: str) -> None:
    found = run_on_device(LIBRARY, flow, "fp32", failure, True, tensorrt="10.3")
    assert not (found["right"] and found["ran"])
    assert not found["equal"]


def build_wrongly(how: str) -> list[Any]:
    """Build with one thing wrong; return whether there is a plan, and what was said."""
    import numpy as np
    import tensorrt as trt

    from tests.conftest import onnx_model
    from tests.emulation.fake_tensorrt import state

    said: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            said.append(msg)

    class Calibrator(
        trt.IInt8MinMaxCalibrator if "min-max" in how else trt.IInt8EntropyCalibrator2
    ):
        def __init__(self) -> None:
            if "unfinished" not in how:
                super().__init__()

        def get_batch_size(self) -> int:
            return 3 if "batch" in how else 2

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes | None:
            number = "8601" if "version" in how else "100300"
            cache = f"TRT-{number}-EntropyCalibration2\nx: 3c010a14\ny: 3c010a14\n".encode()
            return None if "no cache" in how else cache

        def write_calibration_cache(self, cache: bytes) -> None:
            said.append("written")

    pairs = "q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = Relu(d)"
    body = pairs if "pairs" in how else "y = Relu(x)"
    text = f"g (float[n,4] x) => (float[n,4] y) {{ {body} }}"
    model = onnx_model(text, s=np.float32(0.1), z=np.int8(0))
    model.graph.node[-1].name = "relu"
    logger = Logger()
    builder = trt.Builder(logger)
    typing = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    net = builder.create_network((1 << int(typing)) if "strong" in how else 0)
    parser = trt.OnnxParser(net, logger)
    assert parser.parse(model.SerializeToString())
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1 if "any batch" in how else 2, 4), (2, 4), (2, 4))
    config.add_optimization_profile(profile)
    if "DLA" in how:
        state.DLA_CORES = 1
        config.default_device_type, config.DLA_core = trt.DeviceType.DLA, 0
    if "no profile" not in how:
        config.set_calibration_profile(profile)
    for flag in ("FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"):
        if flag in how:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if "calibrator" in how:
        calibrator = config.int8_calibrator = Calibrator()
        assert calibrator is not None
    if "HALF" in how:
        net.get_layer(0).precision = trt.DataType.HALF
    try:
        plan = builder.build_serialized_network(net, config)
    except TypeError as error:
        return [False, str(error)]
    return [plan is not None, " ".join(said)]


@pytest.mark.parametrize(
    ("how", "built", "said"),
    [
        ("INT8, calibrator", True, ""),
        ("strong, FP16", False, "incompatible with strongly typed"),
        ("strong, pairs, INT8", False, "incompatible with strongly typed"),
        ("strong, pairs, calibrator", False, "incompatible with strongly typed"),
        ("pairs", False, "int8 is not configured"),
        ("pairs, INT8, calibrator", True, "Calibrator won't be used"),
        ("INT8", False, "no scaling factors"),
        ("HALF, PREFER_PRECISION_CONSTRAINTS", False, "fp16 is not configured"),
        ("HALF", True, ""),
        ("INT8, unfinished calibrator", False, "__init__() must be called"),
        ("INT8, calibrator of another version", False, "written"),
        ("INT8, min-max calibrator", False, "written"),
        ("INT8, calibrator, DLA", True, ""),
        ("INT8, calibrator, DLA, any batch", False, "does not support dynamic shapes"),
        ("INT8, min-max calibrator, DLA", False, "requires IInt8EntropyCalibrator2"),
        ("INT8, calibrator, no cache", False, "no scaling factors"),
        ("INT8, calibrator, no cache, no profile", False, "profile is not defined"),
        ("INT8, calibrator, no cache, another batch", False, "batch is not that of"),
    ],
)
def test_precision_is_asked_for_as_it_must_be(how: str, built: bool, said: str) -> None:
    found, text = run_on_device(LIBRARY, build_wrongly, how, tensorrt="10.3")
    assert found == built, text
    assert said in text
    assert said or not text


def test_a_version_lacks_here_what_it_really_lacks() -> None:
    def look() -> list[Any]:
        import tensorrt as trt

        problems = []
        try:
            trt.init_libnvinfer_plugins(None, "")
        except NotImplementedError as error:
            problems.append(str(error))
        return [
            trt.__version__,
            hasattr(trt.BuilderFlag, "FP16"),
            hasattr(trt.IBuilderConfig, "int8_calibrator"),
            hasattr(trt, "IInt8EntropyCalibrator2"),
            hasattr(trt.ICudaEngine, "device_memory_size"),
            hasattr(trt.IExecutionContext, "execute_async_v3"),
            hasattr(trt, "ComputeCapability"),
            problems,
        ]

    has = run_on_device(LIBRARY, look, tensorrt="11.4")
    assert has[0].startswith("11.4.")
    assert has[1:7] == [False, False, False, False, True, False]
    assert "init_libnvinfer_plugins" in has[7][0]


@pytest.mark.parametrize(("version", "crashes"), [("8.6", False), ("11.4", True)])
def test_without_a_gpu_constructors_fail_as_the_real_ones(version: str, crashes: bool) -> None:
    def start() -> list[str]:
        import tensorrt as trt

        logger = trt.Logger(trt.Logger.WARNING)
        try:
            trt.Runtime(logger)
        except TypeError as error:
            return [str(error)]
        return []

    if crashes:
        with pytest.raises(AssertionError, match="exit status -11"):
            run_on_device(LIBRARY, start, tensorrt=version, init_error=100)
    else:
        assert "nullptr" in run_on_device(LIBRARY, start, tensorrt=version, init_error=100)[0]
