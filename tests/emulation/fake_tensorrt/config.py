"""What a build is told: the builder's configuration, profiles and timings."""

from __future__ import annotations

import weakref
from typing import Any

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
        self._calibration_profile: Any = None
        self.profiling_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.default_device_type = self._trt.DeviceType.GPU
        self.DLA_core = -1
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = self._trt.HardwareCompatibilityLevel.NONE
        self._calibrator: Any = None
        if hasattr(type(self), "progress_monitor"):
            self.progress_monitor = None

    @property
    def int8_calibrator(self) -> Any:
        """None once nobody else holds it: the real builder then has a dangling pointer."""
        return None if self._calibrator is None else self._calibrator()

    @int8_calibrator.setter
    def int8_calibrator(self, calibrator: Any) -> None:
        self._calibrator = weakref.ref(calibrator)

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


CLASSES = (IHostMemory, ITimingCache, IOptimizationProfile, IBuilderConfig)
