"""What the tests of TensorRT for RTX run on the emulated device."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.backends.registry import get_backend
from resnet_edge.backends.tensorrt.rtx import runtime_cache_path
from resnet_edge.build.stage import build, layers_path
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.reference import Golden
from resnet_edge.catalog.targets import load_target
from resnet_edge.verify.candidate import find_candidate
from tests.backends.tensorrt.rtx_runtime import Emulated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnet_edge.build.stage import BuildResult


class RtxFlow:
    """A bundle, and what is built from it for an RTX 4090.

    Attributes:
        bundle: The bundle.
        emulated: The runtime.
        said: Warnings of ours.
    """

    def __init__(self, path: str) -> None:
        self.emulated = Emulated()
        self.said: list[str] = []
        os.environ["XDG_CACHE_HOME"] = str(Path(path).parent / "cache")  # of this test alone
        self.bundle = Bundle.open(Path(path))
        spec = self.bundle.model.image_spec
        self._inputs = spec.to_input(Golden.load(self.bundle).pixels[:8])
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("resnet_edge").addHandler(handler)

    def build(self, precision: Any) -> BuildResult:
        """Build for real, for 1 to 8 images."""
        config = BuildConfig(precision, profile=(1, 4, 8))
        return build(self.bundle, load_target("rtx-4090"), config)

    def open(self, built: BuildResult) -> Any:
        """Open an engine as the commands do."""
        candidate = find_candidate(self.bundle, engine=built.engine)
        assert candidate.executed == "engine", candidate.obstacle
        return candidate.open()

    def open_unchecked(self, built: BuildResult) -> Any:
        """Open an engine without asking whether it is the one that the bundle knows."""
        return get_backend("tensorrt_rtx").open(built.engine, built.sidecar)

    def feed(self, size: int) -> dict[str, NDArray[Any]]:
        """Return so many of the golden images as the network takes them."""
        return {"input": self._inputs[:size]}

    def error(self, session: Any, built: BuildResult, size: int) -> float:
        """Run, and return how far the outputs are from those of the engine's graph."""
        with OnnxRuntimeSession(self.bundle.path / built.sidecar.onnx, optimise="none") as graph:
            expected = graph.run(self.feed(size))["logits"]
        return float(np.abs(session.run(self.feed(size))["logits"] - expected).max())

    def layers(self, built: BuildResult) -> int:
        """Return how many layers the engine was described with."""
        return len(json.loads(layers_path(built.engine).read_text())["Layers"])

    def kept(self, built: BuildResult) -> list[Any]:
        """Return the runtime cache of an engine, and which file that is."""
        path = runtime_cache_path(built.engine)
        return [path.read_text(), path.stat().st_ino] if path.is_file() else ["", 0]
