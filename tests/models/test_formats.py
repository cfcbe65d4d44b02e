"""Containers: what people have on disk becomes tensors by name, or a refusal that helps."""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.errors import CheckpointError
from resnet_edge.models import formats
from resnet_edge.models.checkpoint import load_model, read_checkpoint
from resnet_edge.models.formats import content_sha256, read_contents
from tests.conftest import processor_seconds, require

torch = require("torch")
safetensors = require("safetensors.torch") if require("safetensors") else None

if TYPE_CHECKING:
    from pathlib import Path

    from resnet_edge.models.resnet import ResNet


@pytest.fixture
def state(tiny_resnet: ResNet) -> dict[str, Any]:
    return dict(tiny_resnet.state_dict())


def loads_exactly(path: Path, model: ResNet) -> tuple[str, ...]:
    checkpoint = read_checkpoint(path)
    loaded = load_model(checkpoint).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())
    return checkpoint.notes


def write_shards(folder: Path, state: dict[str, Any], count: int = 3) -> Path:
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    keys = list(state)
    for i, name in enumerate(names):
        safetensors.save_file({k: state[k] for k in keys[i::count]}, folder / name)
    weight_map = {k: names[i % count] for i, k in enumerate(keys)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("as_directory", [True, False])
def test_sharded_safetensors_are_put_together(
    tmp_path: Path, tiny_resnet: ResNet, state: dict[str, Any], as_directory: bool
) -> None:
    index = write_shards(tmp_path, state)
    path = tmp_path if as_directory else index
    loads_exactly(path, tiny_resnet)
    assert "3 safetensors shards" in read_checkpoint(index).source_format
    before = read_checkpoint(path).sha256
    state["fc.bias"] = state["fc.bias"] + 1
    write_shards(tmp_path, state)
    assert read_checkpoint(path).sha256 != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no shard", "no such|not a complete"),
        ("swapped", "promises"),
        ("traversal", "not a file beside it"),
        ("absolute", "not a file beside it"),
        ("empty", "lists no weights"),
        ("not json", "not readable JSON"),
        ("a list", "not a JSON object"),
        ("nested", "not readable JSON"),
        ("huge", "too large"),
    ],
)
def test_a_damaged_index_is_refused(
    tmp_path: Path, state: dict[str, Any], damage: str, message: str
) -> None:
    index = write_shards(tmp_path, state)
    first, second = sorted(tmp_path.glob("*-of-*"))[:2]
    secret = tmp_path.parent / "secret.safetensors"
    safetensors.save_file(state, secret)
    texts = {
        "traversal": json.dumps({"weight_map": {"fc.bias": "../secret.safetensors"}}),
        "absolute": json.dumps({"weight_map": {"fc.bias": str(secret)}}),
        "empty": json.dumps({"weight_map": {}}),
        "not json": "{",
        "a list": "[]",
        "nested": "[" * 100_000,
        "huge": " " * (1 << 25),
    }
    if damage == "no shard":
        first.unlink()
    elif damage == "swapped":
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    else:
        index.write_text(texts[damage])
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(index)


def test_a_directory_holds_one_of_the_known_files(
    tmp_path: Path, tiny_resnet: ResNet, state: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match="without a checkpoint") as caught:
        read_checkpoint(tmp_path)
    assert "model.safetensors" in (caught.value.hint or "")
    torch.save(state, tmp_path / "pytorch_model.bin")
    loads_exactly(tmp_path, tiny_resnet)
    changed = {k: v * 2 if v.is_floating_point() else v for k, v in state.items()}
    safetensors.save_file(changed, tmp_path / "model.safetensors")
    assert torch.equal(read_checkpoint(tmp_path).state_dict["fc.bias"], changed["fc.bias"])


