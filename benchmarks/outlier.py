"""The shipped ResNet-20 with every channel rescaled: the same FP32 function, hard to quantize."""

from __future__ import annotations

from pathlib import Path

import torch

from resnet_edge.models.checkpoint import load_model, read_checkpoint, save_checkpoint
from resnet_edge.models.resnet import BasicBlock
from resnet_edge.resources import CHECKPOINT, find


def outlier_checkpoint(folder: Path, *, decades: float = 2.0, seed: int = 1) -> Path:
    """Write the rescaled checkpoint; factors are log-uniform from 1 to ``10 ** decades``."""
    checkpoint = read_checkpoint(find(CHECKPOINT))
    model = load_model(checkpoint)
    generator = torch.Generator().manual_seed(seed)

    def factors(count: int) -> torch.Tensor:
        return 10 ** (decades * torch.rand(count, generator=generator))

    def scale(norm: torch.nn.BatchNorm2d, by: torch.Tensor) -> None:
        norm.weight *= by
        norm.bias *= by

    with torch.no_grad():
        stream = factors(16)
        scale(model.bn1, stream)
        for name in model.stage_names:
            for block in model.get_submodule(name):
                assert isinstance(block, BasicBlock)
                inner = factors(block.conv1.out_channels)
                scale(block.bn1, inner)
                block.conv2.weight /= inner[None, :, None, None]
                block.conv1.weight /= stream[None, :, None, None]
                if block.conv2.out_channels > len(stream):  # option A pads the stream
                    wider = factors(block.conv2.out_channels)
                    front = (len(wider) - len(stream)) // 2
                    wider[front : front + len(stream)] = stream
                    stream = wider
                scale(block.bn2, stream)
        model.fc.weight /= stream[None]
    path = folder / "resnet20-rescaled.safetensors"
    save_checkpoint(
        path, model, name="resnet20", image_spec=checkpoint.image_spec, labels=checkpoint.labels,
        provenance={"made by": "benchmarks/outlier.py"},
    )  # fmt: skip
    return path
