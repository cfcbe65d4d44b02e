"""Real engines of TensorRT for RTX, built without a GPU: blocks, precisions, options, refusals."""

from __future__ import annotations

import shutil
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.registry import get_backend
from resnet_edge.build.stage import build, layers_path
from resnet_edge.bundle.sidecar import read_sidecar
from resnet_edge.catalog.recipes import Recipe
from resnet_edge.catalog.targets import load_target
from resnet_edge.errors import BackendUnavailableError, BuildError, ConfigError, EngineMismatchError
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.models.zoo import ARCHITECTURES
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from resnet_edge.backends.config import Precision
    from resnet_edge.build.stage import BuildResult
    from resnet_edge.bundle.bundle import Bundle

RTX = load_target("rtx-4090")
PRECISIONS: list[tuple[Precision, str]] = [
    ("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp16"), ("int8", "fp32"),
]  # fmt: skip
SMALL = {"layers": (2, 1), "widths": (8, 16), "stem": "imagenet", "num_classes": 10}
NETWORKS: dict[str, dict[str, Any]] = {
    "basic-A": {**SMALL, "block": "basic", "stem": "small", "shortcut": "A"},
    "basic-B": {**SMALL, "block": "basic"},
    "basic-C": {**SMALL, "block": "basic", "shortcut": "C"},
    "bottleneck-B": {**SMALL, "block": "bottleneck"},
    "bottleneck-C": {**SMALL, "block": "bottleneck", "shortcut": "C"},
    "resnext": {**SMALL, "block": "bottleneck", "widths": (32, 64), "groups": 8, "base_width": 8},
    "resnet-d": {
        **SMALL, "block": "bottleneck", "stem": "deep", "stem_widths": (4, 4, 8), "shortcut": "D",
    },
    "se-resnet": {**SMALL, "block": "basic", "se_widths": (4, 4)},
    "wide-1": {**SMALL, "block": "basic", "layers": (1,), "widths": (512,), "stem": "small"},
    "wide-2": {**SMALL, "block": "basic", "layers": (2,), "widths": (512,), "stem": "small"},
}  # fmt: skip
BLOCKS = [name for name in NETWORKS if not name.startswith("wide")]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Make calibrated bundles of randomly initialised networks."""
    torch = require("torch")
    require("tensorrt_rtx")
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.export.stage import ExportConfig, export
    from resnet_edge.images.arrays import ArrayImages
    from resnet_edge.images.spec import ImageSpec
    from resnet_edge.models.checkpoint import save_checkpoint
    from resnet_edge.models.resnet import ResNet, ResNetConfig
    from resnet_edge.models.zoo import architecture

    @cache
    def bundle(name: str, side: int = 64, pixels: Any = "float") -> Bundle:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        if name in ARCHITECTURES:
            model = steady(ResNet(architecture(name)))
        else:
            model = with_statistics(ResNet(ResNetConfig(**NETWORKS[name])), side)
        spec = ImageSpec(resize=side, crop=(side, side), mean=(0.5,) * 3, std=(0.25,) * 3)
        checkpoint = folder / "model.safetensors"
        save_checkpoint(checkpoint, model, name=name, image_spec=spec, labels=None, provenance={})
        made = export(checkpoint, folder / "bundle", ExportConfig(input=pixels)).bundle
        images = np.random.default_rng(0).integers(0, 255, (4, 64, 64), dtype=np.uint8)
        calibrate(made, ArrayImages(folder, images, None), Recipe("test", "", "minmax", images=4))
        return made

    return bundle


def steady(model: Any) -> Any:
    """Keep the activations of a deep network with random weights within FP16's range."""
    torch = require("torch")
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "conv2") and model.config.residual:
                last = module.bn3 if hasattr(module, "bn3") else module.bn2
                last.weight.fill_(0.2)  # of a block, whose output is added to the stream
    return model.eval()


def with_statistics(model: Any, side: int) -> Any:
    """Give every batch norm of a small network weights and the statistics of random images."""
    torch = require("torch")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # one pass gives the exact statistics
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        model.train()(torch.randn(4, 3, side, side))
    return model.eval()


