"""Checkpoint to verified ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.build.stage import BuildConfig, build
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import EVALUATION, GOLDEN, MODEL
from resnet_edge.bundle.reference import Evaluated, Golden
from resnet_edge.catalog.targets import load_target
from resnet_edge.errors import BundleError, CheckpointError, ConfigError, DataError, ExportError
from resnet_edge.export.stage import ExportConfig, export, reload_model
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.graph.relabel import opset_of
from resnet_edge.images.arrays import ArrayImages
from resnet_edge.images.opening import open_images
from resnet_edge.images.spec import ImageSpec
from resnet_edge.models.checkpoint import save_checkpoint
from resnet_edge.quantize.budget import meet_budget
from resnet_edge.quantize.search import Budget
from resnet_edge.verify.candidate import find_candidate
from resnet_edge.verify.stage import verify
from tests.conftest import require, stir_batch_norms

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.models.resnet import ResNet

torch = require("torch")
GRAY = ImageSpec(resize=28, crop=(28, 28), mean=(0.3,), std=(0.3,), color="gray")


@pytest.fixture
def checkpoint(tiny_resnet: ResNet, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    labels = ("above", "below")
    save_checkpoint(path, tiny_resnet, name="tiny", image_spec=GRAY, labels=labels, provenance={})
    return path


def test_the_onnx_model_equals_pytorch_at_any_batch(checkpoint: Path, tmp_path: Path) -> None:
    result = export(checkpoint, tmp_path / "b")
    assert result.parity.accepted
    assert result.parity.n == 32
    golden = Golden.load(result.bundle)
    x = GRAY.to_input(golden.pixels)
    with OnnxRuntimeSession(result.bundle.artifact(MODEL)) as session:
        for size in (1, 3, 32):
            logits = session.run({"input": x[:size]})["logits"]
            assert np.abs(logits - golden.logits[:size]).max() <= 1e-3 * np.abs(golden.logits).max()


def test_the_graph_is_simple_and_readable_by_every_target(checkpoint: Path, tmp_path: Path) -> None:
    model = load_graph(export(checkpoint, tmp_path / "b").bundle.artifact(MODEL))
    assert (opset_of(model), model.ir_version) == (17, 8)
    operators = {node.op_type for node in model.graph.node}
    assert operators == {"Conv", "Relu", "Add", "GlobalAveragePool", "Reshape", "Gemm"}
    assert {n.name for n in model.graph.node if n.op_type == "Gemm"} == {"fc"}
    metadata = {p.key: p.value for p in model.metadata_props}
    assert ImageSpec.from_json(json.loads(metadata["resnet_edge.image_spec"])) == GRAY
    assert json.loads(metadata["resnet_edge.labels"]) == ["above", "below"]
    assert "home" not in str(model.SerializeToString())


def test_uint8_input_casts_before_it_transposes(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export(checkpoint, tmp_path / "b", ExportConfig(input="uint8")).bundle
    model = load_graph(bundle.artifact(MODEL))
    assert [n.op_type for n in model.graph.node[:2]] == ["Cast", "Transpose"]
    golden = Golden.load(bundle)
    float_bundle = export(checkpoint, tmp_path / "f").bundle
    assert np.allclose(golden.logits, Golden.load(float_bundle).logits, atol=1e-4)
    with OnnxRuntimeSession(bundle.artifact(MODEL)) as session:
        assert session.inputs[0].dtype == "uint8"
        assert session.inputs[0].shape == (None, 28, 28, 1)
        logits = session.run({"input": golden.pixels})["logits"]
    assert np.allclose(logits, golden.logits, atol=1e-4)


def test_a_second_export_of_the_same_is_skipped(checkpoint: Path, tmp_path: Path) -> None:
    first = export(checkpoint, tmp_path / "b")
    stamp = first.bundle.artifact(MODEL).stat().st_mtime_ns
    second = export(checkpoint, tmp_path / "b")
    assert second.cached
    assert second.parity == first.parity
    assert second.bundle.artifact(MODEL).stat().st_mtime_ns == stamp
    assert not export(checkpoint, tmp_path / "b", ExportConfig(simplify=False)).cached


def test_a_model_that_differs_from_pytorch_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_edge.export import stage as module

    real = module.simplify

    def damage(model: object, *, fold: bool = True) -> object:
        from onnx import numpy_helper

        result = real(model, fold=fold)  # type: ignore[arg-type]
        bias = next(i for i in result.model.graph.initializer if i.name == "fc.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.05, "fc.bias"))
        return result

    monkeypatch.setattr(module, "simplify", damage)
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export(checkpoint, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_evaluation_images_travel_as_logits(
    checkpoint: Path, tmp_path: Path, easy_images: Path
) -> None:
    source = open_images(easy_images, split="test")
    bundle = export(checkpoint, tmp_path / "b", images=source).bundle
    known = Evaluated.load(bundle)
    assert known is not None
    assert known.source == "pytorch"
    assert len(known.keys) == len(source)
    golden = Golden.load(bundle)
    assert set(golden.labels) == {0, 1}
    recorded = known.lookup([source.key(i) for i in range(len(source))])
    assert recorded is not None
    with torch.inference_mode():
        pixels = np.stack([GRAY.pixels(source.load(i)) for i in range(8)])
        expected = reload_model(bundle, checkpoint)(torch.from_numpy(GRAY.to_input(pixels)))
    assert np.allclose(recorded[:8], expected.numpy(), atol=1e-5)


def test_images_of_another_model_are_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path
) -> None:
    pixels = np.zeros((4, 28, 28), np.uint8)
    source = ArrayImages(tmp_path, pixels, np.array([0, 1, 2, 7]))
    with pytest.raises(DataError, match="label 7"):
        export(checkpoint, tmp_path / "b", images=source)
    assert not (tmp_path / "b").exists()


def test_a_foreign_directory_is_not_written_into(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(BundleError, match="not a bundle"):
        export(checkpoint, tmp_path / "notes")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def test_a_new_checkpoint_in_the_same_bundle_makes_old_logits_unknown(
    checkpoint: Path, tmp_path: Path, easy_images: Path, tiny_resnet: ResNet
) -> None:
    source = open_images(easy_images, split="test")
    bundle = export(checkpoint, tmp_path / "b", images=source).bundle
    with torch.no_grad():
        tiny_resnet.fc.bias.add_(1.0)
    save_checkpoint(
        checkpoint, tiny_resnet, name="tiny", image_spec=GRAY, labels=None, provenance={}
    )
    bundle = export(checkpoint, tmp_path / "b").bundle
    assert EVALUATION in bundle.names()
    assert Evaluated.load(bundle) is None
    assert Bundle.open(bundle.path).names()[-1] == GOLDEN


RGB = ImageSpec(resize=48, crop=(47, 47), mean=(0.5,) * 3, std=(0.25,) * 3)  # odd: pools round up


def family(**changes: Any) -> ResNet:
    from resnet_edge.models.resnet import ResNet, ResNetConfig

    torch.manual_seed(0)
    config = ResNetConfig("bottleneck", (1, 1), (4, 8), "imagenet", num_classes=5)
    return stir_batch_norms(ResNet(replace(config, **changes))).eval()


@pytest.mark.parametrize(
    ("changes", "operators"),
    [
        ({"groups": 4, "base_width": 32}, set()),
        ({"base_width": 128}, set()),
        ({"stem": "deep", "stem_widths": (2, 3, 4), "shortcut": "D"}, {"AveragePool"}),
        ({"block": "basic", "shortcut": "D"}, {"AveragePool"}),
        ({"se_widths": (2, 3)}, {"Sigmoid", "Mul"}),
        ({"se_widths": (2, 3), "shortcut": "D"}, {"Sigmoid", "Mul", "AveragePool"}),
        ({"stride_in_1x1": True}, set()),
    ],
    ids=["grouped", "wide", "deep stem", "average-pool shortcut", "gated", "gated with pool", "v1"],
)  # fmt: skip
def test_every_family_equals_pytorch_in_onnx(
    tmp_path: Path, changes: dict[str, Any], operators: set[str]
) -> None:
    torch.save(family(**changes).state_dict(), tmp_path / "model.pt")
    config = ExportConfig(image_spec=RGB, stride_in_1x1=changes.get("stride_in_1x1"))
    result = export(tmp_path / "model.pt", tmp_path / "b", config)
    assert result.parity.accepted
    base = {"Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Reshape", "Gemm"}
    assert set(result.nodes) == base | operators
    model = load_graph(result.bundle.artifact(MODEL))
    assert (opset_of(model), model.ir_version) == (17, 8)
    golden = Golden.load(result.bundle)
    with torch.inference_mode():
        expected = family(**changes)(torch.from_numpy(RGB.to_input(golden.pixels)))
    assert np.allclose(golden.logits, expected.numpy(), atol=1e-5)


def test_a_feature_extractor_is_exported_without_a_classifier(
    tmp_path: Path, easy_images: Path
) -> None:
    model = family()
    headless = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    torch.save(headless, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="feature extractor"):
        export(tmp_path / "model.pt", tmp_path / "b", ExportConfig(image_spec=RGB))
    assert not (tmp_path / "b").exists()
    images = open_images(easy_images, split="test")
    config = ExportConfig(image_spec=RGB, head="none")
    bundle = export(tmp_path / "model.pt", tmp_path / "b", config, images=images).bundle
    assert bundle.model.num_classes == 32
    golden = Golden.load(bundle)
    assert set(golden.labels) == {-1}
    features = reload_model(bundle, tmp_path / "model.pt")
    with torch.inference_mode():
        expected = features(torch.from_numpy(RGB.to_input(golden.pixels)))
    assert golden.logits.shape == (32, 32)
    assert np.allclose(golden.logits, expected.numpy(), atol=1e-5)
    build(bundle, load_target("cpu"), BuildConfig("fp32"))
    with pytest.raises(ConfigError, match="ends in features"):
        verify(bundle, find_candidate(bundle), None)
    with pytest.raises(ConfigError, match="ends in features"):
        meet_budget(bundle, images, None, Budget(1.0, "agreement"))
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        assert torch.equal(model(torch.ones(1, 3, 47, 47)), features(torch.ones(1, 3, 47, 47)))


def test_four_channels_need_their_preprocessing_said(tmp_path: Path) -> None:
    model = family(in_channels=4)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="4 channels") as caught:
        export(tmp_path / "model.pt", tmp_path / "b")
    assert "--mean" in (caught.value.hint or "")
    spec = ImageSpec(resize=32, crop=(32, 32), mean=(0.5,) * 4, std=(0.25,) * 4, color="rgba")
    for kind in ("float", "uint8"):
        config = ExportConfig(image_spec=spec, input=kind)  # type: ignore[arg-type]
        result = export(tmp_path / "model.pt", tmp_path / kind, config)
        assert result.parity.accepted
    assert Golden.load(result.bundle).pixels.shape == (32, 32, 32, 4)


@pytest.mark.parametrize("v1", [True, False])
def test_labelled_images_settle_the_variant_of_the_bundle(tmp_path: Path, v1: bool) -> None:
    model = family(stem="small", stride_in_1x1=v1)
    spec = replace(RGB, resize=None, crop=(16, 16))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    with torch.inference_mode():
        x = torch.from_numpy(spec.to_input(pixels))
        model.fc.bias -= model(x).mean(0)
        labels = model(x).argmax(1).numpy()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    config = ExportConfig(image_spec=spec)
    images = open_images(tmp_path / "images.npz")
    result = export(tmp_path / "model.pt", tmp_path / "b", config, images=images)
    assert result.bundle.entry(MODEL).config["network"]["stride_in_1x1"] is v1
    assert any("chosen" in note and "300 labelled images" in note for note in result.notes)
    assert reload_model(result.bundle, tmp_path / "model.pt").config.stride_in_1x1 is v1


def test_known_logits_settle_the_variant_and_refuse_another_network(tmp_path: Path) -> None:
    model = family(stem="small", stride_in_1x1=True)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    x = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        logits = model(x).numpy()
    config = ExportConfig(image_spec=RGB, known_logits=tmp_path / "known.npz")
    np.savez(tmp_path / "known.npz", input=x.numpy(), logits=logits)
    result = export(tmp_path / "model.pt", tmp_path / "b", config)
    assert result.bundle.entry(MODEL).config["network"]["stride_in_1x1"] is True
    np.savez(tmp_path / "known.npz", input=x.numpy(), logits=logits + 1)
    with pytest.raises(CheckpointError, match="does not reproduce"):
        export(tmp_path / "model.pt", tmp_path / "c", config)
    assert not (tmp_path / "c").exists()
