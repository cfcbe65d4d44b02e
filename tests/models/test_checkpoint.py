from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.errors import BundleError, CheckpointError, ConfigError
from resnet_edge.files import sha256_file
from resnet_edge.images.spec import FASHION_MNIST, IMAGENET
from resnet_edge.models.checkpoint import load_model, read_checkpoint, save_checkpoint
from resnet_edge.models.identify import identify
from resnet_edge.models.zoo import ARCHITECTURES, architecture
from tests.conftest import full_disk, processor_seconds, require

torch = require("torch")
safetensors = require("safetensors.torch") if require("safetensors") else None

from resnet_edge.models.resnet import ResNet, without_weights  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

CONV = "layer1.0.conv1.weight"
HUGE = 1 << 50


def load(path: Path, **options: Any) -> ResNet:
    return load_model(read_checkpoint(path, **options))


def logits(model: ResNet) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        return model(torch.rand(4, model.config.in_channels, 12, 12, generator=generator))


def save(path: Path, model: ResNet, *, name: str = "tiny") -> None:
    save_checkpoint(
        path, model, name=name, image_spec=FASHION_MNIST, labels=("cat", "größer"), provenance={}
    )


@pytest.fixture
def pt(tmp_path: Path) -> Path:
    """Where a test saves a PyTorch file."""
    return tmp_path / "model.pt"


