"""What each TensorRT version builds from and refuses, asked with its real bindings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.emulation.bindings import VERSIONS, run_with_bindings

STRONG_ONLY = ("11.4",)
WEAK_ONLY = ("8.6",)


def graphs() -> dict[str, str]:
    """Return the graph that is asked for by precision, rest and typing."""
    from resnet_edge.backends.config import BuildConfig
    from resnet_edge.backends.registry import get_backend

    backend = get_backend("tensorrt")
    return {
        f"{precision}-{rest}{'-strong' if strong else ''}": backend.graph(
            BuildConfig(precision, rest=rest, strongly_typed=strong)
        )
        for precision, rest in (
            ("fp32", "fp16"),
            ("fp16", "fp16"),
            ("int8", "fp16"),
            ("int8", "fp32"),
        )
        for strong in (False, True)
    }


STRONG = {"fp32-fp16": "fp32", "fp16-fp16": "fp16", "int8-fp16": "int8-fp16", "int8-fp32": "int8"}
WEAK = {"fp32-fp16": "fp32", "fp16-fp16": "fp32", "int8-fp16": "int8", "int8-fp32": "int8"}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_graph_holds_the_types_only_where_no_flag_can(version: str) -> None:
    found = run_with_bindings(version, graphs)
    default = STRONG if version in STRONG_ONLY else WEAK
    assert {k: v for k, v in found.items() if not k.endswith("strong")} == default
    assert {k.removesuffix("-strong"): v for k, v in found.items() if k.endswith("strong")} == (
        STRONG
    )


def refusals(options: list[dict[str, Any]]) -> list[str]:
    """Return what `check` says to each set of options, empty where it accepts them."""
    from resnet_edge.backends.config import BuildConfig
    from resnet_edge.backends.registry import get_backend
    from resnet_edge.errors import ConfigError

    said = []
    for chosen in options:
        chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in chosen.items()}
        try:
            get_backend("tensorrt").check(BuildConfig(**{"precision": "int8", **chosen}))
            said.append("")
        except ConfigError as error:
            said.append(f"{error.message} ({error.hint})")
    return said


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_version_cannot_do_is_refused(version: str) -> None:
    options = [
        {"strongly_typed": True},
        {"implicit": "ranges"},
        {"dla": 0},
        {"dla": 0, "implicit": "ranges"},
        {"dla": 0, "implicit": "entropy"},
        {"dla": 0, "implicit": "minmax"},
        {"compute_capabilities": ["8.6"]},
        {"hardware_compatible": True, "version_compatible": True, "sparsity": True, "builds": 3},
        {"workspace": 64, "optimization_level": 5, "timing_cache": False},
    ]
    (
        strong, implicit, dla, dla_implicit, dla_entropy, dla_minmax, capabilities, compatible,
        tuning,
    ) = run_with_bindings(version, refusals, options)  # fmt: skip
    assert ("no strongly typed" in strong) == (version in WEAK_ONLY)
    assert ("no implicit" in implicit) == (version in STRONG_ONLY)
    assert "not from Q/DQ" in dla
    assert bool(dla_implicit) == bool(dla_entropy) == (version in STRONG_ONLY)
    assert "no implicit" in dla_minmax if version in STRONG_ONLY else "entropy" in dla_minmax
    assert "--compute-capability" in capabilities
    assert compatible == tuning == ""


def without_gpu() -> list[str]:
    """Return what a machine without a driver is told, and that nothing crashed on the way."""
    from pathlib import Path

    from resnet_edge.backends.config import BuildConfig
    from resnet_edge.backends.registry import get_backend
    from resnet_edge.catalog.targets import load_target
    from resnet_edge.errors import BackendUnavailableError
    from resnet_edge.progress import SILENT

    backend = get_backend("tensorrt")
    said = [backend.probe().detail]
    try:
        target = load_target("a100")
        backend.build(Path("model.onnx"), target, BuildConfig("fp16"), progress=SILENT)
    except BackendUnavailableError as error:
        said.append(f"{error.message} ({error.hint})")
    return said


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_driver_no_tensorrt_object_is_made(version: str) -> None:
    probed, refused = run_with_bindings(version, without_gpu)
    assert "driver" in probed
    assert "driver" in refused
