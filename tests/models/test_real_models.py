"""Every model of other toolkits that should load, loads exactly; every other one is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.errors import CheckpointError
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from resnet_edge.models.zoo import ARCHITECTURES
from tests.conftest import require
from tests.models import make_fixtures
from tests.models.real_models import Shapes, key_lists, known_logits, values

if TYPE_CHECKING:
    from pathlib import Path

torch = require("torch")

from resnet_edge.models.adapt import adapt  # noqa: E402
from resnet_edge.models.identify import compare, identify  # noqa: E402

SOURCES = ("torchvision", "timm", "huggingface", "mmpretrain", "nvidia")
WORDS = {
    "torchvision": "torchvision or timm",
    "timm": "torchvision or timm",
    "huggingface": "Hugging Face",
    "mmpretrain": "MMPretrain",
    "nvidia": "NVIDIA DeepLearningExamples",
}
# What a refusal must say; nothing else is refused.
REFUSED = {
    "torchvision": {
        "alexnet": "AlexNet",
        "convnext_tiny": "ConvNeXt",
        "densenet121": "DenseNet",
        "efficientnet_b0": "EfficientNet",
        "googlenet": "Inception",
        "inception_v3": "Inception",
        "mnasnet0_5": "no layer1.0.conv1.weight",
        "mobilenet_v3_small": "MobileNet",
        "regnet_x_400mf": "RegNet",
        "regnet_y_400mf": "RegNet",
        "shufflenet_v2_x0_5": "no layer1.0.conv1.weight",
        "squeezenet1_0": "SqueezeNet",
        "swin_t": "Swin",
        "vgg11": "VGG",
        "vgg11_bn": "VGG",
        "vit_b_16": "vision transformer",
        "fasterrcnn_resnet50_fpn": "larger model with backbone, roi_heads, rpn",
        "retinanet_resnet50_fpn": "larger model with backbone, head",
        "deeplabv3_resnet50": "larger model with",
    },
    "timm": {
        "legacy_seresnet50": "SENet of the older layout",
        "ecaresnet50d": "ECA-Net",
        "skresnet18": "selective-kernel",
        "res2net50_26w_4s": "Res2Net",
        "resnest14d": "split-attention",
        "resnet50_gn": "no running statistics",
        "resnetv2_50": "ResNet v2",
        "resnetrs50": r"unexpected maxpool\.0\.weight.*nearest is resnet50d",
        "cspresnet50": "CSP",
        "nf_resnet50": "stages",
        "resnet50_clip": "stages",
        "regnetx_002": "RegNet",
        "tresnet_m": "no layer1.0.conv1.weight",
        "gcresnet50t": "stages",
        "resnet33ts": "stages",
        "resnet51q": "stages",
        "vit_tiny_patch16_224": "vision transformer",
        "mobilenetv3_small_100": "MobileNet",
        "convnext_atto": "ConvNeXt",
        "efficientnet_b0": "EfficientNet",
        "hrnet_w18": "HRNet",
    },
    "huggingface": {
        "regnet-x": "RegNet",
        "regnet-y": "RegNet",
        "vit": "vision transformer",
        "convnext": "ConvNeXt",
    },
}
# What our names are where they are not the source's own.
OURS = {
    ("huggingface", "resnet-50-v1"): "resnet50",
    ("mmpretrain", "resnext50"): "resnext50_32x4d",
    ("mmpretrain", "resnet_v1d50"): "resnet50d",
    # NVIDIA squeezes to 16 channels everywhere, timm to a sixteenth.
    ("nvidia", "se-resnext101-32x4d"): "seresnext(bottleneck, 3-4-23-3)",
}
ALL = [(source, name) for source in SOURCES for name in key_lists(source)]
ACCEPTED = [(s, n) for s, n in ALL if n not in REFUSED.get(s, {})]
TRIED = [(s, n) for s, models in make_fixtures.LOGITS.items() for n in models]
LARGE = ("wide_resnet50_2", "resnext101-32x4d", "se-resnext101-32x4d")


def weights(shapes: Shapes) -> dict[str, Any]:
    return {k: torch.from_numpy(values(k, shape)) for k, shape in shapes.items()}


@pytest.mark.parametrize(("source", "name"), ACCEPTED)
def test_names_and_shapes_of_a_real_model_are_those_of_one_network(source: str, name: str) -> None:
    tensors = {k: torch.empty(shape, device="meta") for k, shape in key_lists(source)[name].items()}
    adapted = adapt(tensors, "fc")
    shapes = {k: tuple(v.shape) for k, v in adapted.state_dict.items()}
    found = identify(shapes)
    assert compare(found.config, shapes).distance == 0
    assert adapted.source == WORDS[source]
    same = name.replace("resnet-", "resnet").replace("se-", "se").replace("-", "_")
    ours = OURS.get((source, name), same)
    if ours in ARCHITECTURES or (source, name) in OURS:
        assert found.name == ours
    assert len(found.evidence) >= 3


@pytest.mark.parametrize(("source", "name"), [(s, n) for s in REFUSED for n in REFUSED[s]])
def test_a_network_that_is_no_resnet_is_refused_and_named(
    tmp_path: Path, source: str, name: str
) -> None:
    """What is not called like a ResNet must be told by its names alone."""
    shapes = key_lists(source)[name]
    layered = any("layer1.0.conv1.weight" in k for k in shapes)
    tensors = {k: torch.zeros(shape if layered else (1,)) for k, shape in shapes.items()}
    path = tmp_path / "model.pt"
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=REFUSED[source][name]) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("source", "name"),
    [pytest.param(s, n, marks=pytest.mark.slow if n in LARGE else ()) for s, n in TRIED],
)
def test_our_network_gives_the_logits_that_the_real_model_gave(
    tmp_path: Path, source: str, name: str
) -> None:
    path = tmp_path / "model.pt"
    torch.save(weights(key_lists(source)[name]), path)
    model = load_model(read_checkpoint(path, stride_in_1x1=name.endswith("-v1") or None))
    path.unlink()
    with torch.inference_mode():
        images = torch.from_numpy(values("input.bias", make_fixtures.INPUT)) * 3
        logits = model(images)[:, :10].numpy()
    known = np.array(known_logits()[source][name])
    assert np.abs(known).max() > 0.01
    assert np.abs(logits - known).max() <= 1e-4 * np.abs(known).max()


@pytest.mark.parametrize("package", ["torchvision", "timm", "transformers"])
def test_the_stored_models_are_those_that_the_packages_build(package: str, tmp_path: Path) -> None:
    """Runs where the packages are installed, in an environment of their own."""
    require(package)
    source = "huggingface" if package == "transformers" else package
    builders = getattr(make_fixtures, source)()
    for name in make_fixtures.LOGITS[source]:
        assert make_fixtures.shapes_of(builders[name]) == key_lists(source)[name]
        model = builders[name]().eval()
        path = tmp_path / "model.pt"
        torch.save(model.state_dict(), path)
        ours = load_model(read_checkpoint(path, stride_in_1x1=name.endswith("-v1") or None))
        with torch.inference_mode():
            images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
            expected = model(images)
            expected = getattr(expected, "logits", expected)
            assert float((ours(images) - expected).abs().max()) <= 1e-5 * float(
                expected.abs().max()
            )