def build_as(bundle: Bundle, precision: Precision, rest: Any, **options: Any) -> BuildResult:
    return build(bundle, RTX, BuildConfig(precision, rest=rest, **options))


@pytest.mark.parametrize(("precision", "rest"), PRECISIONS)
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_builds_in_every_precision(
    make: Callable[..., Bundle], block: str, precision: Precision, rest: str
) -> None:
    bundle = make(block)
    model = load_graph(bundle.file("model.onnx"))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # any batch
    result = build_as(bundle, precision, rest, profile=(1, 4, 16))
    assert result.size > 50_000
    assert result.sidecar.rest == rest
    assert not [w for w in result.sidecar.warnings if "precision" in w.lower()]
    assert any("experimental" in note for note in result.sidecar.notes) == (precision == "int8")


@pytest.mark.parametrize(("precision", "rest"), PRECISIONS)
@pytest.mark.parametrize("block", ["basic-B", "bottleneck-B"])
def test_raw_pixels_are_taken_in_every_precision(
    make: Callable[..., Bundle], block: str, precision: Precision, rest: str
) -> None:
    bundle = make(block, pixels="uint8")
    assert bundle.model.image_spec.input == "uint8"
    assert build_as(bundle, precision, rest).size > 50_000


def test_int8_weights_are_stored_as_int8(make: Callable[..., Bundle]) -> None:
    """What one more block adds to the plan is about a byte per weight, against four in FP32."""
    sizes = {
        (name, precision): build_as(make(name, side=8), precision, "fp16").size
        for name in ("wide-1", "wide-2")
        for precision in ("fp32", "fp16", "int8")
    }
    weights = 2 * 512 * 512 * 9
    added = {p: sizes["wide-2", p] - sizes["wide-1", p] for p in ("fp32", "fp16", "int8")}
    assert added["fp32"] == pytest.approx(4 * weights, rel=0.1)
    assert added["fp16"] == pytest.approx(2 * weights, rel=0.1)
    assert added["int8"] == pytest.approx(weights, rel=0.3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_networks_build_at_full_resolution(make: Callable[..., Bundle], name: str) -> None:
    size = {p: build_as(make(name, side=224), p, r).size for p, r in PRECISIONS}
    assert size["int8"] < 0.45 * size["fp32"]
    assert 0.4 * size["fp32"] < size["fp16"] < 0.6 * size["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_builds_in_every_precision(
    make: Callable[..., Bundle], name: str
) -> None:
    bundle = make(name, side=64)
    assert all(build_as(bundle, p, r, profile=(1, 2, 4)).size for p, r in PRECISIONS)
    shutil.rmtree(bundle.path.parent)  # together they would take 20 GB


def test_one_engine_for_several_compute_capabilities(make: Callable[..., Bundle]) -> None:
    capabilities = ("8.6", "8.9", "12.0")
    one = build_as(make("basic-B"), "fp16", "fp16")
    several = build_as(make("basic-B"), "fp16", "fp16", compute_capabilities=capabilities)
    assert not several.cached
    assert several.sidecar.compute_capabilities == capabilities
    assert several.sidecar == read_sidecar(several.engine)
    assert one.sidecar.compute_capabilities == ("8.9",)


def test_every_option_reaches_the_builder(
    make: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = require("tensorrt_rtx")
    build_it, add_it = (
        trt.Builder.build_serialized_network, trt.IBuilderConfig.add_optimization_profile,
    )  # fmt: skip
    told: list[Any] = []

    def adding(config: Any, profile: Any) -> Any:
        told.append([tuple(shape) for shape in profile.get_shape("input")])
        return add_it(config, profile)

    def building(builder: Any, network: Any, config: Any) -> Any:
        count = config.num_compute_capabilities
        told.append([
            [config.get_compute_capability(position).name for position in range(count)],
            config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
            config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS),
            config.get_flag(trt.BuilderFlag.TF32),
        ])  # fmt: skip
        return build_it(builder, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", building)
    monkeypatch.setattr(trt.IBuilderConfig, "add_optimization_profile", adding)
    bundle, shape = make("basic-B"), (3, 64, 64)
    build_as(bundle, "fp32", "fp32", profile=(1, 2, 3))
    capabilities = ("8.6", "8.9", "12.0")
    build_as(
        bundle, "fp32", "fp32",
        profile=(2, 3, 4), compute_capabilities=capabilities, workspace=256, sparsity=True,
    )  # fmt: skip
    assert told == [
        [(1, *shape), (2, *shape), (3, *shape)],
        [["SM89"], RTX.workspace_bytes, False, False],
        [(2, *shape), (3, *shape), (4, *shape)],
        [["SM86", "SM89", "SM120"], 256 << 20, True, False],
    ]


def test_turing_among_several_refuses_int8(make: Callable[..., Bundle]) -> None:
    with pytest.raises(ConfigError, match="Turing"):
        build_as(make("basic-B"), "int8", "fp16", compute_capabilities=("7.5", "8.9"))


@pytest.mark.parametrize("capability", ["8.7", "9.0", "eight"])
def test_a_compute_capability_it_does_not_know_is_named(
    make: Callable[..., Bundle], capability: str
) -> None:
    with pytest.raises(ConfigError, match=capability) as caught:
        build_as(make("basic-B"), "fp16", "fp16", compute_capabilities=(capability,))
    assert "8.9" in str(caught.value.hint)


def test_too_little_workspace_says_what_to_raise(make: Callable[..., Bundle]) -> None:
    with pytest.raises(BuildError) as caught:
        build_as(make("basic-A"), "fp16", "fp16", profile=(1, 64, 128), workspace=1)
    assert "--workspace" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ({"dla": 0}, "DLA"),
        ({"implicit": "ranges"}, "calibrator"),
        ({"builds": 2}, "--builds"),
        ({"optimization_level": 5}, "--optimization-level"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"hardware_compatible": True}, "--hardware-compatible"),
        ({"timing_cache": False}, "--no-timing-cache"),
    ],
)
def test_options_it_cannot_honour_are_refused_before_anything_is_built(
    make: Callable[..., Bundle], option: dict[str, Any], flag: str
) -> None:
    bundle = make("basic-B")
    with pytest.raises(ConfigError, match=flag):
        build_as(bundle, "int8", "fp16", **option)


