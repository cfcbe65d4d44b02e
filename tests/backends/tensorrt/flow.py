"""What the tests run on the emulated device: bundles built for an Orin by the fake TensorRT."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.build.implicit import derive_ranges
from resnet_edge.build.stage import build, layers_path
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.reference import Golden
from resnet_edge.catalog.targets import Target
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.progress import SILENT
from resnet_edge.quantize.stage import float_layers, load_table
from tests.emulation.fake_tensorrt.precision import scales_in
from tests.emulation.rounded import rounded_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnet_edge.backends.tensorrt.session import TensorRTSession
    from resnet_edge.build.stage import BuildResult
    from resnet_edge.progress import Progress


class Flow:
    """A bundle, and what is built from it for an Orin with two DLA cores.

    Attributes:
        bundle: The bundle.
        feed: The first golden images as the network takes them.
        target: The Orin.
        cache: Where timing caches go.
    """

    def __init__(self, path: str) -> None:
        self.cache = Path(path).parent / "cache"
        os.environ["XDG_CACHE_HOME"] = str(self.cache)
        self.bundle = Bundle.open(Path(path))
        golden = Golden.load(self.bundle)
        self.feed = {"input": self.bundle.model.image_spec.to_input(golden.pixels[:8])}
        self._golden = golden.logits[:8]
        self.target = Target(
            "orin", "", "tensorrt", "8.7", dla_cores=2, memory_gb=8, soc="tegra234",
            modules=("p1",),
        )  # fmt: skip

    def build(
        self, *, images: str = "", progress: Progress = SILENT, **options: Any
    ) -> BuildResult:
        """Build with these fields of `BuildConfig`; by default FP32 for 1 to 8 images."""
        from resnet_edge.images.opening import open_images

        chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        config = BuildConfig(**{"precision": "fp32", "profile": (1, 8, 8), **chosen})
        source = open_images(Path(images)) if images else None
        return build(self.bundle, self.target, config, images=source, progress=progress)

    def open(self, result: BuildResult) -> TensorRTSession:
        """Open an engine as the commands do."""
        from resnet_edge.verify.candidate import find_candidate

        candidate = find_candidate(self.bundle, engine=result.engine)
        assert candidate.executed == "engine", candidate.obstacle
        session: Any = candidate.open()
        return session

    def expected(self, result: BuildResult) -> NDArray[np.float32]:
        """Return what an engine is to give, rounded where its flags and ranges say so."""
        import tensorrt as trt

        sidecar = result.sidecar
        if not hasattr(trt.BuilderFlag, "FP16") or sidecar.settings.get("strongly_typed"):
            return self.graph_outputs(sidecar.onnx)  # types are in the graph
        return rounded_outputs(
            load_graph(self.bundle.path / sidecar.onnx),
            self.feed,
            half=sidecar.rest == "fp16",
            ranges=self._ranges(result),
            keep_float=float_layers(self.bundle),
        )["logits"]

    def graph_outputs(self, onnx: str = "model.onnx") -> NDArray[np.float32]:
        """Return what ONNX Runtime makes of a graph of the bundle, as it stands there."""
        with OnnxRuntimeSession(self.bundle.path / onnx, optimise="none") as session:
            return session.run(self.feed)["logits"]

    def _ranges(self, result: BuildResult) -> dict[str, float] | None:
        """Return what an implicit build is to know of its tensors: `amax` of each."""
        kind = result.sidecar.settings.get("implicit")
        if kind is None:
            return None
        if kind == "ranges":
            found = {name: r.amax for name, r in load_table(self.bundle).tensors.items()}
            return derive_ranges(load_graph(self.bundle.file("model.onnx")).graph, found)
        scales = scales_in(self.header(result)["calibration"])
        return {name: scale * 127 for name, scale in scales.items()}

    def header(self, result: BuildResult) -> dict[str, Any]:
        """Return what the fake builder was told."""
        data = result.engine.read_bytes()
        end = 8 + int.from_bytes(data[4:8], "little")
        header: dict[str, Any] = json.loads(data[8:end])
        return header

    def facts(self, result: BuildResult) -> dict[str, Any]:
        """Run an engine and return all there is to know about it.

        ``error`` is how far its outputs are from what is expected, ``effect`` how far that is from
        the float network's.
        """
        expected, float_outputs = self.expected(result), self.graph_outputs()
        with self.open(result) as session:
            outputs = [session.run(self.feed)["logits"] for _ in range(4)]
            single = session.run_rows(self.feed["input"][:1])["logits"]
        return {
            "onnx": result.sidecar.onnx,
            "name": result.engine.name,
            "notes": result.sidecar.notes,
            "device": result.sidecar.device,
            "warnings": result.sidecar.warnings,
            "header": self.header(result),
            "layer": json.loads(layers_path(result.engine).read_text())["Layers"][0],
            "error": max(float(np.abs(o - expected).mean()) for o in outputs),
            "effect": float(np.abs(expected - float_outputs).mean()),
            "single": float(np.abs(single - expected[:1]).max()),
            "agreement": float((outputs[0].argmax(1) == self._golden.argmax(1)).mean()),
        }
