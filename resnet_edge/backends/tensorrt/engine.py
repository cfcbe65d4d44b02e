"""A deserialized engine: loaded with its reasons for refusing, released in the right order."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.tensorrt.features import TrtFeatures
from resnet_edge.backends.tensorrt.logger import Message, recording
from resnet_edge.backends.tensorrt.messages import explain
from resnet_edge.errors import BackendUnavailableError, BuildError, EngineMismatchError
from resnet_edge.tensors import TensorSpec

if TYPE_CHECKING:
    import tensorrt

__all__ = ["RTX_MAGICS", "LoadOptions", "LoadedEngine", "describe_engine", "refuse_foreign"]

RTX_MAGICS = (b"vtrt", b"vGGt")  # first bytes of TensorRT for RTX's plans, seen and documented
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class LoadOptions:
    """How an engine is loaded.

    Attributes:
        name: What messages call it, for example its path.
        dla: DLA core it was built for.
        host_code: Allow the code that a version-compatible engine brings along.
    """

    name: str
    dla: int | None = None
    host_code: bool = False


class LoadedEngine:
    """An engine and the runtime it lives in.

    Args:
        trt: The module.
        data: The engine.
        options: How to load it.
        logger: TensorRT's logger.
        record: What it says.

    Attributes:
        inputs: Shape without a fixed batch where the engine takes any of its profile.
        outputs: Likewise.
        profile: Smallest and largest batch.

    Raises:
        BackendUnavailableError: The runtime cannot start.
        EngineMismatchError: The engine is not for this runtime or device.
    """

    def __init__(
        self, trt: ModuleType, data: bytes, options: LoadOptions, logger: Any, record: Message
    ) -> None:
        features = TrtFeatures.of(trt)
        refuse_foreign(data, options.name, ahead_of_time=features.ahead_of_time)
        try:
            self._runtime: tensorrt.Runtime | None = trt.Runtime(logger)
        except TypeError as error:  # pybind11's way to say that there is no driver
            reason, hint = explain(record.errors or (str(error),))
            raise BackendUnavailableError(
                f"{trt.__name__} cannot start: {reason}", hint=hint
            ) from error
        runtime: tensorrt.Runtime = self._runtime
        if features.dla and options.dla is not None:
            runtime.DLA_core = options.dla  # must be set before the engine is read
        if features.host_code and options.host_code:
            runtime.engine_host_code_allowed = True
        engine: tensorrt.ICudaEngine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            self._runtime = None
            reason, hint = explain(record.errors)
            raise EngineMismatchError(
                f"{trt.__name__} {trt.__version__} cannot load {options.name}: {reason}", hint=hint
            )
        self._engine: tensorrt.ICudaEngine | None = engine
        self.inputs, self.outputs = _specs(trt, engine)
        batch = self.inputs[0].shape[0]
        if batch is None:
            smallest, _, largest = engine.get_tensor_profile_shape(self.inputs[0].name, 0)
            self.profile = (int(smallest[0]), int(largest[0]))
        else:
            self.profile = (batch, batch)
        if self.profile[0] == self.profile[1]:
            self.inputs = tuple(_fixed(spec, self.profile[0]) for spec in self.inputs)
            self.outputs = tuple(_fixed(spec, self.profile[0]) for spec in self.outputs)

    @property
    def engine(self) -> tensorrt.ICudaEngine:
        """TensorRT's object."""
        if self._engine is None:
            raise EngineMismatchError("the engine is closed")
        return self._engine

    def close(self) -> None:
        """Release the engine, then its runtime; contexts must be gone."""
        self._engine = None
        self._runtime = None


def describe_engine(trt: ModuleType, data: bytes, options: LoadOptions) -> str:
    """Return an engine's layers as TensorRT describes them, in JSON.

    Raises:
        BackendUnavailableError: The runtime cannot start.
        EngineMismatchError: The engine is not for this runtime or device.
    """
    with recording(trt) as (logger, record):
        loaded = LoadedEngine(trt, data, options, logger, record)
        try:
            engine: tensorrt.ICudaEngine = loaded.engine
            inspector: tensorrt.EngineInspector | None = engine.create_engine_inspector()
            if inspector is None:
                reason, hint = explain(record.errors)
                raise BuildError(f"TensorRT cannot describe the engine: {reason}", hint=hint)
            return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        finally:
            loaded.close()


def refuse_foreign(data: bytes, name: str, *, ahead_of_time: bool) -> None:
    """Refuse an engine of the other kind of TensorRT by its first bytes.

    Raises:
        EngineMismatchError: It is one.
    """
    is_rtx = data[:4] in RTX_MAGICS
    if is_rtx == ahead_of_time:
        return
    this, other = ("TensorRT", "TensorRT for RTX") if is_rtx else ("TensorRT for RTX", "TensorRT")
    raise EngineMismatchError(
        f"{name} is no engine of {this}: "
        + (f"{other} built it" if is_rtx else f"{other} built it, or it is damaged"),
        hint="build it again, for a target of this kind",
    )


def _fixed(spec: TensorSpec, batch: int) -> TensorSpec:
    return TensorSpec(spec.name, (batch, *spec.shape[1:]), spec.dtype)


def _specs(
    trt: ModuleType, engine: tensorrt.ICudaEngine
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(None if n < 0 else int(n) for n in engine.get_tensor_shape(name))
        dtype = engine.get_tensor_dtype(name).name
        if dtype not in _DTYPES or None in shape[1:]:
            raise EngineMismatchError(
                f"the engine's tensor {name} is {dtype} {shape}, which no classifier of ours has"
            )
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(TensorSpec(name, shape, _DTYPES[dtype]))
    return tuple(inputs), tuple(outputs)