def test_without_a_gpu_the_reason_is_said_and_nothing_crashes(
    make: Callable[..., Bundle],
) -> None:
    backend = get_backend("tensorrt_rtx")
    found = backend.probe()
    assert found.available
    if "without a GPU" not in found.detail:
        pytest.skip("there is a GPU")
    result = build_as(make("basic-B"), "fp32", "fp32")
    assert "driver" in str(backend.obstacle(result.sidecar))
    assert not layers_path(result.engine).exists()
    with pytest.raises(BackendUnavailableError, match="driver"):
        backend.open(result.engine, result.sidecar)


def test_the_validity_of_an_engine_is_asked_before_it_is_loaded(
    make: Callable[..., Bundle], tmp_path: Path
) -> None:
    from resnet_edge.backends.tensorrt.rtx import _check_validity

    trt = require("tensorrt_rtx")
    if "without a GPU" not in get_backend("tensorrt_rtx").probe().detail:
        pytest.skip("there is a GPU")
    plan = build_as(make("basic-B"), "fp32", "fp32").engine.read_bytes()
    with pytest.raises(EngineMismatchError, match="cannot run here"):
        _check_validity(trt, plan, "model.engine")


def test_an_engine_of_the_other_tensorrt_is_known_by_its_first_bytes(
    make: Callable[..., Bundle],
) -> None:
    from resnet_edge.backends.tensorrt.engine import refuse_foreign

    plan = build_as(make("basic-B"), "fp32", "fp32").engine.read_bytes()
    refuse_foreign(plan, "model.engine", ahead_of_time=True)
    with pytest.raises(EngineMismatchError, match="TensorRT for RTX built it"):
        refuse_foreign(plan, "model.engine", ahead_of_time=False)
    with pytest.raises(EngineMismatchError, match="no engine of TensorRT for RTX"):
        refuse_foreign(b"ftrt" + plan[4:], "model.engine", ahead_of_time=True)
