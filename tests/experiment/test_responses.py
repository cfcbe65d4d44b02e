from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.errors import BundleError, DataError
from resnet_edge.experiment.compare import compare
from resnet_edge.experiment.pictures import plot_responses
from resnet_edge.experiment.responses import (
    NetworkResponses,
    layer_responses,
    measure_responses,
    responses_table,
)
from resnet_edge.images.opening import open_images
from resnet_edge.images.spec import ImageSpec
from resnet_edge.train.loop import TrainConfig
from tests.conftest import require, stir_batch_norms

torch = require("torch")
require("matplotlib")

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ImageSpec(resize=8, crop=(8, 8), mean=(0.5,), std=(0.25,), color="gray")


def network(arch: str, **options: Any) -> Any:
    from resnet_edge.models.zoo import create

    torch.manual_seed(0)
    return stir_batch_norms(
        create(arch, in_channels=1, num_classes=2, width=0.25, **options)
    ).eval()


def inputs(images: Any, count: int) -> Any:
    return torch.from_numpy(
        SPEC.to_input(np.stack([SPEC.pixels(images.load(i)) for i in range(count)]))
    )


@pytest.fixture
def images(easy_images: Path) -> Any:
    return open_images(easy_images, split="train")


@pytest.mark.parametrize("arch", ["plain20", "resnet20"])
def test_a_response_is_what_batch_norm_gives_before_relu_or_addition(
    arch: str, images: Any
) -> None:
    """The first block's two responses, computed by hand from the network's own layers."""
    model = network(arch)
    measured = {r.layer: r.std for r in layer_responses(model, images, SPEC, indices=range(50))}
    block = model.layer1[0]
    with torch.inference_mode():
        stem = model.bn1(model.conv1(inputs(images, 50)))
        first = block.bn1(block.conv1(stem.relu()))
        second = block.bn2(block.conv2(first.relu()))
    for layer, response in (("bn1", stem), ("layer1.0.bn1", first), ("layer1.0.bn2", second)):
        assert measured[layer] == pytest.approx(float(response.std(correction=0)), rel=1e-4), layer


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_every_layer_of_the_main_path_responds_once_in_order_and_no_projection(
    shortcut: str, images: Any
) -> None:
    responses = layer_responses(
        network("resnet20", shortcut=shortcut), images, SPEC, indices=range(8)
    )
    layers = [r.layer for r in responses]
    assert layers == ["bn1"] + [
        f"layer{s}.{b}.bn{n}" for s in (1, 2, 3) for b in range(3) for n in (1, 2)
    ]


def test_batches_do_not_change_a_response(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_edge.experiment import responses

    model = network("resnet20")
    at_once = layer_responses(model, images, SPEC, indices=range(60))
    batches = responses.ImageBatches
    monkeypatch.setattr(responses, "ImageBatches", lambda s, p, _, i: batches(s, p, 7, i))
    in_parts = layer_responses(model, images, SPEC, indices=range(60))
    for a, b in zip(at_once, in_parts, strict=True):
        assert a.std == pytest.approx(b.std, rel=1e-6)


def test_measuring_leaves_no_hook_behind(images: Any) -> None:
    model = network("plain20")
    layer_responses(model, images, SPEC, indices=range(4))
    assert not any(module._forward_hooks for module in model.modules())


def test_no_image_is_our_error(images: Any) -> None:
    with pytest.raises(DataError, match="no image"):
        layer_responses(network("plain20"), images, SPEC, indices=())


def test_every_trained_network_of_a_comparison_is_measured(
    tmp_path: Path, easy_images: Path, images: Any
) -> None:
    recipe = TrainConfig(epochs=1, epoch_images=32, batch_size=16, width=0.25, device="cpu")
    compare(
        [replace(recipe, arch=arch) for arch in ("plain20", "resnet20")],
        1,
        tmp_path,
        images=images,
        test=open_images(easy_images),
        spec=SPEC,
    )
    measured = measure_responses(tmp_path, images, count=16)
    assert [(m.network, len(m.layers)) for m in measured] == [
        ("plain20-w0.25", 19),
        ("resnet20-w0.25", 19),
    ]
    assert measured == measure_responses(tmp_path, images, count=16)
    plot_responses(measured, tmp_path / "responses.svg")
    svg = (tmp_path / "responses.svg").read_text()
    assert all(name in svg for name in ("plain20-w0.25", "resnet20-w0.25", "descending"))
    table = responses_table(measured)
    for one in measured:
        mean = np.mean([layer.std for layer in one.layers])
        assert f"| {one.network} | 0 | 19 | {mean:.3f} |" in table


def test_a_directory_without_a_comparison_is_our_error(tmp_path: Path, images: Any) -> None:
    with pytest.raises(BundleError, match=r"curves\.json"):
        measure_responses(tmp_path, images, count=1)


def test_responses_of_another_network_have_their_own_line(tmp_path: Path, images: Any) -> None:
    """Networks of different depth can stand in one plot."""
    measured = [
        NetworkResponses(arch, 0, layer_responses(network(arch), images, SPEC, indices=range(4)))
        for arch in ("plain20", "plain32")
    ]
    plot_responses(measured, tmp_path / "r.svg")
    assert "plain32" in (tmp_path / "r.svg").read_text()
