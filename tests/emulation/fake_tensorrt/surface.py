"""What each version's real bindings have, recorded so that the fake has exactly that.

``python -m tests.emulation.fake_tensorrt.surface`` records it again; a test says when to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["RECORD", "look", "record"]

RECORD = Path(__file__).with_name("surface.json")
CLASSES = (
    "Builder", "Dims", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext",
    "IHostMemory", "IInt8EntropyCalibrator", "IInt8EntropyCalibrator2", "IInt8LegacyCalibrator",
    "IInt8MinMaxCalibrator", "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile",
    "IProfiler", "IProgressMonitor", "IRuntimeConfig", "ITensor", "ITimingCache", "Logger",
    "OnnxParser", "ParserError", "Runtime",
)  # fmt: skip
ENUMERATIONS = (
    "BuilderFlag", "CalibrationAlgoType", "DataType", "DeviceType", "EngineCapability",
    "ErrorCode", "ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel",
    "LayerInformationFormat", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParserFlag", "PreviewFeature", "ProfilingVerbosity", "QuantizationFlag",
    "RuntimePlatform", "SerializationFlag", "TacticSource", "TempfileControlFlag", "TensorFormat",
    "TensorIOMode", "TensorLocation", "TilingOptimizationLevel",
)  # fmt: skip


def look(classes: list[str], enumerations: list[str]) -> dict[str, Any]:
    """Describe the ``tensorrt`` of this process; runs where the real bindings are."""
    import tensorrt as trt

    def kind(value: Any) -> str:
        if isinstance(value, property):
            return "property" if value.fset else "read-only property"
        return "method" if callable(value) and not isinstance(value, type) else "value"

    return {
        "version": trt.__version__,
        "names": [name for name in dir(trt) if not name.startswith("_")],
        "enumerations": {
            name: {member: int(value) for member, value in getattr(trt, name).__members__.items()}
            for name in enumerations
            if hasattr(trt, name)
        },
        "classes": {
            name: {
                key: kind(value)
                for key, value in vars(getattr(trt, name)).items()
                if not key.startswith("_")
            }
            for name in classes
            if hasattr(trt, name)
        },
    }


def record(version: str) -> dict[str, Any]:
    """Describe the real bindings of a version; see `look`."""
    from tests.emulation.bindings import run_with_bindings

    found: dict[str, Any] = run_with_bindings(version, look, list(CLASSES), list(ENUMERATIONS))
    return found


if __name__ == "__main__":
    from tests.emulation.bindings import VERSIONS

    lines = (f' "{version}": {json.dumps(record(version))}' for version in VERSIONS)
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
