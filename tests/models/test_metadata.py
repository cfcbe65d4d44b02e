"""Preprocessing, class names and variants that a checkpoint records beside its weights."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from resnet_edge.errors import CheckpointError
from resnet_edge.images.spec import CIFAR10, IMAGENET
from resnet_edge.models import metadata
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from tests.conftest import require

torch = require("torch")
safetensors = require("safetensors.torch") if require("safetensors") else None

from resnet_edge.models.resnet import ResNet, ResNetConfig  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.models.checkpoint import Checkpoint

CONFIG = ResNetConfig("bottleneck", (1, 1), (4, 8), "imagenet", num_classes=3)
HF_CONFIG = {
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "id2label": {"0": "cat", "1": "dog", "2": "größer"},
}
# As Hugging Face writes it for its ResNets.
CONVNEXT = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 224},
    "image_processor_type": "ConvNextImageProcessor",
}
TIMM = {
    "architecture": "resnet50",
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "pretrained_cfg": {
        "input_size": [3, 176, 176],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}


def directory(folder: Path, config: Any = None, preprocessor: Any = None) -> Path:
    safetensors.save_file(ResNet(CONFIG).state_dict(), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def torch_file(path: Path, config: ResNetConfig = CONFIG, **beside: Any) -> Checkpoint:
    torch.save({"state_dict": ResNet(config).state_dict(), **beside}, path)
    return read_checkpoint(path)


def test_a_hugging_face_directory_gives_labels_and_preprocessing(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(directory(tmp_path, HF_CONFIG, CONVNEXT))
    assert checkpoint.labels == ("cat", "dog", "größer")
    assert checkpoint.image_spec == replace(IMAGENET, interpolation="bicubic")
    assert checkpoint.image_spec_source == "preprocessor_config.json"
    assert not any("preprocessing" in note for note in checkpoint.notes)


@pytest.mark.parametrize("stride", [True, False])
def test_hugging_face_records_where_the_stride_is(tmp_path: Path, stride: bool) -> None:
    folder = directory(tmp_path, HF_CONFIG | {"downsample_in_bottleneck": stride})
    checkpoint = read_checkpoint(folder)
    assert checkpoint.config.stride_in_1x1 is stride
    assert checkpoint.stride_known
    assert not any("v1.5" in note for note in checkpoint.notes)
    assert read_checkpoint(folder, stride_in_1x1=not stride).config.stride_in_1x1 is not stride


@pytest.mark.parametrize(
    ("change", "resize", "crop", "interpolation"),
    [
        ({}, 256, 224, "bicubic"),
        ({"size": 160, "resample": 2}, 182, 160, "bilinear"),
        ({"size": {"shortest_edge": 384}}, 384, 384, "bicubic"),
        ({"do_resize": False}, None, 224, "bicubic"),
        (
            {"crop_pct": None, "image_processor_type": "BitImageProcessor",
             "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
            256, 224, "bicubic",
        ),
        (
            {"crop_pct": None, "image_processor_type": "ViTImageProcessor",
             "size": {"height": 200, "width": 200}},
            200, 200, "bicubic",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_image_processors_of_hugging_face_are_understood(
    tmp_path: Path, change: dict[str, Any], resize: int | None, crop: int, interpolation: str
) -> None:
    preprocessor = {k: v for k, v in (CONVNEXT | change).items() if v is not None}
    checkpoint = read_checkpoint(directory(tmp_path, HF_CONFIG, preprocessor))
    spec = checkpoint.image_spec
    assert spec is not None
    assert (spec.resize, spec.crop, spec.interpolation) == (resize, (crop, crop), interpolation)
    warped = any("distort" in note for note in checkpoint.notes)
    assert warped == (crop == 384)


def test_pixels_that_are_not_scaled_or_normalised_are_expressed_as_mean_and_std(
    tmp_path: Path,
) -> None:
    folder = directory(tmp_path, HF_CONFIG, CONVNEXT | {"do_normalize": False})
    spec = read_checkpoint(folder).image_spec
    assert spec is not None
    assert spec.mean == (0.0,) * 3
    assert spec.std == pytest.approx((1.0,) * 3)
    unscaled = {"rescale_factor": 1.0, "image_mean": [127.5] * 3, "image_std": [64] * 3}
    directory(tmp_path, HF_CONFIG, CONVNEXT | unscaled)
    spec = read_checkpoint(folder).image_spec
    assert spec is not None
    assert (spec.mean, spec.std) == ((0.5,) * 3, (64 / 255,) * 3)


def test_a_timm_directory_gives_labels_and_preprocessing(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(directory(tmp_path, TIMM))
    assert checkpoint.labels == ("a", "b", "c")
    spec = checkpoint.image_spec
    assert spec is not None
    assert (spec.resize, spec.crop) == (185, (176, 176))  # floor(176 / 0.95)
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.25,) * 3)
    assert checkpoint.image_spec_source == "pretrained_cfg"


def test_another_crop_mode_of_timm_is_said(tmp_path: Path) -> None:
    config = json.loads(json.dumps(TIMM))
    config["pretrained_cfg"]["crop_mode"] = "squash"
    notes = read_checkpoint(directory(tmp_path, config)).notes
    assert any("'squash'" in note for note in notes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (HF_CONFIG | {"model_type": "vit"}, "says 'vit'"),
        (HF_CONFIG | {"hidden_act": "gelu"}, "activation is 'gelu'"),
        (HF_CONFIG | {"downsample_in_first_stage": True}, "first stage halves"),
        (TIMM | {"architecture": "resnetblur50"}, "smooths before it subsamples"),
        (TIMM | {"architecture": "seresnextaa101d_32x8d"}, "smooths before it subsamples"),
        (TIMM | {"pretrained_cfg": {"mean": ["x"]}}, "pretrained_cfg is malformed"),
        (TIMM | {"pretrained_cfg": {"crop_pct": 1e-320}}, "malformed|preprocessing"),
        (TIMM | {"pretrained_cfg": {"input_size": [1, 28, 28]}}, "preprocessing"),
    ],
)
def test_a_configuration_that_weights_cannot_contradict_is_heeded(
    tmp_path: Path, config: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(directory(tmp_path, config))
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize("preprocessor", [[], "x", {"size": {}}, {"size": "a"}, {"resample": 99}])
def test_a_malformed_preprocessor_is_refused(tmp_path: Path, preprocessor: Any) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(directory(tmp_path, HF_CONFIG, preprocessor))


@pytest.mark.parametrize("by_index", [{"0": "cat"}, {"a": "b", "c": "d", "e": "f"}, {}])
def test_class_names_that_do_not_fit_are_left_out_and_said(tmp_path: Path, by_index: Any) -> None:
    checkpoint = read_checkpoint(directory(tmp_path, HF_CONFIG | {"id2label": by_index}))
    assert checkpoint.labels is None
    assert by_index == {} or any("id2label names" in note for note in checkpoint.notes)


def test_names_that_only_count_are_no_labels(tmp_path: Path) -> None:
    numbered = {str(i): f"LABEL_{i}" for i in range(3)}
    assert read_checkpoint(directory(tmp_path, HF_CONFIG | {"id2label": numbered})).labels is None


@pytest.mark.parametrize(
    "meta",
    [{"dataset_meta": {"classes": ["a", "b", "c"]}}, {"CLASSES": ("a", "b", "c")}],
    ids=["mmpretrain", "mmclassification"],
)
def test_open_mmlab_records_its_classes(tmp_path: Path, meta: Any) -> None:
    assert torch_file(tmp_path / "epoch.pth", meta=meta).labels == ("a", "b", "c")


def test_torchvisions_weights_are_known_by_name_and_by_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = torch_file(tmp_path / "model.pth", weights="ResNet50_Weights.IMAGENET1K_V2")
    assert named.image_spec == replace(IMAGENET, resize=232)
    assert named.image_spec_source == "torchvision ResNet50_Weights.IMAGENET1K_V2"
    unnamed = torch_file(tmp_path / "model.pth")
    assert unnamed.image_spec_source is None
    entry = ("ResNet18_Weights.IMAGENET1K_V1", 256)
    monkeypatch.setitem(metadata._TORCHVISION, unnamed.sha256[:8], entry)
    by_hash = read_checkpoint(tmp_path / "model.pth")
    assert by_hash.image_spec_source == "torchvision ResNet18_Weights.IMAGENET1K_V1"


def test_the_default_is_the_image_net_one_with_a_warning_that_names_the_flags(
    tmp_path: Path,
) -> None:
    checkpoint = torch_file(tmp_path / "model.pth")
    assert checkpoint.image_spec == IMAGENET
    (note,) = (n for n in checkpoint.notes if "preprocessing" in n)
    assert all(f in note for f in ("--resize", "--crop", "--mean", "--std", "--color"))
    small = torch_file(tmp_path / "small.pth", replace(CONFIG, stem="small"))
    assert small.image_spec == CIFAR10


def test_recorded_preprocessing_travels_with_pytorch_files_in_a_directory(tmp_path: Path) -> None:
    torch.save(ResNet(CONFIG).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.labels == ("a", "b", "c")
    assert load_model(checkpoint).config.num_classes == 3
