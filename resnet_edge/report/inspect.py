"""Say what a file or directory is: checkpoint, bundle, ONNX model or engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnet_edge.backends.tensorrt.engine import RTX_MAGICS
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MANIFEST
from resnet_edge.bundle.sidecar import read_sidecar, sidecar_path
from resnet_edge.errors import ResnetEdgeError
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.operators import Q
from resnet_edge.graph.relabel import opset_of
from resnet_edge.models.checkpoint import read_checkpoint
from resnet_edge.models.identify import describe
from resnet_edge.schema import encode

__all__ = ["inspect"]

# Where nothing says how large the images are.
_ASSUMED_SIZE = {"imagenet": (224, 224), "deep": (224, 224), "small": (32, 32)}


def inspect(path: Path) -> dict[str, Any]:
    """Describe ``path`` as plain JSON values; the key ``kind`` says what it is.

    Raises:
        ResnetEdgeError: It does not exist, or is damaged.
    """
    if not path.exists():
        raise ResnetEdgeError(f"{path} does not exist", hint="check the path")
    if (path / MANIFEST).is_file():
        return _bundle(path)
    if path.is_file():
        with path.open("rb") as stream:
            magic = stream.read(4)
        if sidecar_path(path).is_file() or magic in RTX_MAGICS:
            return _engine(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    return _checkpoint(path)


def _checkpoint(path: Path) -> dict[str, Any]:
    from resnet_edge.models.resnet import count_macs, without_weights

    checkpoint = read_checkpoint(path, head="auto")
    config, spec = checkpoint.config, checkpoint.image_spec
    family, depth = describe(config)
    model = without_weights(config)
    size = _ASSUMED_SIZE[config.stem] if spec is None else spec.crop
    return {
        "kind": "checkpoint",
        "architecture": checkpoint.architecture,
        "family": family,
        "depth": depth,
        "widths": list(config.widths),
        "num_classes": config.num_classes,
        "in_channels": config.in_channels,
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": count_macs(model, (config.in_channels, *size)),
        "source_format": checkpoint.source_format,
        "image_spec": None if spec is None else spec.to_json(),
        "image_spec_source": checkpoint.image_spec_source or "default",
        "labels": None if checkpoint.labels is None else list(checkpoint.labels),
        "config": asdict(config),
        "evidence": list(checkpoint.evidence),
        "sha256": checkpoint.sha256,
        "notes": list(checkpoint.notes),
    }


def _bundle(path: Path) -> dict[str, Any]:
    bundle = Bundle.open(path)
    artifacts = {
        name: {k: getattr(bundle.entry(name), k) for k in ("stage", "bytes", "sha256", "created")}
        for name in bundle.names()
    }
    return {"kind": "bundle", **encode(bundle.model), "artifacts": artifacts}


def _onnx(path: Path) -> dict[str, Any]:
    model = load_graph(path)
    quantized = sum(n.op_type == Q for n in model.graph.node)
    initializers = {i.name for i in model.graph.initializer}
    return {
        "kind": "onnx",
        "opset": opset_of(model),
        "ir_version": model.ir_version,
        "producer": model.producer_name,
        "inputs": {i.name: _shape(i) for i in model.graph.input if i.name not in initializers},
        "outputs": {o.name: _shape(o) for o in model.graph.output},
        "nodes": dict(Counter(n.op_type for n in model.graph.node)),
        "quantize_nodes": quantized,
        "bytes": path.stat().st_size,
        "metadata": {p.key: p.value for p in model.metadata_props},
    }


def _shape(value: Any) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_param or d.dim_value for d in dims]


def _engine(path: Path) -> dict[str, Any]:
    return {"kind": "engine", **asdict(read_sidecar(path)), "bytes": path.stat().st_size}
