"""Loggers, the network definition, and the parser that fills it from ONNX."""

from __future__ import annotations

import enum
import weakref
from typing import Any

from tests.emulation.fake_tensorrt import state

__all__ = ["CLASSES", "dims", "dtype_name", "graph_inputs"]

_LAYERS = {
    "Conv": "CONVOLUTION", "Relu": "ACTIVATION", "MaxPool": "POOLING", "AveragePool": "POOLING",
    "GlobalAveragePool": "REDUCE", "Add": "ELEMENTWISE", "Gemm": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Flatten": "SHUFFLE",
    "Reshape": "SHUFFLE", "Transpose": "SHUFFLE", "Cast": "CAST", "Slice": "SLICE",
    "Pad": "SLICE", "Concat": "CONCATENATION",
}  # fmt: skip
_DTYPES = {
    "FLOAT": "FLOAT", "FLOAT16": "HALF", "INT8": "INT8", "UINT8": "UINT8", "INT32": "INT32",
    "INT64": "INT64", "BOOL": "BOOL",
}  # fmt: skip


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self._constructed = True


class Logger:
    Severity = ILogger.Severity

    def __init__(self, min_severity: Any = ILogger.Severity.WARNING) -> None:
        self._constructed, self.min_severity = True, min_severity

    def log(self, severity: Any, msg: str) -> None:
        pass


class Dims:
    def __init__(self, shape: Any = ()) -> None:
        self._shape = list(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]

    def __eq__(self, other: object) -> bool:
        return list(other) == self._shape if hasattr(other, "__len__") else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._shape))


class ITensor:
    def __init__(self, value: Any, *, is_input: bool) -> None:
        self._value, self._is_input = value, is_input

    @property
    def name(self) -> str:
        return str(self._value.name)

    @property
    def shape(self) -> Any:
        return self._trt.Dims(dims(self._value))

    @property
    def dtype(self) -> Any:
        return getattr(self._trt.DataType, dtype_name(self._value))

    @property
    def is_network_input(self) -> bool:
        return self._is_input


class ILayer:
    def __init__(self, node: Any, known: dict[str, Any]) -> None:
        self._node, self._known = node, known
        self._precision: Any = None

    @property
    def name(self) -> str:
        return str(self._node.name)

    @property
    def type(self) -> Any:
        kinds = self._trt.LayerType
        return getattr(kinds, _LAYERS.get(self._node.op_type, "SHUFFLE"))

    @property
    def precision(self) -> Any:
        return self._trt.DataType.FLOAT if self._precision is None else self._precision

    @precision.setter
    def precision(self, dtype: Any) -> None:
        self._precision = dtype

    @property
    def num_inputs(self) -> int:
        return len(self._node.input)

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)

    def get_output(self, index: int) -> Any:
        value = self._known.get(self._node.output[index])
        return None if value is None else self._trt.ITensor(value, is_input=False)


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags, self._model = flags, None
        self._inputs: list[Any] = []
        self._layers: list[Any] = []
        self._outputs: list[Any] = []

    def _has(self, flag: str) -> bool:
        flags = self._trt.NetworkDefinitionCreationFlag
        return hasattr(flags, flag) and bool(self._flags >> int(getattr(flags, flag)) & 1)

    @property
    def _needs_batch(self) -> bool:
        return not hasattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def _strong(self) -> bool:
        return self._has("STRONGLY_TYPED") or not hasattr(self._trt.BuilderFlag, "FP16")

    @property
    def _quantized(self) -> bool:
        return any(layer._node.op_type == "QuantizeLinear" for layer in self._layers)

    def _fill(self, model: Any) -> None:
        import onnx

        self._model = model
        inferred = onnx.shape_inference.infer_shapes(model).graph
        known = {value.name: value for value in (*inferred.value_info, *inferred.output)}
        make = self._trt.ITensor
        self._inputs = [make(value, is_input=True) for value in graph_inputs(model)]
        self._outputs = [make(known[value.name], is_input=False) for value in model.graph.output]
        self._layers = [
            self._trt.ILayer(node, known) for node in model.graph.node if node.op_type != "Constant"
        ]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    @property
    def has_implicit_batch_dimension(self) -> bool:
        return False


class ParserError:
    def __init__(self, text: str, node: Any = None, index: int = -1) -> None:
        self._text, self._node, self._index = text, node, index

    def code(self) -> Any:
        return self._trt.ErrorCode.UNSUPPORTED_NODE

    def desc(self) -> str:
        return self._text

    def file(self) -> str:
        return "ModelImporter.cpp"

    def line(self) -> int:
        return 1

    def func(self) -> str:
        return "parseNode"

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return "" if self._node is None else str(self._node.name)

    def node_operator(self) -> str:
        return "" if self._node is None else str(self._node.op_type)


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[Any] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx

        make = self._trt.ParserError
        try:
            proto = onnx.load_model_from_string(model)
        except Exception:  # protobuf's own
            return self._refuse(make("Failed to parse the ONNX model."))
        if path is not None:
            onnx.load_external_data_for_model(proto, str(path).rpartition("/")[0])
        if self._network._needs_batch and not self._network._has("EXPLICIT_BATCH"):
            return self._refuse(make("This parser needs a network with an explicit batch"))
        if "parse" in state.failures:
            return self._refuse(make("Unsupported ONNX opset"))
        for index, node in enumerate(proto.graph.node):
            if not onnx.defs.has(node.op_type, domain=node.domain):
                text = f"No importer registered for op: {node.op_type}"
                return self._refuse(make(text, node, index))
        self._network._fill(proto)
        self._network._parser = weakref.ref(self)
        return True

    def _refuse(self, error: Any) -> bool:
        self._errors.append(error)
        state.say(self._logger, "ERROR", error.desc())
        return False

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()


def graph_inputs(model: Any) -> list[Any]:
    """Return the inputs of a model that are no weights."""
    weights = {weight.name for weight in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def dims(value: Any) -> tuple[int, ...]:
    """Return a shape, -1 where an extent is not fixed."""
    extents = value.type.tensor_type.shape.dim
    return tuple(e.dim_value if e.HasField("dim_value") else -1 for e in extents)


def dtype_name(value: Any) -> str:
    """Return TensorRT's name of an element type."""
    import onnx

    return _DTYPES[onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)]


CLASSES = (ILogger, Logger, Dims, ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser)
