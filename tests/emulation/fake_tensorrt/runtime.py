"""Runtime, engine and execution context: ONNX Runtime on the emulated device's memory."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
from typing import Any

from tests.emulation import control
from tests.emulation.fake_tensorrt import state
from tests.emulation.fake_tensorrt.execution import array_at, session
from tests.emulation.fake_tensorrt.network import dims, dtype_name, graph_inputs
from tests.emulation.fake_tensorrt.precision import rounding, scales_in

__all__ = ["CLASSES", "MAGIC"]

MAGIC = b"ptrt"
_NUMPY = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Runtime:
    def __init__(self, logger: Any) -> None:
        if not getattr(logger, "_constructed", False):
            raise TypeError("__init__() must be called when overriding __init__")
        self._logger = logger
        self.DLA_core, self.engine_host_code_allowed = -1, False
        if code := state.cuda_error():
            state.say(logger, "ERROR", f"CUDA initialization failure with error: {code}")
            if hasattr(self._trt.BuilderFlag, "FP16"):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            os.kill(os.getpid(), signal.SIGSEGV)  # TensorRT 11 crashes at the next call

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data = bytes(serialized_engine)
        header, problem = {}, None
        if data[:4] != MAGIC:
            problem = "header.magicTag == kEXPECTED_MAGIC_TAG failed"
        elif "deserialize" in state.failures:
            problem = "Requested amount of GPU memory (1234 bytes) could not be allocated."
        else:
            (length,) = struct.unpack("<I", data[4:8])
            header = json.loads(data[8 : 8 + length])
            problem = self._mismatch(header)
        if problem is not None:
            state.say(self._logger, "ERROR", problem)
            return None
        return self._trt.ICudaEngine(header, data[8 + length :], self._logger)

    def _mismatch(self, header: dict[str, Any]) -> str | None:
        carries_runtime = "VERSION_COMPATIBLE" in header["flags"]
        if carries_runtime and not self.engine_host_code_allowed:
            return "The engine carries host code, which the runtime does not allow."
        if header["version"] != self._trt.__version__ and not carries_runtime:
            return (
                f"The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {self._trt.__version__} got {header['version']}, "
                f"please rebuild."
            )
        if header["capability"] != state.CAPABILITY and header["hardware"] == "NONE":
            return (
                f"The engine plan file is generated on an incompatible device, expecting "
                f"compute {state.CAPABILITY} got compute {header['capability']}, please rebuild."
            )
        if header["dla"] not in (None, self.DLA_core):
            return f"The engine is for DLA core {header['dla']}, the runtime is on another."
        return None


class ICudaEngine:
    def __init__(self, header: dict[str, Any], model: bytes, logger: Any) -> None:
        import onnx

        self._header, self._logger, self._contexts = header, logger, 0
        self._model = onnx.load_model_from_string(model)
        self._inputs = {value.name: value for value in graph_inputs(self._model)}
        outputs = onnx.shape_inference.infer_shapes(self._model).graph.output
        self._outputs = {value.name: value for value in outputs}
        self._tensors = {**self._inputs, **self._outputs}
        self._runner, self._names = session(
            rounding(self._model, header["precisions"], scales_in(header["calibration"]))
        )

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._model.graph.node)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._header["profiles"]))

    @property
    def name(self) -> str:
        return "Unnamed Network 0"

    @property
    def device_memory_size(self) -> int:
        return 4096

    @property
    def device_memory_size_v2(self) -> int:
        return 4096

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(dims(self._tensors[name]))

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, dtype_name(self._tensors[name]))

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        shapes = self._header["profiles"][profile_index][name]
        return [self._trt.Dims(shape) for shape in shapes]

    def create_execution_context(self, *_: Any, **__: Any) -> Any:
        if "context" in state.failures:
            text = "Requested amount of GPU memory (1234 bytes) could not be allocated."
            state.say(self._logger, "ERROR", text)
            return None
        return self._trt.IExecutionContext(self)

    def create_engine_inspector(self) -> Any:
        if "inspector" in state.failures:
            state.say(self._logger, "ERROR", "CUDA error 2: out of memory")
            return None
        return self._trt.EngineInspector(self)


class EngineInspector:
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        engine = self._engine
        names = [node.name for node in engine._model.graph.node]
        layers: list[Any] = names
        if engine._header["detailed"]:
            layers = [self._layer(node) for node in engine._model.graph.node]
        tensors = "Bindings" if hasattr(self._trt.BuilderFlag, "FP16") else "I/O Tensors"
        return json.dumps({"Layers": layers, tensors: list(engine._tensors)})

    def _layer(self, node: Any) -> dict[str, Any]:
        precision = self._engine._header["precisions"].get(node.output[0], "FLOAT")
        quantized = any("dequantized" in name for name in node.input)
        names = {"INT8": "Int8", "HALF": "Half", "FLOAT": "FP32"}
        kind = "Int8" if quantized else names[precision]
        described = (
            {"Format/Datatype": f"Row major linear {kind} format"}
            if hasattr(self._trt.BuilderFlag, "FP16")
            else {"Format": "Row major linear", "DataType": kind}
        )
        ports = {
            key: [{"Name": name, "Dimensions": [], **described} for name in names]
            for key, names in (("Inputs", node.input), ("Outputs", node.output))
        }
        return {"Name": node.name, "LayerType": node.op_type, **ports, "TacticName": "emulated"}


class IExecutionContext:
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._first = engine._contexts == 0
        self._profile = 0 if self._first else None  # only a first one has a profile by itself
        engine._contexts += 1
        self._shapes = {
            name: shape for name, v in engine._inputs.items() if -1 not in (shape := dims(v))
        }
        self._addresses: dict[str, int] = {}
        # What was enqueued, once each: a graph may run it again at any time.
        self._enqueued: list[tuple[dict[str, tuple[int, ...]], dict[str, int]]] = []
        self._callback = _HOST_FUNCTION(self._compute)

    @property
    def engine(self) -> Any:
        return self._engine

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if profile_index >= self._engine.num_optimization_profiles:
            return False
        if not (self._first or self._engine._header["sharing"]):
            text = f"Profile {profile_index} has been chosen for another IExecutionContext."
            state.say(self._engine._logger, "ERROR", text)
            return False
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        shape = tuple(shape)
        value = self._engine._inputs.get(name)
        if value is None or self._profile is None or "shape" in state.failures:
            return False
        profiles = self._engine._header["profiles"]
        if not profiles:
            return shape == dims(value)
        low, _, high = profiles[self._profile][name]
        fits = len(shape) == len(low)
        if not fits or not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            text = f"Supplied binding dimension {shape} for {name} is out of profile range"
            state.say(self._engine._logger, "ERROR", text)
            return False
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(self._shape(name))

    def infer_shapes(self) -> list[str]:
        if "infer" in state.failures:
            return list(self._engine._inputs)
        return [name for name in self._engine._inputs if name not in self._shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors or "address" in state.failures:
            return False
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        missing = [name for name in self._engine._tensors if name not in self._addresses]
        if "execute" in state.failures or missing or self.infer_shapes():
            text = f"Address is not set for {missing}" if missing else "Cask convolution execution"
            state.say(self._engine._logger, "ERROR", text)
            return False
        shapes = {name: self._shape(name) for name in self._engine._tensors}
        wanted = (shapes, dict(self._addresses))
        if wanted not in self._enqueued:
            self._enqueued.append(wanted)
        number = ctypes.c_void_p(self._enqueued.index(wanted) + 1)
        driver = ctypes.CDLL("libcuda.so.1")
        return not driver.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), self._callback, number)

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self._engine._inputs:
            return self._shapes.get(name, dims(self._engine._inputs[name]))
        batch = next(iter(self._shapes.values()))[0] if self._shapes else -1
        return tuple(batch if n == -1 else n for n in dims(self._engine._outputs[name]))

    def _compute(self, number: int) -> None:
        """The kernel. An exception would be lost here; what a real one would do is break."""
        shapes, addresses = self._enqueued[number - 1]
        try:
            arrays = {
                name: array_at(addresses[name], shape, _NUMPY[dtype_name(value)])
                for (name, shape), value in zip(
                    shapes.items(), self._engine._tensors.values(), strict=True
                )
            }
        except MemoryError:
            arrays = {}
        if not arrays or "kernel" in state.failures:
            control.break_device(control.ILLEGAL_ADDRESS)
            return
        feed = {name: arrays[name] for name in self._engine._inputs}
        values = self._engine._runner.run(self._engine._names, feed)
        for name, value in zip(self._engine._names, values, strict=True):
            arrays[name][...] = value


CLASSES = (Runtime, ICudaEngine, EngineInspector, IExecutionContext)
