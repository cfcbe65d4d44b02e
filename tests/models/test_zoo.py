from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.errors import ConfigError
from resnet_edge.models.identify import describe, name_of
from resnet_edge.models.zoo import ARCHITECTURES, architecture, create
from tests.conftest import require

torch = require("torch")

from resnet_edge.models.resnet import without_weights  # noqa: E402

DEPTHS = (18, 34, 50, 101, 152, 20, 32, 44, 56, 110)


def test_every_depth_of_the_paper_comes_residual_and_plain() -> None:
    assert {f"{kind}{d}" for kind in ("resnet", "plain") for d in DEPTHS} <= set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_number_in_a_name_counts_weighted_layers_on_the_main_path(name: str) -> None:
    """A deep stem counts as the one convolution it replaces."""
    keys = without_weights(architecture(name)).state_dict()
    convolutions = [k for k in keys if re.fullmatch(r"layer\d\.\d+\.conv\d\.weight", k)]
    depth = int(re.search(r"\d+", name)[0])  # type: ignore[index]
    assert depth == len(convolutions) + 2 == describe(architecture(name))[1]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet50", "resnet"),
        ("plain34", "plain"),
        ("resnext50_32x4d", "resnext"),
        ("wide_resnet50_2", "wide_resnet"),
        ("resnet26d", "resnet-d"),
        ("seresnet18", "seresnet"),
        ("seresnext50_32x4d", "seresnext"),
    ],
)
def test_a_family_is_told_by_the_configuration(name: str, family: str) -> None:
    assert describe(architecture(name))[0] == family
    assert name_of(architecture(name, num_classes=3, in_channels=4)) == name


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_plain_twin_differs_only_in_its_skips(depth: int) -> None:
    residual, plain = architecture(f"resnet{depth}"), architecture(f"plain{depth}")
    assert residual.residual
    assert plain == replace(residual, residual=False)


@pytest.mark.parametrize(("name", "classes"), [("resnet50", 1000), ("resnet20", 10)])
def test_number_of_classes_defaults_to_the_data_set_of_the_layout(name: str, classes: int) -> None:
    assert architecture(name).num_classes == classes


@given(
    name=st.sampled_from(ARCHITECTURES), classes=st.integers(1, 5000), channels=st.integers(1, 16)
)
def test_classes_and_channels_are_passed_on(name: str, classes: int, channels: int) -> None:
    config = architecture(name, num_classes=classes, in_channels=channels)
    assert (config.num_classes, config.in_channels) == (classes, channels)
    assert replace(config, num_classes=1, in_channels=1) == architecture(
        name, num_classes=1, in_channels=1
    )


def test_bottlenecks_are_v1_5_like_torchvisions() -> None:
    assert not architecture("resnet50").stride_in_1x1


@given(name=st.text(max_size=12).filter(lambda n: n not in ARCHITECTURES))
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown architecture") as caught:
        architecture(name)
    assert "resnet18" in (caught.value.hint or "")


def test_creating_a_network_is_reproducible_from_the_seed() -> None:
    def weights(seed: int) -> object:
        torch.manual_seed(seed)
        return create("resnet20").conv1.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@given(width=st.floats(0.5, 4), name=st.sampled_from(ARCHITECTURES))
def test_a_width_multiplies_the_channels_of_every_layer_and_nothing_else(
    width: float, name: str
) -> None:
    whole, scaled = architecture(name), architecture(name, width=width)
    for field in ("widths", "stem_widths", "se_widths"):
        for channels, multiplied in zip(getattr(whole, field), getattr(scaled, field), strict=True):
            assert abs(multiplied - channels * width) <= 0.5
        whole = replace(whole, **{field: getattr(scaled, field)})
    assert scaled == whole


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_of_half_the_width_can_be_built(name: str) -> None:
    assert without_weights(architecture(name, width=0.5)).state_dict()


@pytest.mark.parametrize(
    ("name", "width"), [("resnet20", 0.01), ("resnext50_32x4d", 0.1), ("seresnet18", 0.05)]
)
def test_a_width_that_leaves_no_channel_is_refused(name: str, width: float) -> None:
    with pytest.raises(ConfigError, match="without channels"):
        architecture(name, width=width)


@pytest.mark.parametrize("option", ["A", "B", "C"])
def test_a_shortcut_option_replaces_the_layouts_own(option: Any) -> None:
    for name in ("resnet20", "resnet18"):
        assert architecture(name, shortcut=option) == replace(architecture(name), shortcut=option)


def test_shortcuts_of_a_plain_network_are_refused() -> None:
    with pytest.raises(ConfigError, match="no shortcuts") as caught:
        architecture("plain20", shortcut="B")
    assert caught.value.hint == "choose resnet20"
