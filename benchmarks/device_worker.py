"""One measurement of device_check.py on the GPU, in a process of its own; prints one line of JSON.

PYTHON benchmarks/device_worker.py torch BUNDLE CHECKPOINT
PYTHON benchmarks/device_worker.py onnxruntime BUNDLE GRAPH
PYTHON benchmarks/device_worker.py calibrate BUNDLE IMAGES
PYTHON benchmarks/device_worker.py memory LIBRARY
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from latency_worker import measure, warm_up

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.reference import Golden

BATCHES = (1, 8, 32)
SECONDS, CALLS, WARM_UP = 3.0, 200, 1.0
TRANSFER = 64 << 20  # bytes
CYCLES = 200
CALIBRATION_IMAGES, PERCENT = 512, 99.99


def torch_on_gpu(folder: str, checkpoint: str) -> dict[str, Any]:
    """PyTorch in FP32 (without TF32) and FP16, against the golden logits of the CPU."""
    import torch

    from resnet_edge.export.stage import reload_model

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    bundle = Bundle.open(Path(folder))
    golden = Golden.load(bundle)
    model = reload_model(bundle, Path(checkpoint)).eval().cuda()
    model = model.to(memory_format=torch.channels_last)
    images = torch.from_numpy(bundle.model.image_spec.to_input(golden.pixels)).cuda()
    result: dict[str, Any] = {}
    with torch.inference_mode():
        for precision, kind in (("fp32", torch.float32), ("fp16", torch.float16)):
            network, inputs = model.to(kind), images.to(kind)
            logits = network(inputs).float().cpu().numpy()

            def call(batch: int, network: Any = network, inputs: Any = inputs) -> Callable[[], Any]:
                part = inputs[:batch].contiguous(memory_format=torch.channels_last)

                def once() -> None:
                    network(part)
                    torch.cuda.synchronize()

                return once

            result[precision] = {**compare(logits, golden), "latency_ms": latencies(call)}
    return {"torch": torch.__version__, "cuda": torch.version.cuda, **result}


def onnxruntime_on_gpu(folder: str, graph: str) -> dict[str, Any]:
    """ONNX Runtime's CUDA provider, against the golden logits; copies are in the latency."""
    import onnxruntime

    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession

    bundle = Bundle.open(Path(folder))
    golden = Golden.load(bundle)
    images = bundle.model.image_spec.to_input(golden.pixels)
    with OnnxRuntimeSession(bundle.file(graph), gpu=True) as session:
        if session.provider != "CUDAExecutionProvider":
            raise SystemExit(f"ONNX Runtime fell back to {session.provider}")
        name = session.inputs[0].name
        return {
            "onnxruntime": onnxruntime.__version__,
            **compare(session.run({name: images})["logits"], golden),
            "latency_ms": latencies(lambda batch: lambda: session.run({name: images[:batch]})),
        }


def calibrate_on_gpu(folder: str, images: str) -> dict[str, Any]:
    """Calibrate on the CUDA provider and on the CPU: what each counted, and how long it took.

    ``moved`` is the largest share of a tensor's values that the GPU counted in another bucket.
    Ranges can differ by more: ``entropy`` may choose another of two nearly equal thresholds.
    """
    from resnet_edge.calibrate.auto import ranges_of
    from resnet_edge.calibrate.collect import collect
    from resnet_edge.graph.onnx_model import load_graph
    from resnet_edge.images.opening import open_images
    from resnet_edge.quantize.placement import place

    bundle = Bundle.open(Path(folder))
    model, source = load_graph(bundle.file("model.onnx")), open_images(Path(images))
    indices, points = range(min(CALIBRATION_IMAGES, len(source))), place(model.graph).tensors
    seconds, amax, counts = {}, {}, {}
    for name, gpu in (("gpu, first", True), ("gpu", True), ("cpu", False)):
        started = time.perf_counter()
        found = collect(
            model, points, source, bundle.model.image_spec, indices=indices, gpu=gpu
        ).histograms
        seconds[name] = round(time.perf_counter() - started, 3)
        amax[name] = {
            m: {tensor: r.amax for tensor, r in ranges.items()}
            for m, ranges in ranges_of(found, PERCENT).items()
        }
        counts[name] = {tensor: histogram.counts for tensor, histogram in found.items()}
    moved = {
        tensor: float(np.abs(counts["gpu"][tensor] - wanted).sum() / 2 / wanted.sum())
        for tensor, wanted in counts["cpu"].items()
    }
    return {
        "images": len(indices),
        "tensors": len(points),
        "seconds": seconds,
        "moved": max(moved.values()),
        "ranges_apart": {
            method: max(abs(amax["gpu"][method][t] / wanted - 1) for t, wanted in ranges.items())
            for method, ranges in amax["cpu"].items()
        },
        "bit_identical_again": amax["gpu"] == amax["gpu, first"],
    }


def device_memory(library: str) -> dict[str, Any]:
    """The device-memory layer: data survive a round trip, copies are timed, nothing leaks."""
    from resnet_edge.backends.cuda.device import open_device

    with open_device(library=library) as device, device.stream() as stream:
        host = device.host_buffer((TRANSFER // 4,), "float32", mapped=False)
        buffer = device.alloc(host.nbytes)
        start, middle, end = device.event(), device.event(), device.event()
        sent = np.random.default_rng(0).random(host.array.shape, dtype=np.float32)
        times = []
        for _ in range(10):
            host.array[:] = sent
            start.record(stream)
            stream.copy_to_device(buffer, host.array)
            middle.record(stream)
            stream.synchronize()
            host.array[:] = 0
            stream.copy_to_host(host.array, buffer)
            end.record(stream)
            stream.synchronize()
            if not np.array_equal(host.array, sent):
                raise SystemExit("what came back from the device is not what was sent")
            times.append(middle.elapsed_ms(start))
        free = []
        for _ in range(2):  # the first round is also when the driver takes memory for itself
            for _ in range(CYCLES):
                with device.alloc(1 << 20), device.stream(), device.event():
                    pass
            free.append(device.memory_info()[0])
        before, after = free
        if after < before:
            raise SystemExit(f"{before - after} bytes leaked over {CYCLES} cycles")
        return {
            "library": device.library,
            "gpu": device.properties.name,
            "to_device_gb_s": round(TRANSFER / min(times) / 1e6, 2),
            "free_before": before,
            "free_after": after,
        }


def compare(logits: np.ndarray[Any, Any], golden: Golden) -> dict[str, float]:
    """Return how far logits are from the golden ones."""
    difference = np.abs(logits.astype(np.float32) - golden.logits)
    return {
        "images": len(golden.logits),
        "max_abs": float(difference.max()),
        "max_logit": float(np.abs(golden.logits).max()),
        "agreement": 100 * float((logits.argmax(1) == golden.logits.argmax(1)).mean()),
    }


def latencies(call: Callable[[int], Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Return percentiles per batch size, end to end on the host, in milliseconds."""
    result = {}
    for batch in BATCHES:
        once = call(batch)
        warm_up(once, WARM_UP)
        values = np.array(measure(once, SECONDS, CALLS))
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        result[str(batch)] = {
            "calls": len(values), "p50": float(p50), "p90": float(p90), "p99": float(p99),
        }  # fmt: skip
    return result


def main() -> None:
    """Run what is asked for."""
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "torch": torch_on_gpu, "onnxruntime": onnxruntime_on_gpu, "memory": device_memory,
        "calibrate": calibrate_on_gpu,
    }  # fmt: skip
    print("\n" + json.dumps(kinds[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
