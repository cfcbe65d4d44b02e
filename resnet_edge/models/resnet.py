"""The residual network of He et al. 2015 (arXiv 1512.03385), its plain twin and its descendants.

ResNeXt (arXiv 1611.05431), Wide ResNet (1605.07146), ResNet-D (1812.01187) and SE-ResNet
(1709.01507) are settings of the same blocks. Parameter names are torchvision's and timm's, so that
their state dicts load without renaming.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional

from resnet_edge.models.resnet_config import ResNetConfig, Shortcut

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "ResNetConfig",
    "SqueezeExcitation",
    "count_macs",
    "without_weights",
]


def conv3x3(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with padding 1 and no bias (batch norm follows)."""
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution with no bias (batch norm follows)."""
    return nn.Conv2d(c_in, c_out, 1, stride, bias=False)


class ZeroPadShortcut(nn.Module):
    """Option A: keep every ``stride``-th pixel, pad the missing channels with zeros.

    The zeros go half in front and half behind, as in the widely used CIFAR checkpoints;
    the option has no parameters, so a checkpoint cannot say where its author put them.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        front = (c_out - c_in) // 2
        self.pad = (0, 0, 0, 0, front, c_out - c_in - front)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map N x c_in x H x W to N x c_out x ceil(H/stride) x ceil(W/stride)."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], self.pad)


def make_shortcut(option: Shortcut, c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """Return the module on a skip connection, or None for the identity."""
    same_shape = stride == 1 and c_in == c_out
    if same_shape and option != "C":
        return None
    if option == "A":
        return ZeroPadShortcut(c_in, c_out, stride)
    if option == "D":
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        return nn.Sequential(
            pool if stride == 2 else nn.Identity(), conv1x1(c_in, c_out), nn.BatchNorm2d(c_out)
        )
    return nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate in 0–1 that is computed from all channels' averages."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape N x channels x H x W."""
        gate = self.fc2(self.relu(self.fc1(self.avgpool(x))))
        return x * torch.sigmoid(gate)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and, unless plain, a skip: y = relu(F(x) + x)."""

    expansion = 1

    def __init__(
        self, c_in: int, width: int, stride: int, config: ResNetConfig, squeezed: int = 0
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcitation(width, squeezed) if squeezed else None
        self.relu = nn.ReLU(inplace=True)
        self.residual = config.residual
        self.downsample = (
            make_shortcut(config.shortcut, c_in, width, stride) if config.residual else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N x c_in x H x W to N x width x H/stride x W/stride."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        return cast("Tensor", self.relu(out))


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand by 4 and, unless plain, a skip: y = relu(F(x) + x)."""

    expansion = 4

    def __init__(
        self, c_in: int, width: int, stride: int, config: ResNetConfig, squeezed: int = 0
    ) -> None:
        super().__init__()
        c_out = width * self.expansion
        inner = width * config.base_width // 64 * config.groups
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1 = conv1x1(c_in, inner, first)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, second, config.groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, c_out)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.se = SqueezeExcitation(c_out, squeezed) if squeezed else None
        self.relu = nn.ReLU(inplace=True)
        self.residual = config.residual
        self.downsample = (
            make_shortcut(config.shortcut, c_in, c_out, stride) if config.residual else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N x c_in x H x W to N x 4*width x H/stride x W/stride."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.se is not None:
            out = self.se(out)
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        return cast("Tensor", self.relu(out))


def make_stem(config: ResNetConfig) -> tuple[nn.Module, int]:
    """Return what stands before the first batch norm, and its output channels."""
    widths = config.stem_widths or (config.widths[0],)
    if config.stem == "imagenet":
        return nn.Conv2d(config.in_channels, widths[0], 7, 2, padding=3, bias=False), widths[0]
    if config.stem == "small":
        return conv3x3(config.in_channels, widths[0]), widths[0]
    first, second, third = widths
    layers = (
        conv3x3(config.in_channels, first, 2), nn.BatchNorm2d(first), nn.ReLU(inplace=True),
        conv3x3(first, second), nn.BatchNorm2d(second), nn.ReLU(inplace=True),
        conv3x3(second, third),
    )  # fmt: skip
    return nn.Sequential(*layers), third


class ResNet(nn.Module):
    """A residual network, or its plain twin, as ``config`` says.

    Convolutions start from He initialisation (fan-out), batch norms from weight 1 and bias 0.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        block = BasicBlock if config.block == "basic" else Bottleneck
        self.conv1, c_in = make_stem(config)
        self.maxpool: nn.Module = (
            nn.Identity() if config.stem == "small" else nn.MaxPool2d(3, 2, padding=1)
        )
        self.bn1 = nn.BatchNorm2d(c_in)
        self.relu = nn.ReLU(inplace=True)
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(config.layers)))
        for i, (name, count) in enumerate(zip(self.stage_names, config.layers, strict=True)):
            squeezed = config.se_widths[i] if config.se_widths else 0
            blocks = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(c_in, config.widths[i], stride, config, squeezed))
                c_in = config.widths[i] * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c_in, config.num_classes) if config.num_classes else nn.Identity()
        if not next(self.parameters()).is_meta:  # its random numbers load half of PyTorch
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images N x in_channels x H x W to N x config.outputs: logits, or features."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return cast("Tensor", self.fc(torch.flatten(self.avgpool(x), 1)))


def without_weights(config: ResNetConfig) -> ResNet:
    """Build a network on the meta device: names, shapes and layers, but no memory."""
    with torch.device("meta"):
        return ResNet(config)


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Count multiply-adds of convolutions and linear layers for one image.

    Args:
        model: Any module that maps one image batch to logits.
        input_shape: Channels, height, width.

    Returns:
        Multiply-adds; the paper's "FLOPs" of Table 1 are these.
    """
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            weights_per_output = module.weight[0].numel()
            total += output.numel() * weights_per_output
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    was_training = model.training
    model.eval()
    hooks = [
        m.register_forward_hook(count)
        for m in model.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    parameter = next(model.parameters())
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return total
