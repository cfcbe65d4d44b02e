"""Run by the peers' own Python: quantize one ONNX model with one tool, and say what it took.

    .cache/peers/bin/python benchmarks/peer_worker.py JOB       (JSON, see `main`)
    .cache/peers/bin/python benchmarks/peer_worker.py versions

Every tool reads the same uint8 images and the same normalisation, a batch at a time. Imports are
timed apart. Prints ``RESULT`` and one JSON object. Needs nothing of resnet_edge.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Job = dict[str, Any]
PACKAGES = ("onnxruntime", "nvidia-modelopt", "nncf", "openvino", "onnx", "numpy", "torch")


class Images:
    """Normalised batches of the job's images."""

    def __init__(self, job: Job, key: str = "data") -> None:
        import numpy as np

        self.pixels = np.load(job[key], mmap_mode="r")
        if key == "data":
            self.pixels = self.pixels[: job.get("count")]
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.array(job[key], np.float32)[:, None] for key in ("mean", "std"))
        self.table = (levels[None] - mean) / std

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, size: int) -> Iterator[Any]:
        """Yield float32 N x C x H x W."""
        import numpy as np

        for start in range(0, len(self.pixels), size):
            chunk = self.pixels[start : start + size]
            channels = [np.take(row, chunk[..., c]) for c, row in enumerate(self.table)]
            yield np.stack(channels, axis=1)


class Clock:
    """Time from the making of ONNX Runtime's calibrator to its ranges, graph writing left out."""

    seconds: float | None = None

    def around(self, create: Callable[..., Any], **extra: Any) -> Callable[..., Any]:
        """Wrap a function that makes a calibrator; ``extra`` is added to its options."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            kwargs["extra_options"] = {**kwargs.get("extra_options", {}), **extra}
            calibrator = create(*args, **kwargs)
            compute = calibrator.compute_data

            def finish() -> Any:
                ranges = compute()
                self.seconds = time.perf_counter() - started
                return ranges

            calibrator.compute_data = finish
            return calibrator

        return timed


def reader(job: Job, name: str, batch: int) -> Any:
    """Return a streaming reader for ONNX Runtime and for ModelOpt."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = Images(job)
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.feeds, None)
            return None if found is None else {name: found}

        def get_first(self) -> dict[str, Any]:
            return {name: next(self.images.batches(batch))}

        def rewind(self) -> None:
            self.feeds = self.images.batches(batch)

    return Reader()


def input_name(model: str) -> str:
    """Return the name of a model's only input."""
    import onnx

    return str(onnx.load(model).graph.input[0].name)


def ort(method: str, settings: dict[str, Any], **calibrator: Any) -> Callable[[Job], Job]:
    """Return ONNX Runtime's static quantization with one calibrator."""
    from onnxruntime.quantization import CalibrationMethod, quantize_static

    module = importlib.import_module("onnxruntime.quantization.quantize")
    maker = "create_calibrator"

    def run(job: Job) -> Job:
        clock = Clock()
        create = getattr(module, maker)
        setattr(module, maker, clock.around(create, **calibrator))
        data = reader(job, input_name(job["model"]), job.get("batch", 8))
        chosen = getattr(CalibrationMethod, method)
        quantize_static(job["model"], job["out"], data, calibrate_method=chosen, **settings)
        return {"calibrate_seconds": clock.seconds}

    return run


def ort_u8s8() -> dict[str, Any]:
    """Return what suits x86 CPUs best: uint8 activations, per-channel int8 weights."""
    from onnxruntime.quantization import QuantType

    return {"activation_type": QuantType.QUInt8, "per_channel": True}


def modelopt(method: str) -> Callable[[Job], Job]:
    """Return ModelOpt's ONNX INT8 quantization, the rest in FP32."""
    from modelopt.onnx.quantization import ort_patching, quantize

    def run(job: Job) -> Job:
        clock, batch, name = Clock(), job.get("batch", 1), input_name(job["model"])
        maker = "_create_calibrator_with_extra_options"
        setattr(ort_patching, maker, clock.around(getattr(ort_patching, maker)))
        data = reader(job, name, batch)
        shape = "x".join(map(str, data.get_first()[name].shape))
        quantize(
            onnx_path=job["model"],
            quantize_mode="int8",
            calibration_data_reader=data,
            calibration_shapes=f"{name}:{shape}",
            calibration_method=method,
            calibration_eps=["cpu"],
            output_path=job["out"],
            high_precision_dtype="fp32",
        )
        return {"calibrate_seconds": clock.seconds}

    return run


