from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.models.zoo import architecture, create
from tests.conftest import require

torch = require("torch")

from resnet_edge.models.resnet import (  # noqa: E402
    BasicBlock,
    Bottleneck,
    ResNet,
    ResNetConfig,
    SqueezeExcitation,
    ZeroPadShortcut,
    count_macs,
    make_shortcut,
)

if TYPE_CHECKING:
    from torch import Tensor

# name: parameters, GMACs at 224, millions of convolution and classifier weights, convolutions
IMAGENET = {
    "resnet18": (11_689_512, "1.814", "11.679", 20),
    "resnet34": (21_797_672, "3.664", "21.780", 36),
    "resnet50": (25_557_032, "4.089", "25.503", 53),
    "resnet101": (44_549_160, "7.801", "44.443", 104),
    "resnet152": (60_192_808, "11.514", "60.040", 155),
}
# torchvision's meta data: parameters, GMACs at 224.
DESCENDANTS = {
    "resnext50_32x4d": (25_028_904, "4.230"),
    "resnext101_32x8d": (88_791_336, "16.414"),
    "resnext101_64x4d": (83_455_272, "15.460"),
    "wide_resnet50_2": (68_883_240, "11.398"),
    "wide_resnet101_2": (126_886_696, "22.753"),
}
# timm's benchmark table: millions of parameters, GMACs at 224, which count batch norms too.
TIMM = {
    "resnet26": ("16.00", 2.36),
    "resnet200": ("64.67", 15.07),
    "resnet18d": ("11.71", 2.06),
    "resnet26d": ("16.01", 2.60),
    "resnet34d": ("21.82", 3.91),
    "resnet50d": ("25.58", 4.35),
    "resnet101d": ("44.57", 8.08),
    "resnet152d": ("60.21", 11.80),
    "seresnet18": ("11.78", 1.82),
    "seresnet34": ("21.96", 3.67),
    "seresnet50": ("28.09", 4.11),
    "seresnet101": ("49.33", 7.84),
    "seresnet152": ("66.82", 11.57),
    "seresnext50_32x4d": ("27.56", 4.26),
    "seresnext101_32x4d": ("48.96", 8.02),
    "seresnext101_32x8d": ("93.57", 16.48),
    "resnext101_32x4d": ("44.18", 8.01),
}
CIFAR = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
SMALL = ResNetConfig("basic", (2, 2), (8, 16), "small", shortcut="B", num_classes=3)


def on_meta(config: ResNetConfig) -> ResNet:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return ResNet(config)


def parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def randomised(model: Any, seed: int = 0) -> Any:
    """Give batch norms statistics of their own, so that forgetting one changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model.eval()


def normalised_convolution(x: Tensor, conv: Any, bn: Any) -> Tensor:
    y = torch.nn.functional.conv2d(x, conv.weight, stride=conv.stride, padding=conv.padding)
    mean, var, weight, bias = (
        t[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (y - mean) / torch.sqrt(var + 1e-5) * weight + bias


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_variant_has_torchvisions_parameter_count(name: str) -> None:
    assert parameters(on_meta(architecture(name))) == IMAGENET[name][0]


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_variant_has_the_exact_parameter_count_of_option_a(name: str) -> None:
    assert parameters(on_meta(architecture(name))) == CIFAR[name]


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_variant_has_the_tables_multiply_adds_weights_and_convolutions(name: str) -> None:
    _, gmacs, weights, convolutions = IMAGENET[name]
    model = on_meta(architecture(name))
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert f"{count_macs(model, (3, 224, 224)) / 1e9:.3f}" == gmacs
    assert len(convs) == convolutions
    total = sum(m.weight.numel() for m in (*convs, model.fc))
    assert f"{total / 1e6:.3f}" == weights


@pytest.mark.parametrize("name", DESCENDANTS)
def test_a_descendant_has_torchvisions_parameters_and_multiply_adds(name: str) -> None:
    model = on_meta(architecture(name))
    gmacs = f"{count_macs(model, (3, 224, 224)) / 1e9:.3f}"
    assert (parameters(model), gmacs) == DESCENDANTS[name]


@pytest.mark.parametrize("name", TIMM)
def test_a_descendant_has_the_parameters_and_multiply_adds_of_timms_table(name: str) -> None:
    millions, gmacs = TIMM[name]
    model = on_meta(architecture(name))
    assert f"{parameters(model) / 1e6:.2f}" == millions
    counted = count_macs(model, (3, 224, 224)) / 1e9
    assert counted - 0.005 < gmacs < 1.012 * counted


def test_resnet50_v1_saves_multiply_adds_and_no_parameters() -> None:
    v1_5 = on_meta(architecture("resnet50"))
    v1 = on_meta(replace(architecture("resnet50"), stride_in_1x1=True))
    assert f"{count_macs(v1, (3, 224, 224)) / 1e9:.3f}" == "3.858"
    assert parameters(v1) == parameters(v1_5)
    assert (v1.layer2[0].conv1.stride, v1.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (v1_5.layer2[0].conv1.stride, v1_5.layer2[0].conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize("depth", [18, 34])
def test_basic_blocks_do_not_know_v1_from_v1_5(depth: int) -> None:
    config = architecture(f"resnet{depth}")
    v1 = on_meta(replace(config, stride_in_1x1=True))
    assert f"{count_macs(v1, (3, 224, 224)) / 1e9:.3f}" == IMAGENET[f"resnet{depth}"][1]


def test_counting_multiply_adds_leaves_no_trace_on_the_model() -> None:
    model = ResNet(SMALL).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert count_macs(model, (3, 16, 16)) == count_macs(model, (3, 16, 16)) > 0
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_multiply_adds_of_one_convolution_and_classifier_follow_the_formula() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )
    assert count_macs(model, (6, 10, 14)) == 8 * 5 * 7 * (6 // 2) * 9 + 8 * 5


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain34"])
def test_imagenet_layout_halves_at_stem_pool_and_stages_3_to_5(name: str) -> None:
    expansion = 4 if name == "resnet50" else 1
    assert stage_shapes(architecture(name), 224) == {
        "conv1": (64, 112, 112),
        "maxpool": (64, 56, 56),
        "layer1": (64 * expansion, 56, 56),
        "layer2": (128 * expansion, 28, 28),
        "layer3": (256 * expansion, 14, 14),
        "layer4": (512 * expansion, 7, 7),
        "fc": (1000,),
    }


@pytest.mark.parametrize(
    ("side", "sides"), [(32, (32, 16, 8)), (28, (28, 14, 7)), (33, (33, 17, 9))]
)
@pytest.mark.parametrize("name", ["resnet20", "plain32"])
def test_small_layout_keeps_the_resolution_in_the_stem_and_halves_twice(
    name: str, side: int, sides: tuple[int, int, int]
) -> None:
    first, second, third = sides
    assert stage_shapes(architecture(name), side) == {
        "conv1": (16, first, first),
        "maxpool": (16, first, first),
        "layer1": (16, first, first),
        "layer2": (32, second, second),
        "layer3": (64, third, third),
        "fc": (10,),
    }


def stage_shapes(config: ResNetConfig, side: int) -> dict[str, tuple[int, ...]]:
    model = on_meta(config).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("conv1", "maxpool", *model.stage_names, "fc"):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: output.shape[1:]})
        )
    model(torch.empty(2, 3, side, side, device="meta"))
    return {name: tuple(shape) for name, shape in shapes.items()}


@given(
    channels=st.tuples(st.integers(1, 5), st.integers(0, 5)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.integers(1, 2),
)
def test_option_a_subsamples_and_pads_with_zero_channels_on_both_sides(
    channels: tuple[int, int], size: tuple[int, int], stride: int
) -> None:
    c_in, extra = channels
    x = torch.rand(2, c_in, *size) + 1
    out = ZeroPadShortcut(c_in, c_in + extra, stride)(x)
    front = extra // 2
    assert out.shape[1] == c_in + extra
    assert torch.equal(out[:, front : front + c_in], x[:, :, ::stride, ::stride])
    assert not out[:, :front].any()
    assert not out[:, front + c_in :].any()


def test_options_differ_by_exactly_their_projections() -> None:
    a, b, c = (on_meta(replace(architecture("resnet34"), shortcut=s)) for s in ("A", "B", "C"))
    skips = {m: [k for k in m.state_dict() if k.endswith("downsample.0.weight")] for m in (a, b, c)}
    assert skips[a] == []
    assert skips[b] == [f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4)]
    assert len(skips[c]) == 3 + 4 + 6 + 3

    def projection(c_in: int, c_out: int) -> int:
        return c_in * c_out + 2 * c_out

    growing = sum(projection(c, 2 * c) for c in (64, 128, 256))
    same = sum(n * projection(c, c) for n, c in ((3, 64), (3, 128), (5, 256), (2, 512)))
    assert parameters(b) - parameters(a) == growing
    assert parameters(c) - parameters(b) == same


def test_option_b_projects_the_first_bottleneck_stage_because_its_width_grows() -> None:
    model = on_meta(architecture("resnet50"))
    assert tuple(model.layer1[0].downsample[0].weight.shape) == (256, 64, 1, 1)
    assert model.layer1[0].downsample[0].stride == (1, 1)
    assert model.layer1[1].downsample is None


def test_option_a_and_the_plain_twin_have_the_same_parameters() -> None:
    residual, plain = on_meta(architecture("resnet20")), on_meta(architecture("plain20"))
    assert {k: v.shape for k, v in residual.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


@pytest.mark.parametrize(("block", "last"), [(BasicBlock, "bn2"), (Bottleneck, "bn3")])
def test_silenced_block_passes_its_input_only_when_residual(block: Any, last: str) -> None:
    x = torch.randn(2, 4 * block.expansion, 5, 5)
    before = x.clone()
    for residual in (True, False):
        layer = block(4 * block.expansion, 4, 1, replace(SMALL, residual=residual)).eval()
        torch.nn.init.zeros_(layer.get_submodule(last).weight)
        expected = torch.relu(x) if residual else torch.zeros_like(x)
        assert torch.equal(layer(x), expected)
        assert torch.equal(x, before)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_computes_equation_2_of_the_paper(block: Any, stride: int) -> None:
    layer = randomised(block(3, 6, stride, SMALL))
    x = torch.randn(2, 3, 7, 7)
    pairs = [(layer.conv1, layer.bn1), (layer.conv2, layer.bn2)]
    if block is Bottleneck:
        pairs.append((layer.conv3, layer.bn3))
    branch = x
    for conv, bn in pairs:
        branch = normalised_convolution(branch, conv, bn)
        if bn is not pairs[-1][1]:
            branch = branch.relu()
    skip = normalised_convolution(x, *layer.downsample)
    torch.testing.assert_close(layer(x), torch.relu(branch + skip))


@pytest.mark.parametrize("channels", [1, 2, 4, 9])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_any_number_of_input_channels_works(channels: int, stem: Any) -> None:
    model = ResNet(replace(SMALL, in_channels=channels, stem=stem)).eval()
    assert model(torch.rand(2, channels, 32, 24)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "blocks", "convs", "projected"),
    [("resnet18", (2, 2, 2, 2), 2, (2, 3, 4)), ("resnet50", (3, 4, 6, 3), 3, (1, 2, 3, 4))],
)
def test_state_dict_has_torchvisions_names(
    name: str, blocks: tuple[int, ...], convs: int, projected: tuple[int, ...]
) -> None:
    batch_norm_keys = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{k}" for k in batch_norm_keys)}
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            for i in range(1, convs + 1):
                expected.add(f"layer{stage}.{block}.conv{i}.weight")
                expected |= {f"layer{stage}.{block}.bn{i}.{k}" for k in batch_norm_keys}
    for stage in projected:
        expected.add(f"layer{stage}.0.downsample.0.weight")
        expected |= {f"layer{stage}.0.downsample.1.{k}" for k in batch_norm_keys}
    assert set(on_meta(architecture(name)).state_dict()) == expected


@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet18", "resnet50"])
def test_gradient_reaches_every_parameter_back_to_the_first_layer(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=3)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    silent = [
        k
        for k, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert silent == []


def test_convolutions_start_from_he_initialisation() -> None:
    torch.manual_seed(0)
    for key, weight in create("resnet18").state_dict().items():
        if re.search(r"conv\d\.weight$|downsample\.0\.weight$", key):
            fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
            assert float(weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), key


def test_squeeze_and_excitation_scales_channels_by_a_gate_of_all_averages() -> None:
    gate = randomised(SqueezeExcitation(4, 2))
    x = torch.randn(3, 4, 5, 6)
    mean = x.mean((2, 3))
    hidden = torch.relu(mean @ gate.fc1.weight[:, :, 0, 0].T + gate.fc1.bias)
    expected = torch.sigmoid(hidden @ gate.fc2.weight[:, :, 0, 0].T + gate.fc2.bias)
    assert torch.allclose(gate(x), x * expected[:, :, None, None], atol=1e-6)


def test_option_d_averages_before_it_projects() -> None:
    shortcut = make_shortcut("D", 2, 4, 2)
    assert shortcut is not None
    x = torch.randn(2, 2, 6, 8)
    pooled = x.reshape(2, 2, 3, 2, 4, 2).mean((3, 5))
    expected = shortcut[2](shortcut[1](pooled))  # type: ignore[index]
    assert torch.allclose(shortcut(x), expected, atol=1e-6)
    assert make_shortcut("D", 4, 4, 1) is None


@pytest.mark.parametrize("name", ["resnet18d", "resnet50d"])
def test_a_deep_stem_has_the_resolution_of_the_one_it_replaces(name: str) -> None:
    plain = stage_shapes(architecture(name[:-1]), 97)
    assert stage_shapes(architecture(name), 97) == plain


def test_without_a_classifier_the_pooled_features_come_out() -> None:
    config = replace(SMALL, num_classes=0)
    model = randomised(ResNet(config))
    assert config.outputs == config.features == 16
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 16)
    assert not any(k.startswith("fc") for k in model.state_dict())


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "resnet26d", "seresnet18"])
def test_a_configuration_survives_json(name: str) -> None:
    config = architecture(name)
    assert ResNetConfig.from_json(json.loads(json.dumps(asdict(config)))) == config


def test_a_configuration_written_before_there_were_descendants_is_read() -> None:
    value = asdict(SMALL)
    for key in ("groups", "base_width", "stem_widths", "se_widths"):
        del value[key]
    assert ResNetConfig.from_json(value) == SMALL


@pytest.mark.parametrize(
    "change",
    [
        {"groups": 2},
        {"groups": 0},
        {"se_widths": [1]},
        {"stem_widths": [1, 2, 3]},
        {"stem": "deep"},
        {"num_classes": -1},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_configuration_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ResNetConfig.from_json(asdict(SMALL) | change)