@pytest.mark.parametrize("kind", ["file", "torch file", "index", "directory", "of shards"])
def test_the_hash_of_what_would_be_read_takes_no_reading(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    safetensors.save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    (sharded := tmp_path / "sharded").mkdir()
    index = write_shards(sharded, state)
    (sharded / "preprocessor_config.json").write_text('{"size": 32}')
    path = {
        "file": tmp_path / "model.safetensors", "torch file": tmp_path / "model.pt",
        "index": index, "directory": tmp_path, "of shards": sharded,
    }[kind]  # fmt: skip
    read = read_contents(path).sha256

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was loaded")

    for reader in ("_read_safetensors", "_read_torch", "read_torch_file"):
        monkeypatch.setattr(formats, reader, refuse)
    assert content_sha256(path) == read


@pytest.mark.parametrize("damage", ["no shard", "a folder as shard", "not json"])
def test_what_cannot_be_read_has_no_hash(
    tmp_path: Path, state: dict[str, Any], damage: str
) -> None:
    for absent in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(CheckpointError, match=r"no such checkpoint|without a checkpoint"):
            content_sha256(absent)
    index = write_shards(tmp_path, state)
    first = min(tmp_path.glob("*-of-*"))
    if damage == "not json":
        index.write_text("{")
    else:
        first.unlink()
    if damage == "a folder as shard":
        first.symlink_to(tmp_path)  # which holds the index again
    for path in (index, tmp_path):
        with pytest.raises(CheckpointError, match=r"no such checkpoint|not readable JSON"):
            content_sha256(path)


def test_a_file_beside_a_config_says_how_to_have_it_read(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    safetensors.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    notes = read_checkpoint(tmp_path / "model.safetensors").notes
    assert any(f"pass {tmp_path}" in note for note in notes)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_old_training_loops_saved_beside_the_weights_is_accepted(
    tmp_path: Path, tiny_resnet: ResNet, legacy: bool
) -> None:
    optimizer = torch.optim.SGD(tiny_resnet.parameters(), lr=0.1, momentum=0.9)
    for parameter in tiny_resnet.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    content = {
        "epoch": 3,
        "best_acc1": np.float64(69.7),
        "losses": [np.float32(0.5), np.int64(3), np.bool_(True)],
        "args": argparse.Namespace(lr=0.1, arch="resnet", milestones=[30, 60]),
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "state_dict": {f"module.{k}": v for k, v in tiny_resnet.state_dict().items()},
    }
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    notes = loads_exactly(path, tiny_resnet)
    assert "prefix 'module.' stripped" in notes


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        (("state_dict",), "model."),  # PyTorch Lightning
        (("state_dict",), "model.net."),
        ((), "_orig_mod."),  # torch.compile
        ((), "module._orig_mod."),
        (("model",), "module.backbone."),
        (("module",), ""),  # DeepSpeed
    ],
)
def test_wrappers_of_modules_and_dictionaries_are_taken_off(
    tmp_path: Path, tiny_resnet: ResNet, keys: tuple[str, ...], prefix: str
) -> None:
    content: Any = {prefix + k: v for k, v in tiny_resnet.state_dict().items()}
    for key in keys:
        content = {key: content, "global_step": 7, "hyper_parameters": {"lr": 0.1}}
    torch.save(content, tmp_path / "last.ckpt")
    notes = loads_exactly(tmp_path / "last.ckpt", tiny_resnet)
    assert not prefix or any(repr(prefix) in note for note in notes)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema", "params_ema"])
def test_averaged_weights_are_preferred_and_named(
    tmp_path: Path, tiny_resnet: ResNet, key: str
) -> None:
    last = {k: torch.zeros_like(v) for k, v in tiny_resnet.state_dict().items()}
    averaged = {f"module.{k}": v for k, v in tiny_resnet.state_dict().items()}
    averaged["n_averaged"] = torch.tensor(7)  # torch.optim.swa_utils
    torch.save({"state_dict": last, key: averaged}, tmp_path / "model.pt")
    notes = loads_exactly(tmp_path / "model.pt", tiny_resnet)
    assert any("EMA" in note and key in note and "state_dict" in note for note in notes)


def test_an_average_without_a_network_in_it_does_not_hide_the_weights(
    tmp_path: Path, tiny_resnet: ResNet
) -> None:
    content = {"ema": {"decay": 0.9}, "model": tiny_resnet.state_dict()}
    torch.save(content, tmp_path / "model.pt")
    loads_exactly(tmp_path / "model.pt", tiny_resnet)


def test_two_networks_in_one_file_are_refused_unless_one_is_the_average(
    tmp_path: Path, tiny_resnet: ResNet
) -> None:
    state = tiny_resnet.state_dict()
    for other, ok in (("teacher.", False), ("ema_model.", True)):
        content = {f"model.{k}": torch.zeros_like(v) for k, v in state.items()}
        content |= {f"{other}{k}": v for k, v in state.items()}
        torch.save(content, tmp_path / "model.pt")
        if ok:
            assert any(other in note for note in loads_exactly(tmp_path / "model.pt", tiny_resnet))
            continue
        with pytest.raises(CheckpointError, match=r"2 ResNets, at 'model\.', 'teacher\.'"):
            read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"fc.": "fc.1."}, "fc.1.weight to fc.weight"),  # Sequential(Dropout, Linear)
        ({"fc.": "linear."}, "linear.weight to fc.weight"),
        ({"downsample": "shortcut"}, "shortcut"),
    ],
)
def test_habits_of_fine_tuning_and_of_cifar_repositories_are_understood(
    tmp_path: Path, tiny_resnet: ResNet, change: dict[str, str], note: str
) -> None:
    ((old, new),) = change.items()
    content = {k.replace(old, new): v for k, v in tiny_resnet.state_dict().items()}
    torch.save(content, tmp_path / "model.pt")
    assert any(note in n for n in loads_exactly(tmp_path / "model.pt", tiny_resnet))


