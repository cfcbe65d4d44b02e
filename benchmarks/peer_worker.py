"""Run by the peers' own Python: quantize an ONNX model with one tool.

    .cache/peers/bin/python benchmarks/peer_worker.py TOOL MODEL.onnx DATA.npy OUT.onnx

DATA.npy is float32 N x C x H x W, already preprocessed. Prints one JSON line: seconds of the
quantization without imports, peak resident memory of the process, and versions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

BATCH = 8


def batches(data: np.ndarray[Any, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield feeds of one batch; the last, incomplete one is left out, which ORT cannot take."""
    size = min(BATCH, len(data))
    for start in range(0, len(data) - size + 1, size):
        yield {name: np.ascontiguousarray(data[start : start + size])}


def ort(method: str, *, tensorrt: bool) -> Callable[..., dict[str, str]]:
    """Return ONNX Runtime's static quantization with one calibrator."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, data: np.ndarray[Any, Any], name: str) -> None:
            self.feeds = batches(data, name)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    def run(model: Path, data: np.ndarray[Any, Any], out: Path, name: str) -> dict[str, str]:
        options: dict[str, Any] = {}
        if tensorrt:
            options = {
                "per_channel": True,
                "extra_options": {
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "AddQDQPairToWeight": True,
                },
            }
        quantize_static(
            str(model), str(out), Reader(data, name),
            calibrate_method=getattr(CalibrationMethod, method), **options,
        )  # fmt: skip
        return {"onnxruntime": onnxruntime.__version__}

    return run


def modelopt(method: str) -> Callable[..., dict[str, str]]:
    """Return ModelOpt's ONNX INT8 quantization."""
    import modelopt
    from modelopt.onnx.quantization import quantize

    def run(model: Path, data: np.ndarray[Any, Any], out: Path, name: str) -> dict[str, str]:
        quantize(
            onnx_path=str(model),
            quantize_mode="int8",
            calibration_data={name: data},
            calibration_method=method,
            calibration_eps=["cpu"],
            output_path=str(out),
            high_precision_dtype="fp32",
        )
        return {"nvidia-modelopt": modelopt.__version__}

    return run


def nncf() -> Callable[..., dict[str, str]]:
    """Return NNCF's post-training quantization of an ONNX model."""
    import nncf

    def run(model: Path, data: np.ndarray[Any, Any], out: Path, name: str) -> dict[str, str]:
        dataset = nncf.Dataset(list(batches(data, name)))
        subset = max(1, len(data) // min(BATCH, len(data)))
        quantized = nncf.quantize(onnx.load(model), dataset, subset_size=subset)
        onnx.save(quantized, out)
        return {"nncf": nncf.__version__}

    return run


TOOLS: dict[str, Callable[[], Callable[..., dict[str, str]]]] = {
    "ort-default": lambda: ort("MinMax", tensorrt=False),
    "ort-minmax": lambda: ort("MinMax", tensorrt=True),
    "ort-entropy": lambda: ort("Entropy", tensorrt=True),
    "ort-percentile": lambda: ort("Percentile", tensorrt=True),
    "modelopt-entropy": lambda: modelopt("entropy"),
    "modelopt-max": lambda: modelopt("max"),
    "nncf": nncf,
}


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB.

    From VmHWM: ru_maxrss starts at the memory of the process that forked this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Quantize once and report."""
    tool, model, data, out = sys.argv[1], *map(Path, sys.argv[2:5])
    run = TOOLS[tool]()
    name = onnx.load(model).graph.input[0].name
    array = np.load(data)
    started = time.perf_counter()
    versions = run(model, array, out, name)
    seconds = time.perf_counter() - started
    print("RESULT " + json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "versions": versions}))


if __name__ == "__main__":
    main()
