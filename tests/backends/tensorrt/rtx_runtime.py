"""The run side of TensorRT for RTX on the emulated device: its names are real, its runtime is not.

The module is the real one; only ``Runtime`` is replaced, by one that runs the ONNX model through
ONNX Runtime and keeps "compiled kernels" in its runtime cache.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import tensorrt_rtx as trt

from tests.emulation.fake_tensorrt import runtime

if TYPE_CHECKING:
    from pathlib import Path

_KERNELS = b"compiled"


class Emulated:
    """Installs the runtime and says what was done with it.

    Attributes:
        validity: What the runtime says about every engine.
        diagnostics: And why.
        accepts: Whether a runtime cache is of this machine.
        caches: What each runtime cache was loaded with.
        strategies: CUDA graph strategy of every context.
    """

    def __init__(self, onnx: Path, profile: tuple[int, int, int]) -> None:
        self.validity, self.diagnostics, self.accepts = trt.EngineValidity.VALID, 0, True
        self.caches: list[bytes] = []
        self.strategies: list[str] = []
        self._model, self._profile = onnx.read_bytes(), profile
        names = {"__new__": lambda *_: self, "get_engine_validity": None}
        trt.Runtime = type("Runtime", (), names)

    def get_engine_validity(self, data: bytes) -> tuple[Any, int]:
        return self.validity, self.diagnostics

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        names = SimpleNamespace(
            **{n: getattr(trt, n) for n in ("Dims", "DataType", "TensorIOMode", "TensorLocation")},
            IExecutionContext=runtime.IExecutionContext,
        )
        emulated = self

        class Engine(runtime.ICudaEngine):
            _trt = names

            def create_runtime_config(self) -> Any:
                return _RuntimeConfig(emulated)

            def create_execution_context(self, *settings: Any, **_: Any) -> Any:
                emulated.strategies += [s.cuda_graph_strategy.name for s in settings]
                return _context(names)(self)

        header: dict[str, Any] = {"profiles": [], "precisions": {}, "calibration": ""}
        engine = Engine(header, self._model, None)
        (name,) = engine._inputs
        shape = runtime.dims(engine._inputs[name])
        header["profiles"] = [{name: [(n, *shape[1:]) for n in self._profile]}]
        return engine


def _context(names: SimpleNamespace) -> Any:
    return type("Context", (runtime.IExecutionContext,), {"_trt": names})


class _RuntimeConfig:
    cuda_graph_strategy: Any = None

    def __init__(self, emulated: Emulated) -> None:
        self._emulated = emulated

    def create_runtime_cache(self) -> Any:
        return _RuntimeCache(self._emulated)

    def set_runtime_cache(self, cache: Any) -> bool:
        return True


class _RuntimeCache:
    def __init__(self, emulated: Emulated) -> None:
        self._emulated = emulated

    def deserialize(self, blob: bytes) -> bool:
        self._emulated.caches.append(bytes(blob))
        return self._emulated.accepts

    def serialize(self) -> Any:
        return memoryview(_KERNELS)
