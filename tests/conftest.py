"""Fixtures and helpers that several test modules share."""

from __future__ import annotations

import importlib
import importlib.util
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest

from resnet_edge.images.idx import write_idx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.images.spec import ImageSpec
    from resnet_edge.models.resnet import ResNet

REPOSITORY = Path(__file__).parent.parent

hypothesis.settings.register_profile(
    "resnet_edge",
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("resnet_edge")


def require(name: str, *, available: bool | None = None, reason: str | None = None) -> Any:
    """Return the module ``name``, or skip because it is missing.

    Where the environment variable RESNET_EDGE_REQUIRE lists ``name``, its absence is a failure.

    Args:
        name: A module; with ``available`` any other thing a test needs, such as ``gpu``.
        available: Whether that other thing is there.
        reason: Why it is missing, where that is known.
    """
    if available is None and importlib.util.find_spec(name) is not None:
        return importlib.import_module(name)
    if available:
        return None
    reason = f"{name} is not available on this machine{f': {reason}' if reason else ''}"
    if name in os.environ.get("RESNET_EDGE_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"{reason}, but RESNET_EDGE_REQUIRE asks for it", pytrace=False)
    return pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests build out of the user's record of trusted engines and caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_worker() -> None:
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch").set_num_threads(1)


@pytest.fixture(scope="session")
def shipped_images() -> Path:
    """Directory with the shipped image sets ``calibration`` and ``test``."""
    return REPOSITORY / "calibration" / "images" / "fashion-mnist"


@pytest.fixture
def tiny_resnet() -> ResNet:
    """A random two-stage network of a few hundred weights: one channel in, two classes out."""
    torch = require("torch")
    from resnet_edge.models.resnet import ResNet, ResNetConfig

    torch.manual_seed(0)
    config = ResNetConfig(
        "basic", (1, 1), (2, 4), "small", shortcut="B", in_channels=1, num_classes=2
    )
    return stir_batch_norms(ResNet(config)).eval()


def stir_batch_norms(model: ResNet) -> ResNet:
    """Give every batch norm random statistics and weights, so that folding it does something."""
    torch = require("torch")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model


@pytest.fixture(scope="session")
def easy_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX directory of 192 training and 64 test images: bright ``above`` (0) or ``below`` (1)."""
    folder = tmp_path_factory.mktemp("easy")
    rng = np.random.default_rng(0)
    for part, count in (("train", 192), ("t10k", 64)):
        labels = np.arange(count, dtype=np.uint8) % 2
        pixels = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        pixels[labels == 0, :14] += 150
        pixels[labels == 1, 14:] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    (folder / "classes.txt").write_text("above\nbelow\n")
    return folder


@contextmanager
def full_disk(room: int = 1024) -> Iterator[None]:
    """Make every file write of this process fail after ``room`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def processor_seconds(limit: int) -> Iterator[None]:
    """End an endless loop after ``limit`` seconds of computing."""

    def give_up(_signal: int, _frame: object) -> None:
        pytest.fail("endless loop")

    previous = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


@pytest.fixture(scope="session")
def flow_bundle(tmp_path_factory: pytest.TempPathFactory, shipped_images: Path) -> Path:
    """A bundle of the shipped checkpoint with a calibration; copy it before changing it.

    A machine without PyTorch takes the one that the variable RESNET_EDGE_BUNDLE names.
    """
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.recipes import Recipe
    from resnet_edge.catalog.shipped import CHECKPOINT, find
    from resnet_edge.images.opening import open_images

    folder = tmp_path_factory.mktemp("flow") / "bundle"
    if given := os.environ.get("RESNET_EDGE_BUNDLE"):
        bundle = Bundle.open(Path(shutil.copytree(given, folder)))
    else:
        require("torch")
        from resnet_edge.export.stage import export

        bundle = export(find(CHECKPOINT), folder).bundle
    recipe = Recipe("test", "few images", "mse", images=320)
    calibrate(bundle, open_images(shipped_images / "calibration"), recipe)
    return bundle.path


@pytest.fixture
def bundle_copy(flow_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of the shipped checkpoint with a calibration, for one test alone."""
    return Path(shutil.copytree(flow_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, shipped_images: Path
) -> Callable[[str], Bundle]:
    """Bundles of small networks by name, exported when first asked for; only to be read.

    ``tiny``: one basic block. ``basic`` and ``bottleneck``: max-pool, identities and projections;
    ``uint8``: ``basic`` that takes raw pixels. ``resnet20`` (option A) and ``plain20``: the real
    ones. Filters are random, the classifier is fitted, so that predictions mean something.
    """
    require("torch")
    from resnet_edge.export.stage import ExportConfig, export
    from resnet_edge.models.checkpoint import save_checkpoint

    @cache
    def make(name: str) -> Bundle:
        folder = tmp_path_factory.mktemp(name)
        model, spec = _small_network(name)
        _fit(model, spec, shipped_images / "calibration")
        checkpoint = folder / f"{name}.safetensors"
        save_checkpoint(checkpoint, model, name=name, image_spec=spec, labels=None, provenance={})
        config = ExportConfig(input="uint8" if name == "uint8" else "float")
        return export(checkpoint, folder / "bundle", config).bundle

    return make


@pytest.fixture(scope="session")
def calibrated(
    exported: Callable[[str], Bundle],
    tmp_path_factory: pytest.TempPathFactory,
    shipped_images: Path,
) -> Callable[[str], Bundle]:
    """The bundles of ``exported`` with ranges from 64 of the shipped images; only to be read."""
    from resnet_edge.bundle.bundle import Bundle
    from resnet_edge.calibrate.stage import calibrate
    from resnet_edge.catalog.recipes import Recipe
    from resnet_edge.images.opening import open_images

    @cache
    def make(name: str) -> Bundle:
        path = tmp_path_factory.mktemp(f"calibrated-{name}") / "bundle"
        bundle = Bundle.open(Path(shutil.copytree(exported(name).path, path)))
        images = open_images(shipped_images / "calibration")
        calibrate(bundle, images, Recipe("test", "few images", "mse", images=64))
        return bundle

    return make


def _small_network(name: str) -> tuple[ResNet, ImageSpec]:
    from resnet_edge.images.spec import FASHION_MNIST, ImageSpec
    from resnet_edge.models.resnet import ResNet, ResNetConfig
    from resnet_edge.models.zoo import architecture

    rgb = ImageSpec(resize=32, crop=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    if name in ("resnet20", "plain20"):
        return ResNet(architecture(name, in_channels=1)), FASHION_MNIST
    if name == "tiny":
        config = ResNetConfig("basic", (1,), (4,), "small", in_channels=1, num_classes=10)
        return ResNet(config), replace(FASHION_MNIST, resize=8, crop=(8, 8))
    if name == "bottleneck":
        config = ResNetConfig("bottleneck", (2, 1), (4, 8), "imagenet", num_classes=10)
        return ResNet(config), replace(rgb, resize=64, crop=(64, 64))
    config = ResNetConfig("basic", (2, 2), (8, 16), "imagenet", num_classes=10)
    return ResNet(config), rgb


def _fit(model: ResNet, spec: ImageSpec, images: Path) -> None:
    """Give a random network sensible batch norms, and a classifier by ridge regression."""
    from resnet_edge.images.batches import ImageBatches
    from resnet_edge.images.opening import open_images

    torch = require("torch")
    source = open_images(images)
    batch = next(iter(ImageBatches(source, spec, batch_size=len(source))))
    x = torch.from_numpy(spec.to_input(batch.pixels))
    generator = torch.Generator().manual_seed(0)
    features: list[Any] = []
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(generator=generator).mul_((2 / parameter[0].numel()) ** 0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # one pass gives the exact statistics
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
        model.train()(x)
        hook = model.fc.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        model.eval()(x)
        hook.remove()
        rows = torch.cat([features[0], torch.ones(len(x), 1)], 1)
        wanted = torch.nn.functional.one_hot(torch.from_numpy(source.labels), 10) * 10.0
        ridge = rows.T @ rows + 10 * torch.eye(rows.shape[1])
        solution = torch.linalg.solve(ridge, rows.T @ wanted)
        model.fc.weight.copy_(solution[:-1].T)
        model.fc.bias.copy_(solution[-1])


def onnx_model(graph: str, *, opset: int = 17, **initializers: Any) -> ModelProto:
    """Return a model written as ONNX text, its constants given as arrays."""
    parser = importlib.import_module("onnx.parser")
    numpy_helper = importlib.import_module("onnx.numpy_helper")
    model: ModelProto = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {graph}')
    for name, value in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model