def test_a_classifier_of_several_layers_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    for part in ("weight", "bias"):
        state[f"fc.0.{part}"] = state.pop(f"fc.{part}")
        state[f"fc.2.{part}"] = torch.zeros(2, 2) if part == "weight" else torch.zeros(2)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"unexpected fc\.2"):
        read_checkpoint(tmp_path / "model.pt")


def test_counters_of_a_profiler_are_ignored(tmp_path: Path, tiny_resnet: ResNet) -> None:
    content = dict(tiny_resnet.state_dict())
    content |= {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)}
    torch.save(content, tmp_path / "model.pt")
    notes = loads_exactly(tmp_path / "model.pt", tiny_resnet)
    assert any("2 counters" in note for note in notes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_said(
    tmp_path: Path, state: dict[str, Any], dtype: Any
) -> None:
    half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(half, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.state_dict["fc.bias"].dtype == torch.float32
    assert torch.equal(checkpoint.state_dict["fc.weight"], half["fc.weight"].float())
    assert any("half-precision" in note for note in checkpoint.notes)


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("model.onnx", b"\x08\x08", "ONNX"),
        ("model.pb", b"\x08\x08\x12", "ONNX"),
        ("model.h5", b"\x89HDF\r\n\x1a\n", "Keras"),
        ("model.pth", b"<!DOCTYPE html>", "web page"),
        ("model.pth", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        ("model.gz", b"\x1f\x8b\x08", "gzip"),
        ("model.pth", b"\x00" * 100, "neither"),
    ],
)
def test_files_of_other_kinds_are_named(
    tmp_path: Path, name: str, start: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(start)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(tmp_path / name)
    assert caught.value.hint


def test_a_torchscript_archive_is_named(tmp_path: Path, tiny_resnet: ResNet) -> None:
    path = tmp_path / "scripted.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scripted/data.pkl", b"\x80\x02.")
        archive.writestr("scripted/constants.pkl", b"\x80\x02).")
        archive.writestr("scripted/code/__torch__.py", "def forward(self): ...")
    with pytest.raises(CheckpointError, match="TorchScript") as caught:
        read_checkpoint(path)
    assert "state_dict" in (caught.value.hint or "")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"")
    with pytest.raises(CheckpointError, match="not one that torch"):
        read_checkpoint(path)


def test_a_whole_model_is_refused_with_its_class_and_a_way_out(
    tmp_path: Path, tiny_resnet: ResNet
) -> None:
    torch.save(tiny_resnet, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"resnet_edge\.models\.resnet\.ResNet") as caught:
        read_checkpoint(tmp_path / "model.pt")
    assert "save_file(model.state_dict()" in (caught.value.hint or "")


@pytest.mark.parametrize("extra", ["fpn.0.weight", "rpn.head.weight", "roi_heads.box.weight"])
def test_the_backbone_of_a_detector_is_refused_and_its_features_are_to_be_had(
    tmp_path: Path, tiny_resnet: ResNet, extra: str
) -> None:
    state = {f"backbone.body.{k}": v for k, v in tiny_resnet.state_dict().items() if "fc" not in k}
    torch.save({**state, extra: torch.zeros(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=f"larger model with {extra.split('.')[0]}") as caught:
        read_checkpoint(tmp_path / "model.pt")
    assert "--head none" in (caught.value.hint or "")
    checkpoint = read_checkpoint(tmp_path / "model.pt", head="none")
    assert (checkpoint.config.num_classes, checkpoint.config.outputs) == (0, 4)
    assert any(extra in note for note in checkpoint.notes)


def test_a_classifier_can_be_left_out(tmp_path: Path, tiny_resnet: ResNet) -> None:
    torch.save(tiny_resnet.state_dict(), tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt", head="none")
    features = load_model(checkpoint)
    x = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(tiny_resnet.fc(features(x)), tiny_resnet(x))
    assert read_checkpoint(tmp_path / "model.pt", head="auto").config.num_classes == 2


def rewritten(path: Path, change: Any) -> None:
    """Replace the members of a zip file by what ``change`` makes of them, stored as torch does."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_compressed_part_is_refused_before_it_is_unpacked(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    path = tmp_path / "model.pt"
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("model/data/bomb", b"\0" * (1 << 24))
    with processor_seconds(5), pytest.raises(CheckpointError, match="larger than the file"):
        read_checkpoint(path)


def test_a_storage_that_claims_more_than_its_part_is_refused_before_memory_is_taken(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    path = tmp_path / "model.pt"
    torch.save(state, path)

    def shrink(members: dict[str, bytes]) -> None:
        name = next(k for k in members if k.endswith("/data/0"))
        members[name] = members[name][:8]

    rewritten(path, shrink)
    with pytest.raises(CheckpointError, match="storage 0 claims more than the file holds"):
        read_checkpoint(path)


def test_a_legacy_file_that_claims_more_than_it_holds_is_refused(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    path = tmp_path / "model.pt"
    path.write_bytes(buffer.getvalue()[:-64])
    with pytest.raises(CheckpointError, match="claim more than the file holds"):
        read_checkpoint(path)
