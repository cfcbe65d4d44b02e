"""A CIFAR-style ResNet with every channel rescaled: the same FP32 function, hard to quantize."""

from __future__ import annotations

from pathlib import Path

import torch

from resnet_edge.models.checkpoint import load_model, read_checkpoint, save_checkpoint
from resnet_edge.models.resnet import BasicBlock


def outlier_checkpoint(source: Path, folder: Path, *, decades: float = 2.0, seed: int = 1) -> Path:
    """Write the rescaled twin of a checkpoint; factors are log-uniform, 1 to ``10 ** decades``.

    Only for basic blocks with option-A shortcuts, which have no parameters. As the fixture
    ``outlier_bundle`` in tests/quantize/test_budget.py, whose network this is for the shipped
    checkpoint.
    """
    checkpoint = read_checkpoint(source)
    model = load_model(checkpoint)
    generator = torch.Generator().manual_seed(seed)

    def factors(count: int) -> torch.Tensor:
        return 10 ** (decades * torch.rand(count, generator=generator))

    def scale(norm: torch.nn.BatchNorm2d, by: torch.Tensor) -> None:
        norm.weight.mul_(by)
        norm.bias.mul_(by)

    with torch.no_grad():
        stream = factors(model.bn1.num_features)
        scale(model.bn1, stream)
        for name in model.stage_names:
            for block in model.get_submodule(name).children():
                if not isinstance(block, BasicBlock) or any(
                    True for _ in (block.downsample or torch.nn.Identity()).parameters()
                ):
                    raise SystemExit(f"{source}: only basic blocks with option-A shortcuts")
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
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.stem}-rescaled.safetensors"
    save_checkpoint(
        path, model, name=checkpoint.architecture, image_spec=checkpoint.image_spec,
        labels=checkpoint.labels, provenance={"made by": "benchmarks/outlier.py"},
    )  # fmt: skip
    return path
