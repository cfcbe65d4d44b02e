"""One measurement of overhead.py, alone in a process. Prints ``RESULT`` and one JSON object.

    PYTHON benchmarks/overhead_worker.py JOB       (JSON: ``task`` and what its function takes)

The tasks of the other side import nothing of resnet_edge.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def build_ours(bundle: str, work: str, target: str, precision: str) -> Result:
    """Build an engine with the stage, its graph being there already."""
    import onnx  # noqa: F401  (imports are done before the clock starts, on both sides)
    import tensorrt_rtx  # noqa: F401

    from resnet_edge.build.stage import BuildConfig, build
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.catalog.targets import load_target

    opened = Bundle.open(Path(shutil.copytree(bundle, work, dirs_exist_ok=True)))
    began = time.perf_counter()
    made = build(opened, load_target(target), BuildConfig(precision))  # type: ignore[arg-type]
    return {"seconds": time.perf_counter() - began, "bytes": made.size}


def build_bare(onnx: str, capability: str, out: str) -> Result:
    """Build an engine with a dozen lines of TensorRT for RTX."""
    import tensorrt_rtx as trt

    began = time.perf_counter()
    size = _bare_engine(trt, onnx, capability, out)
    return {"seconds": time.perf_counter() - began, "bytes": size}


def _bare_engine(trt: Any, onnx: str, capability: str, out: str) -> int:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(onnx):
        raise RuntimeError(parser.get_error(0).desc())
    config, tensor = builder.create_builder_config(), network.get_input(0)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    profile, shape = builder.create_optimization_profile(), tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, (1, *shape), (1, *shape), (1, *shape))
    config.add_optimization_profile(profile)
    engine = bytes(builder.build_serialized_network(network, config))
    Path(out).write_bytes(engine)
    return len(engine)


def flow_ours(bundle: str, work: str, target: str, calibration: str, test: str) -> Result:
    """Calibrate with recipe auto, build the INT8 engine, verify it on other images."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import tensorrt_rtx  # noqa: F401
    import torch  # noqa: F401

    from resnet_edge.build.stage import BuildConfig, build
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.recipes import load_recipe
    from resnet_edge.catalog.targets import load_target
    from resnet_edge.images.opening import open_images
    from resnet_edge.verify.candidate import find_candidate
    from resnet_edge.verify.stage import verify

    opened = Bundle.open(Path(shutil.copytree(bundle, work, dirs_exist_ok=True)))
    clock = Clock()
    calibrate(opened, open_images(Path(calibration)), load_recipe("auto"))
    clock.lap("calibrate")
    made = build(opened, load_target(target), BuildConfig("int8"))
    clock.lap("build")
    found = verify(opened, find_candidate(opened, engine=made.engine), open_images(Path(test)))
    clock.lap("verify")
    return {**clock.result(), "agreement": found.agreement, "bytes": made.size}


def flow_modelopt(
    model: str,
    program: str,
    work: str,
    capability: str,
    calibration: str,
    test: str,
    **normalise: Any,
) -> Result:
    """Calibrate with ModelOpt, build with the bare API, compare with the PyTorch model.

    What it leaves out, the check that nothing of the calibration is in the test among it, would
    make it slower. The PyTorch model comes as an exported program, loaded before the clock starts.
    """
    import numpy as np
    import onnxruntime
    import tensorrt_rtx as trt
    import torch
    from peer_worker import TOOLS, Images, input_name

    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    given, out = folder / "model.onnx", folder / "int8.onnx"
    shutil.copyfile(model, given)  # ModelOpt writes beside its input
    job = {"model": str(given), "out": str(out), "data": calibration, "test": test, "batch": 8}
    job |= normalise
    run = TOOLS["modelopt-entropy"]()
    network = torch.export.load(program).module().to(memory_format=torch.channels_last)
    clock = Clock()
    run(job)
    clock.lap("calibrate")
    size = _bare_engine(trt, str(out), capability, str(folder / "int8.engine"))
    clock.lap("build")
    images = Images(job, "test")
    with torch.inference_mode():
        exact = [network(torch.from_numpy(x)).numpy() for x in images.batches(8)]
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    name = input_name(str(out))
    quantized = [session.run(None, {name: x})[0] for x in images.batches(8)]
    classes = [np.concatenate(logits).argmax(1) for logits in (exact, quantized)]
    clock.lap("verify")
    same = float((classes[0] == classes[1]).mean())
    return {**clock.result(), "agreement": 100 * same, "bytes": size}


class Clock:
    """Seconds of each part and of all."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.parts[name], self._last = now - self._last, now

    def result(self) -> Result:
        """Return the sum and the parts."""
        return {"seconds": sum(self.parts.values()), "parts": self.parts}


def call(onnx: str, blocks: int, calls: int) -> Result:
    """Time calls of a session of ours and of the bare runtime, in turns; CPU microseconds each."""
    import numpy as np
    import onnxruntime

    from resnet_edge.backends.onnxruntime import OnnxRuntimeSession

    bare = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    name, names = bare.get_inputs()[0].name, [o.name for o in bare.get_outputs()]
    ours = OnnxRuntimeSession(Path(onnx))
    feed = {name: np.zeros([d or 1 for d in ours.inputs[0].shape], np.float32)}
    ways: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare.run(names, feed),
        "ours": lambda: ours.run(feed),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for block in range(blocks):
        for way in reversed(ways) if block % 2 else ways:
            began = time.process_time()
            for _ in range(calls):
                ways[way]()
            taken[way].append(1e6 * (time.process_time() - began) / calls)
    return taken


def decode_ours(folder: str) -> Result:
    """Decode, resize, crop and normalise JPEG files on one core; also what came out, as a hash."""
    _one_core()
    from resnet_edge.images.batches import Feeds
    from resnet_edge.images.opening import open_images
    from resnet_edge.images.spec import IMAGENET

    source = open_images(Path(folder))
    began = time.perf_counter()
    batches = [batch for batch, _ in Feeds(source, IMAGENET, 16, range(len(source)))]
    return {"images_per_s": len(source) / (time.perf_counter() - began), "sha256": _hash(batches)}


def decode_torchvision(folder: str) -> Result:
    """Do the same with torchvision's transforms."""
    _one_core()
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    files = sorted(Path(folder).iterdir())
    apply = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    began = time.perf_counter()
    batches = []
    for start in range(0, len(files), 16):
        images = [apply(Image.open(f).convert("RGB")) for f in files[start : start + 16]]
        batches.append(torch.stack(images).numpy())
    return {"images_per_s": len(files) / (time.perf_counter() - began), "sha256": _hash(batches)}


def _one_core() -> None:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def _hash(batches: list[Any]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.tobytes())
    return digest.hexdigest()


TASKS: dict[str, Callable[..., Result]] = {
    "build ours": build_ours,
    "build bare": build_bare,
    "flow ours": flow_ours,
    "flow modelopt": flow_modelopt,
    "call": call,
    "decode ours": decode_ours,
    "decode torchvision": decode_torchvision,
}

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print("RESULT " + json.dumps(TASKS[given.pop("task")](**given)))
