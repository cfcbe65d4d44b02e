"""ONNX Runtime: runs FP32, FP16 and Q/DQ graphs on any machine, on a GPU where asked to."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from onnx import ModelProto

from resnet_edge.backends.base import Availability, Backend, Session
from resnet_edge.backends.config import BuildConfig, Calibration, EngineArtifact
from resnet_edge.bundle.names import GraphKind
from resnet_edge.bundle.sidecar import Sidecar
from resnet_edge.catalog.targets import Target
from resnet_edge.errors import BackendUnavailableError, ConfigError, GraphError
from resnet_edge.progress import Progress
from resnet_edge.tensors import TensorSpec

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeSession", "Optimise"]

Optimise = Literal["all", "float", "none"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
}


class OnnxRuntimeBackend(Backend):
    """The graph itself is the engine; any batch runs."""

    name = "onnxruntime"
    suffix = ".onnx"
    native = False
    fp16 = False
    profiles = False
    options = frozenset({"reduce_range"})

    def probe(self) -> Availability:
        """Say whether ONNX Runtime is installed, and with which providers."""
        try:
            onnxruntime = _load()
        except BackendUnavailableError as error:
            return Availability(False, None, f"{error.message}: {error.hint}")
        providers = ", ".join(onnxruntime.get_available_providers())
        return Availability(True, self.version(), providers)

    def version(self) -> str:
        """Return ONNX Runtime's version."""
        return str(_load().__version__)

    def check(self, config: BuildConfig) -> None:
        """Refuse what only other backends can do, and 7-bit weights where there are no integers."""
        super().check(config)
        if config.reduce_range is not None and config.precision != "int8":
            raise ConfigError(
                f"--reduce-range is for INT8 on a CPU, not for {config.precision}",
                hint="add --int8",
            )

    def graph(self, config: BuildConfig) -> GraphKind:
        """Return the fully quantized CPU twin for INT8, else the float model."""
        return "int8-cpu" if config.precision == "int8" else "fp32"

    def build(
        self,
        source: Path,
        target: Target,
        config: BuildConfig,
        *,
        calibration: Calibration | None = None,
        progress: Progress,
    ) -> EngineArtifact:
        """Check that the graph loads; the file is the engine."""
        label = f"build {target.name} {config.precision}"
        with progress.task(label, total=1) as task, OnnxRuntimeSession(source):
            task.advance()
        return EngineArtifact(source.read_bytes())

    def obstacle(self, sidecar: Sidecar) -> str | None:
        """Return why ONNX Runtime cannot run; it runs an engine of any version and machine."""
        found = self.probe()
        return None if found.available else found.detail

    def open(self, engine: Path, sidecar: Sidecar, *, host_code: bool = False) -> Session:
        """Load the graph with all optimisations."""
        return OnnxRuntimeSession(engine)


def _load() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not installed", hint="pip install 'resnet-edge[cpu]'"
        ) from error
    return onnxruntime


class OnnxRuntimeSession(Session):
    """A graph loaded into ONNX Runtime.

    Args:
        model: A file, or a model in memory.
        threads: Intra-op threads; 0 lets ONNX Runtime take all cores.
        optimise: What ONNX Runtime may change. ``all``: its default, Q/DQ pairs become integer
            kernels. ``float``: Q/DQ pairs stay as written, what lies between them is fused, to
            the same sums in another order. ``none``: nothing. In all three FP16 is computed in FP32
            and not rounded between operations (`resnet_edge.graph.stand_in` does that).
        gpu: Use the CUDA provider where this ONNX Runtime has one; FP32 stays FP32 (no TF32).
        spin: Let idle threads of ONNX Runtime wait busily, which is its default and lowers the
            latency. Off where other threads work at the same time and need the cores.

    Attributes:
        provider: Execution provider that runs what it can; the CPU's runs the rest.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        GraphError: It refuses the model.
    """

    def __init__(
        self,
        model: Path | ModelProto,
        *,
        threads: int = 0,
        optimise: Optimise = "all",
        gpu: bool = False,
        spin: bool = True,
    ) -> None:
        onnxruntime = _load()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if optimise == "float":
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if optimise == "none":
            level = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = level.ORT_DISABLE_ALL
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = str(model) if isinstance(model, PathLike) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=_providers(onnxruntime, gpu=gpu)
            )
        except Exception as error:  # its exception classes are private
            name = str(model) if isinstance(model, PathLike) else "the model"
            raise GraphError(f"ONNX Runtime cannot load {name}: {error}") from error
        self.inputs = tuple(_spec(i) for i in self._session.get_inputs())
        self.outputs = tuple(_spec(o) for o in self._session.get_outputs())
        self.provider: str = self._session.get_providers()[0]
        self._names = [o.name for o in self.outputs]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once and return every output."""
        try:
            values = self._session.run(self._names, feed)
        except Exception as error:  # its exception classes are private
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
            raise GraphError(f"ONNX Runtime cannot run the model on {shapes}: {error}") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _providers(onnxruntime: Any, *, gpu: bool) -> list[Any]:
    """Return what to run on; TF32, which keeps 10 bits of a float, is for speed at a price."""
    cuda: list[Any] = []
    if gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        _preload(onnxruntime)
        cuda = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    return [*cuda, "CPUExecutionProvider"]


def _preload(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from their packages, where ONNX Runtime does not look by itself.

    It prints what it does not find; the session then says what it lacks.
    """
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _spec(node: Any) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else None for d in node.shape)
    return TensorSpec(node.name, shape, _DTYPES.get(node.type, node.type))
