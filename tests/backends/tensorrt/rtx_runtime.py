"""The run side of TensorRT for RTX on the emulated device: its builder is real, its runtime is not.

The module is the real one, and so are its plans. Only ``Runtime`` is replaced, by one that runs the
graph a plan was built from through ONNX Runtime, and that "compiles" a kernel for every batch it
meets and keeps it in its runtime cache.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import tensorrt_rtx as trt

from tests.emulation.fake_tensorrt import runtime, state


class Emulated:
    """Installs the runtime, decides what goes wrong in it, and says what was done with it.

    Attributes:
        validity: What the runtime says about every engine it knows.
        diagnostics: And why.
        accepts: Whether a runtime cache is of this machine.
        lacking: What returns None or False: ``config``, ``cache``, ``set_cache``, ``serialize``;
            see also ``state.failures``.
        steps: What was done, in order; the compiled kernels among it.
    """

    def __init__(self) -> None:
        self.validity, self.diagnostics, self.accepts = trt.EngineValidity.VALID, 0, True
        self.lacking: set[str] = set()
        self.steps: list[str] = []
        self._plans: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self._remember_plans()
        self._logger: Any = None
        names = {"__new__": lambda _, logger: self._start(logger), "get_engine_validity": None}
        trt.Runtime = type("Runtime", (), names)

    def _start(self, logger: Any) -> Emulated:
        self._logger = logger
        return self

    def get_engine_validity(self, data: bytes) -> tuple[Any, int]:
        self.steps.append("asked")
        if _key(data) not in self._plans:
            malformed = trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE
            return trt.EngineValidity.INVALID, int(malformed)
        return self.validity, self.diagnostics

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        self.steps.append("loaded")
        if "deserialize" in state.failures or _key(data) not in self._plans:
            return None
        model, profile = self._plans[_key(data)]
        header = {
            "profiles": [profile], "precisions": {}, "calibration": "", "detailed": True,
            "sharing": True,
        }  # fmt: skip
        emulated, names = self, _names()

        class Engine(runtime.ICudaEngine):
            _trt = names

            def create_runtime_config(self) -> Any:
                return None if "config" in emulated.lacking else _RuntimeConfig(emulated)

            def create_execution_context(self, settings: Any = None, **_: Any) -> Any:
                emulated.steps.append(f"context {settings.described}" if settings else "context")
                if "context" in state.failures:
                    return None
                return _context(names, emulated, settings.cache if settings else None)(self)

        return Engine(header, model, self._logger)

    def _remember_plans(self) -> None:
        """Note which graph and profile every plan of the real builder is of."""
        parse, build = trt.OnnxParser.parse, trt.Builder.build_serialized_network
        set_shape = trt.IOptimizationProfile.set_shape
        last: dict[str, Any] = {}

        def parsing(parser: Any, model: bytes, *rest: Any, **named: Any) -> bool:
            last["model"] = model
            return bool(parse(parser, model, *rest, **named))

        def setting(profile: Any, name: str, *shapes: Any) -> None:
            last["profile"] = {name: [tuple(shape) for shape in shapes]}
            set_shape(profile, name, *shapes)

        def building(builder: Any, network: Any, config: Any) -> Any:
            plan = build(builder, network, config)
            self._plans[_key(bytes(plan))] = last["model"], last["profile"]
            return plan

        trt.OnnxParser.parse, trt.Builder.build_serialized_network = parsing, building
        trt.IOptimizationProfile.set_shape = setting


def _key(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _names() -> SimpleNamespace:
    wanted = ("BuilderFlag", "DataType", "Dims", "TensorIOMode", "TensorLocation")
    names = SimpleNamespace(**{name: getattr(trt, name) for name in wanted})
    names.EngineInspector = type("EngineInspector", (runtime.EngineInspector,), {"_trt": names})
    return names


def _context(names: SimpleNamespace, emulated: Emulated, cache: Any) -> Any:
    class Context(runtime.IExecutionContext):
        _trt = names

        def execute_async_v3(self, stream_handle: int) -> bool:
            kernel = f"kernel for {next(iter(self._shapes.values()))[0]}"
            if cache is None or kernel not in cache.kernels:
                emulated.steps.append(f"compiled {kernel}")
            if cache is not None:
                cache.kernels.add(kernel)
            return super().execute_async_v3(stream_handle)

    return Context


class _RuntimeConfig:
    cuda_graph_strategy: Any = trt.CudaGraphStrategy.DISABLED
    cache: Any = None

    def __init__(self, emulated: Emulated) -> None:
        self._emulated = emulated

    @property
    def described(self) -> str:
        return f"{self.cuda_graph_strategy.name}, {'a' if self.cache else 'no'} cache"

    def create_runtime_cache(self) -> Any:
        return None if "cache" in self._emulated.lacking else _RuntimeCache(self._emulated)

    def set_runtime_cache(self, cache: Any) -> bool:
        if "set_cache" not in self._emulated.lacking:
            self.cache = cache
        return self.cache is not None


class _RuntimeCache:
    def __init__(self, emulated: Emulated) -> None:
        self._emulated = emulated
        self.kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if self._emulated.accepts:
            self.kernels = set(bytes(blob).decode().splitlines())
        return self._emulated.accepts

    def serialize(self) -> Any:
        if "serialize" in self._emulated.lacking:
            return None
        return memoryview("\n".join(sorted(self.kernels)).encode())
