"""ONNX Runtime on the CPU: runs FP32, FP16 and Q/DQ graphs on any machine."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from resnet_edge.backends.base import Availability, Session, TensorSpec
from resnet_edge.errors import BackendUnavailableError, GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["OnnxRuntimeSession", "probe"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
}


def probe() -> Availability:
    """Say whether ONNX Runtime is installed, and with which providers."""
    try:
        import onnxruntime
    except ImportError:
        return Availability(False, None, "not installed: pip install 'resnet-edge[cpu]'")
    providers = ", ".join(onnxruntime.get_available_providers())
    return Availability(True, onnxruntime.__version__, providers)


class OnnxRuntimeSession(Session):
    """A graph loaded into ONNX Runtime.

    Args:
        model: A file, or a model in memory.
        threads: Intra-op threads; 0 lets ONNX Runtime take all cores.
        exact: Keep the graph as written instead of optimising it. Checking numerics needs that;
            speed does not.
        gpu: Use the CUDA provider where this ONNX Runtime has one.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        GraphError: It refuses the model.
    """

    def __init__(
        self, model: Path | ModelProto, *, threads: int = 0, exact: bool = False, gpu: bool = False
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendUnavailableError(
                "ONNX Runtime is not installed", hint="pip install 'resnet-edge[cpu]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if exact:
            level = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = level.ORT_DISABLE_ALL
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


def _providers(onnxruntime: Any, *, gpu: bool) -> list[str]:
    wanted = ["CUDAExecutionProvider"] if gpu else []
    return [
        *(p for p in wanted if p in onnxruntime.get_available_providers()),
        "CPUExecutionProvider",
    ]


def _spec(node: Any) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else None for d in node.shape)
    return TensorSpec(node.name, shape, _DTYPES.get(node.type, node.type))
