"""Fixtures and helpers that several test modules share."""

from __future__ import annotations

import importlib
import importlib.util
import os
import resource
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest

from resnet_edge.data import write_idx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resnet_edge.models.resnet import ResNet

REPOSITORY = Path(__file__).parent.parent

hypothesis.settings.register_profile(
    "resnet_edge",
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("resnet_edge")


def require(name: str, *, available: bool | None = None) -> Any:
    """Return the module ``name``, or skip because it is missing.

    Where the environment variable RESNET_EDGE_REQUIRE lists ``name``, its absence is a failure.

    Args:
        name: A module; with ``available`` any other thing a test needs, such as ``gpu``.
        available: Whether that other thing is there.
    """
    if available is None and importlib.util.find_spec(name) is not None:
        return importlib.import_module(name)
    if available:
        return None
    reason = f"{name} is not available on this machine"
    if name in os.environ.get("RESNET_EDGE_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"{reason}, but RESNET_EDGE_REQUIRE asks for it", pytrace=False)
    return pytest.skip(reason, allow_module_level=True)


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
    model = ResNet(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model.eval()


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
