"""The builder: checks what the real one checks, calibrates, and writes the plan."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.emulation.fake_tensorrt import state
from tests.emulation.fake_tensorrt.network import dims, graph_inputs
from tests.emulation.fake_tensorrt.runtime import MAGIC, array_at, session

__all__ = ["CLASSES"]

_ON_DLA = ("Conv", "Relu", "MaxPool", "AveragePool", "Add")


class IHostMemory:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data

    @property
    def nbytes(self) -> int:
        return len(self._data)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._entries = set(data.decode().split())

    def serialize(self) -> Any:
        return self._trt.IHostMemory("\n".join(sorted(self._entries)).encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._entries |= input_cache._entries
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]

    def get_shape(self, input: str) -> list[Any]:
        return [self._trt.Dims(shape) for shape in self._shapes[input]]

    def __bool__(self) -> bool:
        return all(
            low <= best <= high
            for shapes in self._shapes.values()
            for low, best, high in zip(*shapes, strict=True)
        )


class IBuilderConfig:
    def __init__(self) -> None:
        kinds = self._trt.BuilderFlag
        self._flags = {kinds.TF32}
        self._profiles: list[Any] = []
        self._pools: dict[Any, int] = {}
        self._devices: dict[Any, Any] = {}
        self._previews: set[Any] = set()
        self._cache: Any = None
        self._model: Any = None
        self.profiling_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.default_device_type = self._trt.DeviceType.GPU
        self.DLA_core = -1
        for name in ("int8_calibrator", "progress_monitor"):
            if hasattr(type(self), name):
                setattr(self, name, None)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._trt.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._trt.BuilderFlag(flag))

    def get_flag(self, flag: Any) -> bool:
        return self._trt.BuilderFlag(flag) in self._flags

    @property
    def flags(self) -> int:
        return sum(1 << int(flag) for flag in self._flags)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[self._trt.MemoryPoolType(pool)] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 4 << 30)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        (self._previews.add if enable else self._previews.discard)(feature)

    def get_preview_feature(self, feature: Any) -> bool:
        return feature in self._previews

    def add_optimization_profile(self, profile: Any) -> int:
        if not profile:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_calibration_profile(self, profile: Any) -> bool:
        self._calibration_profile = profile
        return bool(profile)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        return self._trt.ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def set_device_type(self, layer: Any, device_type: Any) -> None:
        self._devices[layer.name] = device_type

    def get_device_type(self, layer: Any) -> Any:
        return self._devices.get(layer.name, self.default_device_type)

    def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        return layer._node.op_type in _ON_DLA


class Builder:
    def __init__(self, logger: Any) -> None:
        if not getattr(logger, "_constructed", False):
            raise TypeError("__init__() must be called when overriding __init__")
        self._logger = logger
        if code := state.cuda_error():
            text = f"CUDA initialization failure with error: {code}"
            state.say(logger, "ERROR", text)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return state.DLA_CORES

    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        return True

    def create_network(self, flags: int = 0) -> Any:
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        problem = self._problem(network, config)
        if problem is None and not self._progress(config, network):
            problem = "The build was cancelled"
        calibration = None
        if problem is None and getattr(config, "int8_calibrator", None) is not None:
            calibration = self._calibrate(network._model, config.int8_calibrator)
            if calibration is None:
                problem = "Calibration failure occurred with no scaling factors detected"
        if problem is not None:
            state.say(self._logger, "ERROR", problem)
            return None
        if config._cache is not None:
            config._cache._entries |= {layer.name for layer in network._layers}
        header = {
            "version": self._trt.__version__,
            "capability": state.CAPABILITY,
            "flags": sorted(flag.name for flag in config._flags),
            "strong": network._strong,
            "detailed": config.profiling_verbosity == self._trt.ProfilingVerbosity.DETAILED,
            "profiles": [profile._shapes for profile in config._profiles],
            "dla": config.DLA_core if self._uses_dla(config) else None,
            "calibration": calibration,
        }
        text = json.dumps(header).encode()
        model = network._model.SerializeToString()
        return self._trt.IHostMemory(MAGIC + struct.pack("<I", len(text)) + text + model)

    def _uses_dla(self, config: Any) -> bool:
        return config.default_device_type == self._trt.DeviceType.DLA

    def _problem(self, network: Any, config: Any) -> str | None:
        """Return what the real builder would refuse, in its words."""
        names = {flag.name for flag in config._flags}
        if network._model is None:
            return "Network must have at least one output"
        if "build out of memory" in state.failures:
            return "Requested amount of GPU memory (1234 bytes) could not be allocated."
        if "build" in state.failures:
            return "Could not find any implementation for node conv1."
        if (
            any(-1 in dims(value) for value in graph_inputs(network._model))
            and not config._profiles
        ):
            return (
                "Network has dynamic or shape inputs, but no optimization profile has been defined."
            )
        if network._strong and names & {"FP16", "INT8"}:
            return "Precision flags are incompatible with strongly typed networks."
        quantized = any(n.op_type == "QuantizeLinear" for n in network._model.graph.node)
        calibrated = getattr(config, "int8_calibrator", None) is not None
        ranged = all(tensor._range for tensor in network._inputs)
        if "INT8" in names and not (quantized or calibrated or ranged):
            return "Calibration failure occurred with no scaling factors detected."
        return self._dla_problem(network, config, names)

    def _dla_problem(self, network: Any, config: Any, names: set[str]) -> str | None:
        if not self._uses_dla(config):
            return None
        if config.DLA_core >= state.DLA_CORES:
            return f"Cannot create DLA engine, {config.DLA_core} not available"
        if not network._strong and not names & {"FP16", "INT8"}:
            return "DLA only supports FP16 and Int8 precision type."
        for layer in network._layers:
            if config.can_run_on_DLA(layer):
                continue
            if "GPU_FALLBACK" not in names:
                return f"{layer.name}: DLA cannot run this layer, and GPU fallback is not enabled"
            text = f"Default DLA is enabled but layer {layer.name} is not supported on DLA, "
            state.say(self._logger, "WARNING", text + "falling back to GPU.")
        return None

    def _progress(self, config: Any, network: Any) -> bool:
        """Report to the monitor, if there is one; return whether to go on."""
        monitor = getattr(config, "progress_monitor", None)
        if monitor is None:
            return True
        goes_on = True
        monitor.phase_start("Building engine", None, network.num_layers)
        monitor.phase_start("Timing tactics", "Building engine", 1)
        goes_on &= monitor.step_complete("Timing tactics", 0)
        monitor.phase_finish("Timing tactics")
        for step in range(network.num_layers):
            goes_on = goes_on and monitor.step_complete("Building engine", step)
        monitor.phase_finish("Building engine")
        return goes_on

    def _calibrate(self, model: Any, calibrator: Any) -> str | None:
        """Return the calibration cache: the calibrator's own, or measured on its batches."""
        cache = calibrator.read_calibration_cache()
        if cache is not None:
            return bytes(cache).decode()
        (graph_input,) = graph_inputs(model)
        shape = (calibrator.get_batch_size(), *dims(graph_input)[1:])
        runner, names = session(model, every_tensor=True)
        largest: dict[str, float] = {}
        while (addresses := calibrator.get_batch([graph_input.name])) is not None:
            batch = array_at(addresses[0], shape, "float32").copy()
            values = runner.run(names, {graph_input.name: batch})
            for name, value in zip([graph_input.name, *names], [batch, *values], strict=True):
                largest[name] = max(largest.get(name, 0.0), float(abs(value).max()))
        if not largest:
            return None
        lines = [f"{name}: {struct.pack('>f', amax / 127).hex()}" for name, amax in largest.items()]
        text = "\n".join(["TRT-8601-EntropyCalibration2", *lines]) + "\n"
        calibrator.write_calibration_cache(text.encode())
        return text


CLASSES = (IHostMemory, ITimingCache, IOptimizationProfile, IBuilderConfig, Builder)
