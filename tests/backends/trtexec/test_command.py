from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.trtexec.command import (
    Build,
    build_arguments,
    build_request,
    check_options,
    graph_for,
)
from resnet_edge.backends.trtexec.inference import Run, run_arguments
from resnet_edge.backends.trtexec.known_options import known_flags
from resnet_edge.catalog.targets import load_target
from resnet_edge.device.versions import parts
from resnet_edge.errors import BuildError, ConfigError, GraphError
from resnet_edge.tensors import TensorSpec
from tests.emulation.trtexec.install import VERSIONS, flags_of, listed_flags

if TYPE_CHECKING:
    from resnet_edge.backends.config import Precision

SHAPES = {"input": ((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))}
BUILD = Build("model.onnx", "model.engine", BuildConfig("fp32"), SHAPES, 512)
OURS = known_flags("8.2") | known_flags("8.6") | known_flags("9.1") | known_flags("11.0")


def names(arguments: list[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_says_what_the_public_sources_say(version: str) -> None:
    assert known_flags(version) == OURS & listed_flags(version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_only_options_of_the_version_are_written(
    version: str, precision: Precision, rest: Any
) -> None:
    config = BuildConfig(precision, rest, dla=0, sparsity=True)
    build = replace(BUILD, config=config, layers="layers.json", timing_cache="timing.cache")
    accepted = set(flags_of(version)["accepts"])
    run = Run(export_outputs="o", export_times="t", warm_up_ms=1, seconds=1, dla=0)
    flags = known_flags(version)
    assert names(build_arguments(build, flags)) <= accepted & listed_flags(version)
    arguments = run_arguments("e", run, files={"input": "i"}, shapes={"input": (1, 2)}, flags=flags)
    assert names(arguments) <= accepted & listed_flags(version)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("8.2", ["--fp16", "--int8", "--workspace=512", "--buildOnly"]),
        ("8.5", ["--fp16", "--int8", "--memPoolSize=workspace:512", "--buildOnly"]),
        ("8.6", ["--fp16", "--int8", "--memPoolSize=workspace:512", "--skipInference"]),
        ("10.13", ["--fp16", "--int8", "--memPoolSize=workspace:512", "--skipInference"]),
        ("11.4", ["--memPoolSize=workspace:512", "--skipInference"]),
    ],
)
def test_the_same_request_in_the_words_of_each_version(version: str, expected: list[str]) -> None:
    arguments = build_arguments(replace(BUILD, config=BuildConfig("int8")), known_flags(version))
    assert arguments == [
        "--onnx=model.onnx",
        "--saveEngine=model.engine",
        "--minShapes=input:1x3x8x8",
        "--optShapes=input:4x3x8x8",
        "--maxShapes=input:16x3x8x8",
        *expected[:-2],
        "--noTF32",
        *expected[-2:],
    ]


def test_8_2_never_builds_with_its_own_16_megabytes() -> None:
    build = replace(BUILD, workspace_mib=None)
    assert "--workspace=1024" in build_arguments(build, known_flags("8.2"))
    assert "--memPoolSize" not in names(build_arguments(build, known_flags("10.3")))


OPTIONS = [
    (BuildConfig("fp16", optimization_level=5), "8.6", ["--builderOptimizationLevel=5"]),
    (BuildConfig("fp16", version_compatible=True), "8.6", ["--versionCompatible"]),
    (BuildConfig("fp16", hardware_compatible=True), "8.6",
     ["--hardwareCompatibilityLevel=ampere+"]),
    (BuildConfig("fp16", strongly_typed=True), "9.1", ["--stronglyTyped"]),
    (BuildConfig("fp16", sparsity=True), "8.2", ["--sparsity=enable"]),
    (BuildConfig("fp16", dla=1), "8.2", ["--useDLACore=1", "--allowGPUFallback"]),
]  # fmt: skip


@pytest.mark.parametrize(("config", "since", "expected"), OPTIONS)
@pytest.mark.parametrize("version", [*VERSIONS, "9.1"])
def test_an_option_is_written_where_the_version_has_it_and_refused_where_not(
    version: str, config: BuildConfig, since: str, expected: list[str]
) -> None:
    flags = known_flags(version)
    if parts(version) < parts(since):
        with pytest.raises(ConfigError, match=f"TensorRT {version} has no --") as caught:
            check_options(config, flags, version)
        assert str(caught.value.hint).startswith("leave out --")
        return
    check_options(config, flags, version)
    arguments = build_arguments(replace(BUILD, config=config), flags)
    if config.strongly_typed and version.startswith("11"):
        expected = []  # always so; there the option does nothing
    assert set(expected) <= set(arguments)
    if config.strongly_typed:
        assert "--fp16" not in arguments


@pytest.mark.parametrize("version", ["8.2", "8.5", "10.3"])
def test_implicit_int8_reads_our_cache_and_keeps_layers_in_float(version: str) -> None:
    config = BuildConfig("int8", implicit="ranges", dla=0)
    check_options(config, known_flags(version), version)
    build = replace(BUILD, config=config, calibration="c.cache", layer_precisions="fc:fp16")
    assert {
        "--int8", "--fp16", "--calib=c.cache", "--layerPrecisions=fc:fp16",
        "--precisionConstraints=prefer",
    } <= set(build_arguments(build, known_flags(version)))  # fmt: skip
    assert graph_for(config, known_flags(version)) == "fp32"


@pytest.mark.parametrize(
    ("config", "version", "message"),
    [
        (BuildConfig("int8", implicit="ranges"), "11.4", "no --calib"),
        (BuildConfig("int8", implicit="entropy"), "8.5", "random numbers"),
        (BuildConfig("int8", dla=0), "8.5", "not from Q/DQ pairs"),
    ],
)
def test_int8_that_trtexec_would_get_wrong_is_refused(
    config: BuildConfig, version: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_options(config, known_flags(version), version)
    assert caught.value.hint


def test_a_loaded_engine_is_told_its_core_and_that_it_has_host_code() -> None:
    arguments = run_arguments(
        "e", Run(dla=1, version_compatible=True), files={"x": "i"}, shapes={},
        flags=known_flags("8.6"),
    )  # fmt: skip
    assert {"--useDLACore=1", "--versionCompatible"} <= set(arguments)


def test_a_fixed_batch_has_no_shapes() -> None:
    assert not {"--minShapes", "--optShapes"} & names(
        build_arguments(replace(BUILD, shapes={}), known_flags("8.5"))
    )
    run = run_arguments("e", Run(), files={"input": "i"}, shapes={}, flags=known_flags("8.5"))
    assert "--shapes" not in names(run)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("precision", "rest", "weak", "strong"),
    [("fp32", "fp16", "fp32", "fp32"), ("fp16", "fp16", "fp32", "fp16"),
     ("int8", "fp16", "int8", "int8-fp16"), ("int8", "fp32", "int8", "int8")],
)  # fmt: skip
def test_the_graph_carries_the_types_only_where_options_cannot(
    version: str, precision: Precision, rest: Any, weak: str, strong: str
) -> None:
    wanted = strong if version.startswith("11") else weak
    assert graph_for(BuildConfig(precision, rest), known_flags(version)) == wanted


@pytest.mark.parametrize("version", ["8.2", "10.16"])
def test_timing_conditions_are_the_same_before_and_after_11(version: str) -> None:
    old = names(run_arguments("e", Run(), files={"x": "i"}, shapes={}, flags=known_flags(version)))
    new = names(run_arguments("e", Run(), files={"x": "i"}, shapes={}, flags=known_flags("11.0")))
    assert new - old == {"--includeDataTransfers", "--noCudaGraph", "--noSpinWait"}
    assert old <= new


@given(st.text(min_size=1))
def test_a_tensor_name_is_written_so_that_it_reads_back_or_refused(name: str) -> None:
    flags = known_flags("8.5")
    try:
        arguments = run_arguments(
            "e", Run(), files={name: "input0.bin"}, shapes={name: (2, 3)}, flags=flags
        )
    except GraphError:
        assert set(name) & set(",'\n")
        return
    values = dict(argument.partition("=")[::2] for argument in arguments)
    assert values["--loadInputs"].split(",") == [f"{name}:input0.bin"]
    assert values["--shapes"].rpartition(":")[::2] == (name, "2x3")


@pytest.mark.parametrize("version", ["", "8", "8.x", "latest", "7.1.3", "8.0.1"])
def test_what_is_no_usable_version_is_refused(version: str) -> None:
    with pytest.raises(ConfigError):
        known_flags(version)


def test_a_request_takes_its_workspace_from_the_target_unless_told() -> None:
    inputs = (TensorSpec("input", (None, 3, 8, 8), "float32"),)
    target = load_target("jetson-nano")
    request = build_request("m", "e", inputs, target, BuildConfig("fp16", profile=(1, 2, 4)))
    assert request.workspace_mib == 512
    assert request.shapes == {"input": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
    told = build_request("m", "e", inputs, target, BuildConfig("fp16", workspace=64))
    assert told.workspace_mib == 64


def test_a_model_of_fixed_batch_needs_that_profile() -> None:
    inputs, target = (TensorSpec("input", (3, 3, 8, 8), "float32"),), load_target("jetson-nano")
    with pytest.raises(BuildError, match="fixed batch of 3") as caught:
        build_request("m", "e", inputs, target, BuildConfig("fp16"))
    assert caught.value.hint == "pass --profile 3"
    request = build_request("m", "e", inputs, target, BuildConfig("fp16", profile=(3, 3, 3)))
    assert request.shapes == {}