def test_reading_a_checkpoint_does_not_load_pytorchs_compiler(
    pt: Path, tiny_resnet: ResNet
) -> None:
    """Its import takes longer than reading a ResNet-50."""
    save(pt.with_suffix(".safetensors"), tiny_resnet)
    code = (
        "import sys, pathlib;"
        "from resnet_edge.models.checkpoint import load_model, read_checkpoint;"
        "load_model(read_checkpoint(pathlib.Path(sys.argv[1]))); assert 'torch' in sys.modules;"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    file = str(pt.with_suffix(".safetensors"))
    assert subprocess.run([sys.executable, "-c", code, file], check=False).returncode == 0


def test_saving_and_loading_keeps_logits_and_description_exactly(
    tmp_path: Path, tiny_resnet: ResNet
) -> None:
    path = tmp_path / "model.safetensors"
    save(path, tiny_resnet)
    checkpoint = read_checkpoint(path)
    assert torch.equal(logits(load_model(checkpoint)), logits(tiny_resnet))
    assert checkpoint.config == tiny_resnet.config
    assert (checkpoint.architecture, checkpoint.image_spec) == ("tiny", FASHION_MNIST)
    assert checkpoint.labels == ("cat", "größer")
    assert checkpoint.sha256 == sha256_file(path)
    assert checkpoint.notes == ()


@pytest.mark.parametrize(
    "change",
    [{"residual": False, "shortcut": "A"}, {"shortcut": "A"}, {"shortcut": "C"}],
    ids=["plain", "A", "C"],
)
def test_our_own_file_says_what_shapes_cannot(
    tmp_path: Path, tiny_resnet: ResNet, change: dict[str, Any]
) -> None:
    model = ResNet(replace(tiny_resnet.config, **change)).eval()
    save(tmp_path / "model.safetensors", model)
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert torch.equal(logits(loaded), logits(model))


def test_a_file_that_cannot_be_written_is_our_error_and_keeps_the_old(
    tmp_path: Path, tiny_resnet: ResNet
) -> None:
    path = tmp_path / "model.safetensors"
    save(path, tiny_resnet)
    before = path.read_bytes()
    with full_disk(), pytest.raises(BundleError, match="cannot write"):
        save(path, tiny_resnet)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_named_network_is_identified_by_its_shapes(name: str, channels: int) -> None:
    config = architecture(name, num_classes=7, in_channels=channels)
    shapes = {k: tuple(v.shape) for k, v in without_weights(config).state_dict().items()}
    found = identify(shapes)
    if name.startswith("plain"):
        assert any("plain" in note for note in found.assumed)
        name = name.replace("plain", "resnet")
        expected = replace(config, residual=True, shortcut="A")
        assert replace(found.config, stem=expected.stem) == expected
    else:
        assert (found.name, found.config) == (name, config)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain20", "resnet20", "resnet18d"])
def test_a_bare_state_dict_is_identified_by_its_shapes(pt: Path, name: str) -> None:
    with torch.device("meta"):
        shapes = ResNet(architecture(name, num_classes=2)).state_dict()
    half = {torch.float32: torch.float16, torch.int64: torch.int64}
    torch.save({k: torch.zeros(v.shape, dtype=half[v.dtype]) for k, v in shapes.items()}, pt)
    checkpoint = read_checkpoint(pt, arch=name if name.startswith("plain") else "auto")
    pt.unlink()
    assert checkpoint.architecture == name
    assert checkpoint.config == architecture(name, num_classes=2)
    read = {k: (v.dtype, v.shape) for k, v in checkpoint.state_dict.items()}
    assert read == {k: (v.dtype, v.shape) for k, v in shapes.items()}


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_network_outside_the_zoo_is_rebuilt_from_its_shapes(
    pt: Path, tiny_resnet: ResNet, shortcut: Any, block: Any
) -> None:
    config = replace(tiny_resnet.config, layers=(2, 2), shortcut=shortcut, block=block)
    model = ResNet(config).eval()
    torch.save(model.state_dict(), pt)
    checkpoint = read_checkpoint(pt)
    assert checkpoint.config == model.config
    assert checkpoint.architecture not in ARCHITECTURES
    assert torch.equal(logits(load_model(checkpoint)), logits(model))


def test_v1_is_what_the_caller_says(pt: Path, tiny_resnet: ResNet) -> None:
    torch.save(ResNet(replace(tiny_resnet.config, block="bottleneck")).state_dict(), pt)
    assert not read_checkpoint(pt).config.stride_in_1x1
    assert any("v1.5 assumed" in note for note in read_checkpoint(pt).notes)
    assert read_checkpoint(pt, stride_in_1x1=True).config.stride_in_1x1


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.backbone."])
@pytest.mark.parametrize("extra", [{}, {"head.weight": 1.0}])
def test_the_prefix_of_a_wrapper_module_is_stripped(
    pt: Path, tiny_resnet: ResNet, prefix: str, extra: dict[str, float]
) -> None:
    content = {prefix + k: v for k, v in tiny_resnet.state_dict().items()}
    torch.save(content | {k: torch.tensor(v) for k, v in extra.items()}, pt)
    checkpoint = read_checkpoint(pt)
    assert torch.equal(logits(load_model(checkpoint)), logits(tiny_resnet))
    assert any(repr(prefix) in note for note in checkpoint.notes)
    assert all(any(k in note for note in checkpoint.notes) for k in extra)


@pytest.mark.parametrize(
    "keys", [["state_dict"], ["model"], ["model_state_dict"], ["net"], ["model", "state_dict"]]
)
@pytest.mark.parametrize("best", [69.7, "tensor"])
def test_a_training_checkpoint_is_unwrapped(
    pt: Path, tiny_resnet: ResNet, keys: list[str], best: Any
) -> None:
    """``best_acc1`` is a tensor in the checkpoints of PyTorch's own ImageNet example."""
    content: Any = {f"module.{k}": v for k, v in tiny_resnet.state_dict().items()}
    for key in reversed(keys):
        content = {
            "epoch": 3, key: content, "best_acc1": torch.tensor(69.7) if best == "tensor" else best
        }  # fmt: skip
    torch.save(content, pt)
    assert torch.equal(logits(load(pt)), logits(tiny_resnet))


def test_averaged_weights_are_preferred(pt: Path, tiny_resnet: ResNet) -> None:
    averaged = ResNet(tiny_resnet.config).eval()
    content = {"state_dict": tiny_resnet.state_dict(), "state_dict_ema": averaged.state_dict()}
    torch.save(content, pt)
    assert torch.equal(logits(load(pt)), logits(averaged))


@pytest.mark.parametrize(
    ("name", "channels", "expected"),
    [("resnet20", 1, FASHION_MNIST), ("resnet20", 3, (32, 32)), ("resnet18", 3, IMAGENET)],
)
def test_missing_preprocessing_is_assumed_from_the_layout_and_said(
    pt: Path, name: str, channels: int, expected: Any
) -> None:
    config = replace(architecture(name, in_channels=channels), widths=(2, 2, 2, 2), layers=(1,))
    torch.save(ResNet(config).state_dict(), pt)
    checkpoint = read_checkpoint(pt)
    assert expected in (checkpoint.image_spec, checkpoint.image_spec.crop)
    assert any("no preprocessing recorded" in note for note in checkpoint.notes)


def test_preprocessing_that_cannot_be_assumed_is_asked_for(pt: Path, tiny_resnet: ResNet) -> None:
    model = ResNet(replace(tiny_resnet.config, in_channels=4)).eval()
    torch.save(model.state_dict(), pt)
    checkpoint = read_checkpoint(pt)
    assert checkpoint.image_spec is None
    assert any("4 input channels" in n and "--mean" in n for n in checkpoint.notes)
    assert torch.equal(logits(load_model(checkpoint)), logits(model))


def test_weights_without_batch_counters_load(pt: Path, tiny_resnet: ResNet) -> None:
    content = tiny_resnet.state_dict()
    torch.save({k: v for k, v in content.items() if "num_batches" not in k}, pt)
    assert torch.equal(logits(load(pt)), logits(tiny_resnet))


def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(pt: Path) -> None:
    trace = pt.with_name("it ran")

    class Attack:
        def __reduce__(self) -> Any:
            return trace.touch, ()

    pickle.loads(pickle.dumps(Attack()))
    assert trace.exists(), "the attack does not work even when nothing stops it"
    trace.unlink()
    for legacy in (False, True):
        torch.save({CONV: Attack()}, pt, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match="run code") as caught:
            read_checkpoint(pt)
        assert "safetensors" in (caught.value.hint or "")
    pt.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError):
        read_checkpoint(pt)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "web page", "a folder"])