def nncf(backend: str, *, correct: bool = True, control: bool = False) -> Callable[[Job], Job]:
    """Return NNCF's post-training quantization of an ONNX or an OpenVINO model."""
    import nncf
    import numpy as np
    import onnx
    import openvino

    def run(job: Job) -> Job:
        images, batch = Images(job), job.get("batch", 1)
        feeds = list(range(0, len(images), batch))
        name = input_name(job["model"])
        stream: dict[str, Any] = {"at": len(images), "batches": iter(())}

        def transform(start: int) -> Any:  # items are read in order, as often as NNCF likes
            if stream["at"] != start:
                rest = Images(job)
                rest.pixels = rest.pixels[start:]
                stream["batches"] = rest.batches(batch)
            stream["at"] = start + batch
            return {name: next(stream["batches"])}

        calibration = nncf.Dataset(feeds, transform)
        advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=not correct)
        model = (onnx.load if backend == "onnx" else openvino.Core().read_model)(job["model"])
        if control:
            labels = np.load(job["labels"])[: len(images)]

            def accuracy(compiled: Any, _: Any) -> tuple[float, None]:
                logits = np.concatenate([compiled(b)[0] for b in images.batches(64)])
                return float((logits.argmax(1) == labels).mean()), None

            quantized = nncf.quantize_with_accuracy_control(
                model, calibration, nncf.Dataset(feeds, transform), accuracy,
                max_drop=job["max_drop"] / 100, subset_size=len(feeds),
                advanced_quantization_parameters=advanced,
            )  # fmt: skip
        else:
            quantized = nncf.quantize(
                model, calibration, subset_size=len(feeds), advanced_parameters=advanced
            )
        if backend == "onnx":
            onnx.save(quantized, job["out"])
        else:
            openvino.save_model(quantized, job["out"], compress_to_fp16=False)
        return {}

    return run


def openvino_logits(job: Job) -> None:
    """Run what was written on the test images with OpenVINO and store the logits."""
    import numpy as np
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(job["out"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = [compiled(batch)[0].copy() for batch in Images(job, "test").batches(64)]
    np.save(job["logits"], np.concatenate(logits))


TENSORRT: dict[str, Any] = {
    "per_channel": True,
    "extra_options": {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "AddQDQPairToWeight": True,
    },
}
TOOLS: dict[str, Callable[[], Callable[[Job], Job]]] = {
    "ort-default": lambda: ort("MinMax", {}),
    "ort-u8s8": lambda: ort("MinMax", ort_u8s8()),
    "ort-minmax": lambda: ort("MinMax", TENSORRT),
    "ort-entropy": lambda: ort("Entropy", TENSORRT),
    "ort-entropy-4096": lambda: ort("Entropy", TENSORRT, num_bins=4096),
    "ort-percentile": lambda: ort("Percentile", TENSORRT),
    "modelopt-entropy": lambda: modelopt("entropy"),
    "modelopt-max": lambda: modelopt("max"),
    "nncf-onnx": lambda: nncf("onnx"),
    "nncf-openvino": lambda: nncf("openvino"),
    "nncf-minmax-onnx": lambda: nncf("onnx", correct=False),
    "nncf-minmax-openvino": lambda: nncf("openvino", correct=False),
    "nncf-accuracy-control": lambda: nncf("openvino", control=True),
}


def peak_mb() -> float:
    """Return this process's peak resident memory.

    Not ``getrusage``: its ``ru_maxrss`` starts at what the parent held when it forked.
    """
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def since_start() -> float:
    """Return the seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def versions() -> dict[str, str]:
    """Return the versions of the peers that are installed."""
    known = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    return {name: known[name] for name in PACKAGES if name in known}


def main() -> None:
    """Do one job.

    Keys of a job: ``tool``; ``model``, the float ONNX file; ``data``, uint8 N x H x W x C .npy;
    ``count`` of images; ``mean``, ``std``; ``out``; ``batch``; for accuracy control ``labels``
    (.npy) and ``max_drop`` (points); to have OpenVINO run the result ``test`` and ``logits``.
    """
    if sys.argv[1] == "versions":
        print("RESULT " + json.dumps({"versions": versions()}))
        return
    job = json.loads(sys.argv[1])
    run = TOOLS[job["tool"]]()
    imported, imported_mb, began = since_start(), peak_mb(), time.perf_counter()
    found = run(job)
    result = {
        "seconds": time.perf_counter() - began, **found, "peak_mb": peak_mb(),
        "import_seconds": imported, "import_mb": imported_mb,
    }  # fmt: skip
    if "logits" in job:
        openvino_logits(job)
    print("\nRESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
