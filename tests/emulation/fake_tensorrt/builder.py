"""The builder: checks what the real one checks, calibrates, and writes the plan."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.emulation.fake_tensorrt import state
from tests.emulation.fake_tensorrt.execution import array_at, session
from tests.emulation.fake_tensorrt.network import dims, graph_inputs
from tests.emulation.fake_tensorrt.precision import choose_precisions, scales_in
from tests.emulation.fake_tensorrt.runtime import MAGIC

__all__ = ["CLASSES"]

_NO_SCALES = "Calibration failure occurred with no scaling factors detected"
_ALGORITHMS = {
    "IInt8EntropyCalibrator2": "EntropyCalibration2", "IInt8MinMaxCalibrator": "MinMaxCalibration",
}  # fmt: skip


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
        calibration = ""
        if problem is None and self._calibrates(network, config):
            calibration, problem = self._calibrate(network, config)
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
            "workspace": config._pools.get(self._trt.MemoryPoolType.WORKSPACE),
            "level": config.builder_optimization_level,
            "hardware": config.hardware_compatibility_level.name,
            "sharing": self._shares_profiles(config),
            "dla": config.DLA_core if self._uses_dla(config) else None,
            "calibration": calibration,
            "precisions": self._precisions(network, config, calibration),
        }
        text = json.dumps(header).encode()
        model = network._model.SerializeToString()
        return self._trt.IHostMemory(MAGIC + struct.pack("<I", len(text)) + text + model)

    def _shares_profiles(self, config: Any) -> bool:
        sharing = getattr(self._trt.PreviewFeature, "PROFILE_SHARING_0806", None)
        return sharing is None or sharing in config._previews

    def _uses_dla(self, config: Any) -> bool:
        return config.default_device_type == self._trt.DeviceType.DLA

    def _problem(self, network: Any, config: Any) -> str | None:
        """Return what the real builder would refuse, in its words."""
        names = {flag.name for flag in config._flags}
        if network._model is None:
            return "Network must have at least one output"
        if network._parser() is None:
            return "The parser is gone, and the weights with it"
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
        return self._precision_problem(network, config, names) or self._dla_problem(
            network, config, names
        )

    def _precision_problem(self, network: Any, config: Any, names: set[str]) -> str | None:
        calibrator = getattr(config, "int8_calibrator", None)
        if network._strong:
            if names & {"FP16", "INT8"} or calibrator is not None:
                return "Precision flags are incompatible with strongly typed networks."
            return None
        if "FP16" not in names and "HALF" in self._wanted(network, config).values():
            return "Fp16 precision has been set for a layer, but fp16 is not configured."
        if network._quantized and "INT8" not in names:
            return "Int8 precision has been set for a layer, but int8 is not configured."
        if network._quantized and calibrator is not None:
            state.say(self._logger, "WARNING", "Calibrator won't be used in explicit precision.")
        elif "INT8" in names and not network._quantized and calibrator is None:
            return f"{_NO_SCALES}."
        return None

    def _dla_problem(self, network: Any, config: Any, names: set[str]) -> str | None:
        if not self._uses_dla(config):
            return None
        if config.DLA_core >= state.DLA_CORES:
            return f"Cannot create DLA engine, {config.DLA_core} not available"
        if not network._strong and not names & {"FP16", "INT8"}:
            return "DLA only supports FP16 and Int8 precision type."
        if any(low != high for p in config._profiles for low, _, high in p._shapes.values()):
            return "DLA does not support dynamic shapes."
        calibrator = getattr(config, "int8_calibrator", None)
        if calibrator and not isinstance(calibrator, self._trt.IInt8EntropyCalibrator2):
            return "DLA requires IInt8EntropyCalibrator2."
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

    def _calibrates(self, network: Any, config: Any) -> bool:
        return "INT8" in {flag.name for flag in config._flags} and not network._quantized

    def _calibrate(self, network: Any, config: Any) -> tuple[str, str | None]:
        """Return the calibration cache, the calibrator's own or measured, and what is wrong."""
        calibrator, trt = config.int8_calibrator, self._trt
        if not getattr(calibrator, "_constructed", False):
            raise TypeError("__init__() must be called when overriding __init__")
        first = f"TRT-{_number(trt.__version__)}-" + next(
            name for kind, name in _ALGORITHMS.items() if isinstance(calibrator, getattr(trt, kind))
        )
        text = bytes(calibrator.read_calibration_cache() or b"").decode()
        if text.partition("\n")[0] != first:  # of another version or algorithm, or none
            largest, problem = self._largest(network, config)
            if problem is not None:
                return "", problem
            entries = [f"{name}: {struct.pack('>f', a / 127).hex()}" for name, a in largest.items()]
            text = "\n".join([first, *entries]) + "\n"
            calibrator.write_calibration_cache(text.encode())
        known = {name for layer in network._layers for name in layer._node.input}
        return text, None if scales_in(text).keys() & known else _NO_SCALES

    def _largest(self, network: Any, config: Any) -> tuple[dict[str, float], str | None]:
        """Return each tensor's largest magnitude on the calibrator's batches."""
        (value,) = graph_inputs(network._model)
        shape = dims(value)
        if -1 in shape:
            if config._calibration_profile is None:
                return {}, "Calibration profile is not defined."
            shape = config._calibration_profile._shapes[value.name][1]
        if config.int8_calibrator.get_batch_size() != shape[0]:
            return {}, "The calibrator's batch is not that of the calibration profile."
        runner, names = session(network._model, every_tensor=True)
        largest: dict[str, float] = {}
        while (addresses := config.int8_calibrator.get_batch([value.name])) is not None:
            batch = array_at(addresses[0], shape, "float32").copy()
            found = [batch, *runner.run(names, {value.name: batch})]
            for name, array in zip([value.name, *names], found, strict=True):
                largest[name] = max(largest.get(name, 0.0), float(abs(array).max()))
        return largest, None

    def _precisions(self, network: Any, config: Any, calibration: str) -> dict[str, str]:
        """Choose every layer's precision, and say which tensors lack a scale."""
        if network._strong:
            return {}
        precisions, missing = choose_precisions(
            network._model,
            half="FP16" in {flag.name for flag in config._flags},
            scales=scales_in(calibration),
            wanted=self._wanted(network, config),
        )
        for tensor in missing:
            text = f"Missing scale and zero-point for tensor {tensor}, expect fall back to "
            text += "non-int8 implementation for any layer consuming or producing given tensor"
            state.say(self._logger, "WARNING", text)
        return precisions

    def _wanted(self, network: Any, config: Any) -> dict[str, str]:
        """Return the precisions that layers were given, where these are to be heeded."""
        flags = {flag.name for flag in config._flags}
        if not flags & {"PREFER_PRECISION_CONSTRAINTS", "OBEY_PRECISION_CONSTRAINTS"}:
            return {}
        return {
            layer.name: layer._precision.name
            for layer in network._layers
            if layer._precision is not None
        }


def _number(version: str) -> int:
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return major * (1000 if major < 10 else 10_000) + minor * 100 + patch


CLASSES = (Builder,)
