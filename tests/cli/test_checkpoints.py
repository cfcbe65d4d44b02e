"""``inspect`` and ``export`` say what they were given, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.cli.app import run
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models import formats
from resnet_edge.models.checkpoint import save_checkpoint
from resnet_edge.models.zoo import create
from tests.conftest import require, stir_batch_norms

torch = require("torch")
safetensors = require("safetensors.torch") if require("safetensors") else None

from resnet_edge.models.resnet import ResNet, ResNetConfig  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ResNetConfig("bottleneck", (1, 1), (4, 8), "small", num_classes=5)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = run([*map(str, arguments), "--json"])
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, value


def save(path: Path, config: ResNetConfig = SMALL, prefix: str = "") -> ResNet:
    torch.manual_seed(0)
    model = stir_batch_norms(ResNet(config)).eval()
    torch.save({prefix + k: v for k, v in model.state_dict().items()}, path)
    return model


def test_inspect_lists_everything_about_a_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = create("resnext50_32x4d", num_classes=7)
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model.pth")
    code, found = call(capsys, "inspect", tmp_path / "model.pth")
    assert code == 0
    assert found["kind"] == "checkpoint"
    assert (found["architecture"], found["family"], found["depth"]) == (
        "resnext50_32x4d", "resnext", 50,
    )  # fmt: skip
    assert found["widths"] == [64, 128, 256, 512]
    assert (found["num_classes"], found["in_channels"]) == (7, 3)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["macs"] == pytest.approx(4.228e9, rel=1e-3)
    assert found["source_format"] == "PyTorch file['state_dict'], names of torchvision or timm"
    assert found["image_spec"]["crop"] == [224, 224]
    assert found["image_spec_source"] == "default"
    assert any("32 groups" in e for e in found["evidence"])
    assert any("'module.'" in n for n in found["notes"])
    assert any("v1.5 assumed" in n for n in found["notes"])

    assert run(["inspect", str(tmp_path / "model.pth")]) == 0
    shown = capsys.readouterr().out
    assert "  prefix 'module.' stripped\n" in shown
    for word in ("resnext", "depth: 50", "7x7 first convolution", "prefix 'module.' stripped"):
        assert word in shown


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_inspect_knows_networks_without_classifier_or_preprocessing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, channels: int
) -> None:
    config = ResNetConfig("basic", (1, 1), (4, 8), "imagenet", in_channels=channels, num_classes=0)
    save(tmp_path / "model.pt", config)
    code, found = call(capsys, "inspect", tmp_path / "model.pt")
    assert code == 0
    assert (found["num_classes"], found["in_channels"]) == (0, channels)
    assert (found["image_spec"] is None) == (channels == 4)
    assert any("no classifier" in n for n in found["notes"])


def test_inspect_reads_a_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    safetensors.save_file(ResNet(SMALL).state_dict(), tmp_path / "model.safetensors")
    names = {str(i): f"class {i}" for i in range(5)}
    config = {"model_type": "resnet", "id2label": names, "downsample_in_bottleneck": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, found = call(capsys, "inspect", tmp_path)
    assert code == 0
    assert found["labels"] == list(names.values())
    assert found["config"]["stride_in_1x1"] is True
    assert found["source_format"].startswith("directory with model.safetensors")


def test_export_says_what_it_found_and_takes_the_variant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save(tmp_path / "model.pt", prefix="backbone.")
    flags = ["--resize", "16", "--crop", "16"]
    for v1 in (True, False):
        option = "--stride-in-1x1" if v1 else "--stride-in-3x3"
        target = tmp_path / option.strip("-")
        code, found = call(capsys, "export", tmp_path / "model.pt", "-o", target, option, *flags)
        assert code == 0
        assert any("'backbone.'" in n for n in found["notes"])
        recorded = json.loads((target / "bundle.json").read_text())
        entry = recorded["artifacts"]["model.onnx"]
        assert entry["config"]["network"]["stride_in_1x1"] is v1


@pytest.mark.parametrize("flags", [(), ("--resize", "16", "--crop", "16", "--mean", "0,0,0")])
def test_export_reads_the_checkpoint_once(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
) -> None:
    path = tmp_path / "model.safetensors"
    spec = ImageSpec(20, (16, 16), (0.5,) * 3, (0.2, 0.3, 0.4), interpolation="bicubic")
    torch.manual_seed(0)
    model = stir_batch_norms(ResNet(SMALL)).eval()
    save_checkpoint(path, model, name="small", image_spec=spec, labels=None, provenance={})
    reads = []
    real = formats._read_safetensors
    monkeypatch.setattr(formats, "_read_safetensors", lambda p: reads.append(p) or real(p))
    assert call(capsys, "export", path, "-o", tmp_path / "b", *flags)[0] == 0
    assert reads == [path]
    # What the flags leave open is the checkpoint's own.
    expected = replace(spec, resize=16, mean=(0.0,) * 3) if flags else spec
    assert Bundle.open(tmp_path / "b").model.image_spec == expected


def test_export_takes_known_logits_and_a_head(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = save(tmp_path / "model.pt")
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        np.savez(tmp_path / "known.npz", input=x.numpy(), logits=model(x).numpy())
    command = ["export", tmp_path / "model.pt", "-o", tmp_path / "b"]
    code, found = call(capsys, *command, "--known-logits", tmp_path / "known.npz")
    assert code == 0
    assert any("known logits are reproduced" in n for n in found["notes"])
    code, found = call(capsys, *command, "--head", "none", "-o", tmp_path / "c")
    assert code == 0
    assert any("no classifier (left out)" in n for n in found["notes"])
    code, found = call(capsys, *command, "--head", "linear")
    assert (code, found["error"]["type"]) == (1, "ConfigError")


def test_four_channels_are_exported_with_flags(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = ResNetConfig("basic", (1,), (4,), "small", in_channels=4, num_classes=2)
    save(tmp_path / "model.pt", config)
    command = ["export", tmp_path / "model.pt", "-o", tmp_path / "b"]
    code, found = call(capsys, *command)
    assert code == 1
    assert "--color" in found["error"]["hint"]
    flags = ["--mean", "0.5,0.5,0.5,0", "--std", "0.2,0.2,0.2,1", "--color", "rgba", "--crop", "32"]
    code, found = call(capsys, *command, *flags)
    assert code == 0
    assert found["parity"]["accepted"]


def test_names_that_look_like_markup_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    state = {f"net.{k}": v for k, v in ResNet(SMALL).state_dict().items()}
    torch.save({**state, "[/red]": torch.zeros(1)}, tmp_path / "model.pt")
    assert run(["inspect", str(tmp_path / "model.pt")]) == 0
    assert "[/red]" in capsys.readouterr().out
    assert run(["export", str(tmp_path / "model.pt"), "-o", str(tmp_path / "b")]) == 0
    assert "[/red]" in capsys.readouterr().out


def test_a_checkpoint_that_is_no_resnet_ends_in_one_error_that_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(1)}, tmp_path / "vit.pth")
    for command in ("inspect", "export"):
        code, found = call(capsys, command, tmp_path / "vit.pth")
        assert code == 1
        assert found["error"]["type"] == "CheckpointError"
        assert "vision transformer" in found["error"]["message"]
