"""How a model runs: ONNX Runtime, and device memory as a kernel sees it."""

from __future__ import annotations

import ctypes
from typing import Any

from tests.emulation import control

__all__ = ["array_at", "session"]


def array_at(address: int, shape: tuple[int, ...], dtype: str) -> Any:
    """Return device memory as an array, as a kernel sees it.

    Raises:
        MemoryError: It is no device memory.
    """
    import numpy as np

    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not control.is_device_memory(address, nbytes):
        raise MemoryError(f"{nbytes} bytes at {address:#x} are no device memory")
    memory = (ctypes.c_ubyte * nbytes).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)


def session(model: Any, *, every_tensor: bool = False) -> tuple[Any, list[str]]:
    """Return ONNX Runtime with a model, and the names of what it gives."""
    import onnx
    import onnxruntime

    if every_tensor:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        model = copied
        given = {value.name for value in model.graph.output}
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        model.graph.output.extend(value for value in inferred if value.name not in given)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    runner = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return runner, [value.name for value in model.graph.output]
