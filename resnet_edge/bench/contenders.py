"""What of a bundle can be timed on this machine."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

from resnet_edge.backends.loading import check_builder
from resnet_edge.backends.registry import get_backend
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL
from resnet_edge.bundle.provenance import builds, checkpoint_of
from resnet_edge.bundle.sidecar import read_sidecar
from resnet_edge.errors import EngineMismatchError

__all__ = ["Contender", "contenders"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        backend: ``pytorch``, or the name of a backend.
        precision: ``fp32``, ``fp16`` or ``int8``.
        file: Checkpoint, ONNX file or engine.
        trusted: The user vouches for an engine that was not built here.
    """

    backend: str
    precision: str
    file: Path
    trusted: bool = False


def contenders(
    bundle: Bundle, checkpoint: Path | None = None, *, trusted: bool = False
) -> list[Contender]:
    """Return what can be timed on this machine: PyTorch, the float ONNX, engines that run here.

    Args:
        bundle: Where they are.
        checkpoint: The bundle's checkpoint, if it moved since the export.
        trusted: The user vouches for engines that were not built here; others are left out.
    """
    found = []
    source = checkpoint or checkpoint_of(bundle)
    in_pytorch = bundle.model.architecture != "onnx" and importlib.util.find_spec("torch")
    if in_pytorch and source is not None and source.exists():
        found.append(Contender("pytorch", "fp32", source))
    found.append(Contender("onnxruntime", "fp32", bundle.artifact(MODEL)))
    for name in builds(bundle):
        engine = bundle.artifact(name)
        sidecar = read_sidecar(engine)
        is_the_model = sidecar.backend == "onnxruntime" and sidecar.precision == "fp32"
        if is_the_model or get_backend(sidecar.backend).obstacle(sidecar) is not None:
            continue
        try:
            check_builder(engine, sidecar, trusted=trusted)
        except EngineMismatchError as error:
            log.warning("left out: %s (%s)", error.message, error.hint)
            continue
        found.append(Contender(sidecar.backend, sidecar.precision, engine, trusted))
    return found