def test_a_file_that_is_no_checkpoint_is_refused_with_a_way_out(
    tmp_path: Path, tiny_resnet: ResNet, suffix: str, damage: str
) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(tiny_resnet.state_dict(), path)
    else:
        save(path, tiny_resnet)
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "truncated": content[:-200], "web page": b"<html>404</html>"}[damage]
        )
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert "run code" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn1.bias": None, "layer2.0.bn1.weight": None}, "missing bn1.bias, layer2.0.bn1.weight"),
        ({"layer1.0.conv9.weight": (1,)}, "unexpected layer1.0.conv9.weight"),
        ({"layer2.0.conv2.weight": (4, 3, 3, 3)}, r"\(4, 3, 3, 3\) instead of \(4, 4, 3, 3\)"),
        ({"layer1.0.conv1.weight": None}, "not a ResNet"),
        ({"fc.weight": None}, "no fc.weight"),
        ({"fc.weight": (2,)}, "number of dimensions"),
        ({"conv1.weight": (2, 1)}, "number of dimensions"),
        ({"layer2.0.conv1.weight": ()}, "layer2.0.conv1.weight"),
        ({"layer2.0.conv1.weight": None}, "unexpected layer2.0.bn1.weight"),
        ({"layer4.0.conv1.weight": (4, 4, 3, 3)}, "stages or blocks are missing"),
        ({"fc.bias": float("nan")}, "fc.bias contains NaN"),
        ({"bn1.running_var": float("inf")}, "bn1.running_var contains NaN or inf"),
        ({"conv1.weight": "int8"}, "conv1.weight"),
        ({"fc.weight": "sparse"}, "fc.weight"),
        ({"fc.bias": "expanded"}, "fc.bias"),
        ({"layer1.0.conv1.weight": "expanded"}, "layer1.0.conv1.weight"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named(
    pt: Path, tiny_resnet: ResNet, changes: dict[str, Any], message: str
) -> None:
    content = dict(tiny_resnet.state_dict())
    for key, change in changes.items():
        if change is None:
            del content[key]
        elif isinstance(change, tuple):
            content[key] = torch.zeros(change)
        elif isinstance(change, float):
            content[key].view(-1)[-1] = change
        elif change == "expanded":
            content[key] = torch.zeros(1).expand(HUGE, *content[key].shape[1:])
        else:
            content[key] = (
                content[key].to_sparse() if change == "sparse" else content[key].to(torch.int8)
            )
    torch.save(content, pt)
    with pytest.raises(CheckpointError, match=message):
        load(pt)


def test_the_wrong_architecture_is_refused_with_the_first_differences(
    pt: Path, tiny_resnet: ResNet
) -> None:
    torch.save(tiny_resnet.state_dict(), pt)
    with pytest.raises(
        CheckpointError, match=r"not a resnet20: missing .* …; nearest is"
    ) as caught:
        load(pt, arch="resnet20")
    assert "--arch" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="unknown architecture"):
        load(pt, arch="resnet19")


