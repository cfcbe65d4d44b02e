"""Write ``fixtures/``: key lists and known logits of the models of other toolkits.

Needs an environment of its own, with another torch build than the project's::

    pip install torch torchvision timm transformers resnet-edge
    pip install --no-deps mmpretrain mmengine 'mmcv-lite<2.2' addict yapf termcolor einops mat4py
    python -m tests.models.make_fixtures --nvidia FOLDER

FOLDER is ``PyTorch/Classification/ConvNets`` of a clone of NVIDIA's DeepLearningExamples, which is
no package. Without it, or without MMPretrain, that source's fixtures stay as they are. What is
written to stdout are the versions used.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import torch

from tests.models.real_models import FIXTURES, Shapes, known_logits, values, write_key_lists

if TYPE_CHECKING:
    from collections.abc import Callable

Build = dict[str, "Callable[[], Any]"]
INPUT = (2, 3, 65, 65)  # odd, so that rounding in pools and strides shows

TORCHVISION = (  # noqa: SIM905
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d "
    "resnext101_64x4d wide_resnet50_2 wide_resnet101_2 "
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 mnasnet0_5 "
    "mobilenet_v3_small regnet_x_400mf regnet_y_400mf shufflenet_v2_x0_5 squeezenet1_0 swin_t "
    "vgg11 vgg11_bn vit_b_16 fasterrcnn_resnet50_fpn deeplabv3_resnet50 retinanet_resnet50_fpn"
).split()
TIMM = (  # noqa: SIM905
    "resnet18 resnet26 resnet34 resnet50 resnet101 resnet152 resnet200 "
    "resnet18d resnet26d resnet34d resnet50d resnet101d resnet152d resnet200d "
    "resnet10t resnet14t resnet26t resnet50t resnet50c resnet50s "
    "resnext50_32x4d resnext50d_32x4d resnext101_32x4d resnext101_32x8d resnext101_64x4d "
    "wide_resnet50_2 wide_resnet101_2 seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 "
    "seresnet152d seresnext50_32x4d seresnext26d_32x4d seresnext101_32x4d seresnext101_32x8d "
    "resnetaa50 resnetblur50 "
    "legacy_seresnet50 ecaresnet50d skresnet18 res2net50_26w_4s resnest14d resnet50_gn resnetv2_50 "
    "resnetrs50 cspresnet50 nf_resnet50 resnet50_clip regnetx_002 tresnet_m gcresnet50t resnet33ts "
    "resnet51q vit_tiny_patch16_224 mobilenetv3_small_100 convnext_atto efficientnet_b0 hrnet_w18"
).split()
LOGITS = {
    "torchvision": ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"),
    "timm": ("resnet18", "resnet18d", "resnet26d", "resnet26t", "resnet50d", "resnet50s",
             "seresnet18", "seresnet50", "seresnext50_32x4d"),
    "huggingface": ("resnet-18", "resnet-50", "resnet-50-v1"),
    "mmpretrain": ("resnet18", "resnet50", "resnet_v1c50", "resnet_v1d50", "resnext50",
                   "seresnet50"),
    "nvidia": ("resnet50", "resnext101-32x4d", "se-resnext101-32x4d"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvidia", type=Path)
    arguments = parser.parse_args()
    sources = {"torchvision": torchvision(), "timm": timm(), "huggingface": huggingface()}
    if importlib.util.find_spec("mmpretrain"):
        sources["mmpretrain"] = mmpretrain()
    if arguments.nvidia:
        sources["nvidia"] = nvidia(arguments.nvidia)
    logits = known_logits() if (FIXTURES / "logits.json").exists() else {}
    for source, builders in sources.items():
        write_key_lists(source, {name: shapes_of(build) for name, build in builders.items()})
        logits[source] = {name: logits_of(builders[name]) for name in LOGITS[source]}
        _say(source, f"{len(builders)} models")
        (FIXTURES / "logits.json").write_text(json.dumps(logits, indent=1) + "\n")


def _say(source: str, what: str) -> None:
    sys.stdout.write(f"{source} {what}\n")
    sys.stdout.flush()


def torchvision() -> Build:
    module = importlib.import_module("torchvision")
    _say("torchvision", module.__version__)
    options = {"weights": None}
    heads = {"weights": None, "weights_backbone": None}
    return {
        name: lambda name=name: module.models.get_model(
            name, **(heads if "resnet50_fpn" in name or "deeplab" in name else options)
        )
        for name in TORCHVISION
    }


def timm() -> Build:
    module = importlib.import_module("timm")
    _say("timm", module.__version__)
    return {name: lambda name=name: module.create_model(name) for name in TIMM}


def huggingface() -> Build:
    module = importlib.import_module("transformers")
    _say("transformers", module.__version__)
    basic, bottleneck = (64, 128, 256, 512), (256, 512, 1024, 2048)

    def resnet(depths: tuple[int, ...], sizes: tuple[int, ...], **options: Any) -> Any:
        config = module.ResNetConfig(
            depths=depths, hidden_sizes=sizes, num_labels=10,
            layer_type="basic" if sizes == basic else "bottleneck", **options,
        )  # fmt: skip
        return module.ResNetForImageClassification(config)

    return {
        "resnet-18": lambda: resnet((2, 2, 2, 2), basic),
        "resnet-34": lambda: resnet((3, 4, 6, 3), basic),
        "resnet-50": lambda: resnet((3, 4, 6, 3), bottleneck),
        "resnet-50-v1": lambda: resnet((3, 4, 6, 3), bottleneck, downsample_in_bottleneck=True),
        "resnet-101": lambda: resnet((3, 4, 23, 3), bottleneck),
        "resnet-152": lambda: resnet((3, 8, 36, 3), bottleneck),
        "regnet-x": lambda: module.RegNetForImageClassification(
            module.RegNetConfig(layer_type="x", depths=[1, 1, 1, 1])
        ),
        "regnet-y": lambda: module.RegNetForImageClassification(
            module.RegNetConfig(layer_type="y", depths=[1, 1, 1, 1])
        ),
        "vit": lambda: module.ViTForImageClassification(module.ViTConfig(num_hidden_layers=1)),
        "convnext": lambda: module.ConvNextForImageClassification(module.ConvNextConfig()),
    }


def mmpretrain() -> Build:
    # A dependency that only reads model cards; its package on the index is empty.
    for name in ("modelindex", "modelindex.load_model_index", "modelindex.models.Model"):
        sys.modules.setdefault(name, MagicMock())
    module = importlib.import_module("mmpretrain")
    importlib.import_module("mmpretrain.models")
    _say("mmpretrain", module.__version__)

    def classifier(kind: str, depth: int, features: int, **options: Any) -> Any:
        return module.models.ImageClassifier(
            backbone={"type": kind, "depth": depth, **options},
            neck={"type": "GlobalAveragePooling"},
            head={"type": "LinearClsHead", "num_classes": 10, "in_channels": features},
        )

    return {
        "resnet18": lambda: classifier("ResNet", 18, 512),
        "resnet50": lambda: classifier("ResNet", 50, 2048),
        "resnet_v1c50": lambda: classifier("ResNetV1c", 50, 2048),
        "resnet_v1d50": lambda: classifier("ResNetV1d", 50, 2048),
        "resnext50": lambda: classifier("ResNeXt", 50, 2048, groups=32, width_per_group=4),
        "seresnet50": lambda: classifier("SEResNet", 50, 2048),
        "resnet18_cifar": lambda: classifier("ResNet_CIFAR", 18, 512),
    }


def nvidia(folder: Path) -> Build:
    # The package's __init__ pulls in data loading and DALI; only the model files are wanted.
    for name, path in (("nv", ""), ("nv.models", "models")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / "image_classification" / path)]
        sys.modules[name] = package
    module = importlib.import_module("nv.models.resnet")
    return {
        name: lambda name=name: getattr(module, name.replace("-", "_"))(False)
        for name in ("resnet50", "resnext101-32x4d", "se-resnext101-32x4d")
    }


def shapes_of(build: Callable[[], Any]) -> Shapes:
    try:
        with torch.device("meta"):
            state = build().state_dict()
    except RuntimeError:  # some compute their widths with tensors
        state = build().state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def logits_of(build: Callable[[], Any]) -> list[list[float]]:
    """Run the real model on weights and images that ``values`` makes out of nothing."""
    model = build().eval()
    state = model.state_dict()
    model.load_state_dict(
        {k: torch.from_numpy(values(k, tuple(v.shape))).to(v.dtype) for k, v in state.items()}
    )
    with torch.inference_mode():
        output = model(torch.from_numpy(values("input.bias", INPUT)) * 3)
    output = getattr(output, "logits", output)
    return [[round(float(v), 6) for v in row[:10]] for row in output]


if __name__ == "__main__":
    main()