def test_at_most_ten_names_are_listed_whatever_is_wrong_with_them(
    pt: Path, tiny_resnet: ResNet
) -> None:
    content = dict(tiny_resnet.state_dict())
    content |= {f"extra{i}.weight": torch.zeros(1) for i in range(20)}
    del content["bn1.weight"], content["bn1.bias"]
    torch.save(content, pt)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(pt)
    listed = caught.value.message.partition("; nearest")[0]
    assert "missing bn1.weight, bn1.bias; unexpected extra0.weight" in listed
    assert listed.count(".weight") + listed.count(".bias") == 10
    assert listed.endswith("extra7.weight …")
    assert caught.value.message.endswith("; nearest is resnet(basic, 1-1), 22 names away")


@pytest.mark.parametrize("content", [[1], {}, {"model": {}}, {"epoch": 1}, {1: {}}, 7], ids=str)
def test_a_file_without_tensors_is_refused(pt: Path, content: Any) -> None:
    torch.save(content, pt)
    with pytest.raises(CheckpointError, match=r"not a ResNet|not a state dict"):
        read_checkpoint(pt)


def test_a_dictionary_that_contains_itself_is_refused(pt: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, pt)
    with processor_seconds(2), pytest.raises(CheckpointError):
        read_checkpoint(pt)


@pytest.mark.parametrize(
    "change",
    [
        {"config": 3},
        {"config": {}},
        {"config.block": "other"},
        {"config.shortcut": "Z"},
        {"config.stem": "other"},
        {"config.residual": "no"},
        {"config.in_channels": None},
        {"config.num_classes": "2"},
        {"config.num_classes": HUGE, "labels": None},
        {"config.widths": [HUGE, HUGE]},
        {"config.widths": [2]},
        {"config.layers": [1, float("inf")]},
        {"config.layers": [1, -1]},
        {"config.layers": []},
        {"labels": ["cat"]},
        {"labels": "ab"},
        {"image_spec": None},
        {"image_spec": IMAGENET.to_json()},
        {"image_spec": FASHION_MNIST.to_json() | {"crop": [float("inf"), 1]}},
    ],
    ids=lambda change: str(change)[:50],
)
def test_metadata_that_makes_no_sense_is_refused(
    tmp_path: Path, tiny_resnet: ResNet, change: dict[str, Any]
) -> None:
    metadata: dict[str, Any] = {
        "architecture": "tiny",
        "config": asdict(tiny_resnet.config),
        "image_spec": FASHION_MNIST.to_json(),
        "labels": ["a", "b"],
    }
    for key, value in change.items():
        group, _, name = key.partition(".")
        (metadata[group] if name else metadata)[name or group] = value
    path = tmp_path / "model.safetensors"
    content = {"resnet_edge": json.dumps(metadata)}
    safetensors.save_file(tiny_resnet.state_dict(), path, content)
    with pytest.raises(CheckpointError, match=str(path)):
        load(path)


@pytest.mark.parametrize("metadata", ["{", "[]", "3", "[" * 100_000])
def test_metadata_that_is_no_json_object_is_refused(
    tmp_path: Path, tiny_resnet: ResNet, metadata: str
) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.save_file(tiny_resnet.state_dict(), path, {"resnet_edge": metadata})
    with pytest.raises(CheckpointError, match=str(path)):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["safetensors", "bare safetensors", "pt", "legacy pt"])
@given(data=st.data())
def test_a_damaged_file_gives_a_model_or_our_error(
    tmp_path: Path, tiny_resnet: ResNet, kind: str, data: st.DataObject
) -> None:
    path = tmp_path / f"model.{kind.split()[-1]}"
    if kind == "safetensors":
        save(path, tiny_resnet)
    elif kind == "bare safetensors":
        safetensors.save_file(tiny_resnet.state_dict(), path)
    else:
        torch.save(tiny_resnet.state_dict(), path, _use_new_zipfile_serialization=kind == "pt")
    content = bytearray(path.read_bytes())
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), max_size=3), "bits"):
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content[: data.draw(st.none() | st.integers(0, len(content)), "length")])
    try:
        model = load(path)
    except CheckpointError:
        return
    assert logits(model).shape[0] == 4
