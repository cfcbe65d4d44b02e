from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.cli.trtexec_flags import translate_build
from resnet_edge.errors import ConfigError
from tests.emulation.trtexec.install import VERSIONS, flags_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SAME = [
    ["--onnx=m.onnx", "m.onnx"],
    ["--fp16", "--fp16"],
    ["--int8", "--int8"],
    ["--best", "--int8", "--fp16"],
    ["--workspace=2048", "--workspace", "2048"],
    ["--memPoolSize=workspace:512", "--workspace", "512"],
    ["--memPoolSize=workspace:1.5G", "--workspace", "1536"],
    ["--memPoolSize=workspace:1048576B", "--workspace", "1"],
    ["--optShapes=input:4x3x224x224", "--profile", "4"],
    ["--shapes=input:4x3x224x224", "--profile", "4"],
    ["--saveEngine=out.engine", "--save-engine", "out.engine"],
    ["--calib=x.cache", "--from-cache", "x.cache"],
    ["--sparsity=enable", "--sparsity"],
    ["--sparsity=disable"],
    ["--builderOptimizationLevel=5", "--optimization-level", "5"],
    ["--versionCompatible", "--version-compatible"],
    ["--vc", "--version-compatible"],
    ["--hardwareCompatibilityLevel=ampere+", "--hardware-compatible"],
    ["--hardwareCompatibilityLevel=none"],
    ["--stronglyTyped", "--strongly-typed"],
    ["--noBuilderCache", "--no-timing-cache"],
    ["--verbose", "--debug"],
    ["--skipInference"],
    ["--buildOnly"],
    ["--explicitBatch"],
    ["--explicitPrecision"],
    ["--noTF32"],
]


@pytest.mark.parametrize("row", SAME, ids=lambda row: row[0])
def test_an_intent_becomes_our_option(row: list[str]) -> None:
    assert translate_build([row[0]]) == (row[1:], [])


def test_three_shapes_become_one_profile_wherever_they_stand() -> None:
    arguments = [
        "--maxShapes='input:0':32x3x224x224", "--onnx=m.onnx", "--optShapes=input:0:8x3x224x224",
        "--fp16", "--minShapes=input:0:1x3x224x224",
    ]  # fmt: skip
    assert translate_build(arguments).arguments == ["m.onnx", "--fp16", "--profile", "1,8,32"]


def test_a_dla_core_brings_the_gpu_along_and_says_so() -> None:
    assert translate_build(["--useDLACore=0", "--allowGPUFallback"]) == (["--dla", "0"], [])
    arguments, notes = translate_build(["--useDLACore=1"])
    assert arguments == ["--dla", "1"]
    assert "--allowGPUFallback" in notes[0]


@pytest.mark.parametrize(
    "argument",
    [
        "--timingCacheFile=t.cache",
        "--avgTiming=8",
        "--profilingVerbosity=detailed",
        "--nvtxMode=verbose",
    ],
)
def test_what_is_done_otherwise_is_left_out_with_a_note(argument: str) -> None:
    arguments, notes = translate_build(["bundle", argument])
    assert arguments == ["bundle"]
    assert notes[0].startswith(argument.partition("=")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optShapes=input:4x3x8x8", "--profile", "4"], "contradict"),
        (["--best", "--no-fp16"], "contradict"),
        (["--workspace=1", "--memPoolSize=workspace:1"], "contradict"),
        (["--useDLACore=0", "--dla", "1"], "contradict"),
        (["--noBuilderCache", "--timingCacheFile=t"], "contradict"),
        (["--saveEngine=a", "--saveEngine=b"], "twice"),
        (["--allowGPUFallback"], "not asked for"),
        (["--minShapes=input:1x3x8x8"], "all of"),
        (["--minShapes=input:1x3x8x8", "--optShapes=input:2x3x8x8"], "all of"),
        (["--optShapes=input:1x3x8x8", "--shapes=input:2x3x8x8"], "all of"),
        (["--minShapes=a:1x3x8x8", "--optShapes=b:1x3x8x8", "--maxShapes=a:1x3x8x8"], "differ"),
        (["--minShapes=a:1x3x8x8", "--optShapes=a:1x3x9x8", "--maxShapes=a:1x3x8x8"], "differ"),
        (
            ["--minShapes=a:1x3", "--optShapes=a:2x3", "--maxShapes=a:4x3", "--shapes=a:8x3"],
            "outside",
        ),
        (["--optShapes=a:1x3x8x8,b:1x3x8x8"], "one input"),
        (["--optShapes=224"], "one input"),
        (["--memPoolSize=dlaSRAM:1"], "only the workspace"),
        (["--memPoolSize=workspace:1,dlaSRAM:1"], "only the workspace"),
        (["--memPoolSize=workspace:0.3"], "no whole number"),
        (["--workspace=lots"], "not a size"),
        (["--sparsity=force"], "zeros"),
        (["--sparsity=maybe"], "cannot be asked for"),
        (["--hardwareCompatibilityLevel=sameComputeCapability"], "cannot be asked for"),
        (["--saveEngine"], "needs a value"),
        (["--bf16"], "FP32, FP16 or INT8"),
        (["--loadEngine=x"], "does not load"),
        (["--useCudaGraph"], "running an engine"),
        (["--layerPrecisions=conv1:fp16"], "when quantizing"),
        (["--device=1"], "whole process"),
        (["--calib=x", "--optShapesCalib=a:8x3x8x8"], "optimal batch"),
        (["--timeDeserialize"], "running an engine"),
    ],
)
def test_a_contradiction_or_what_cannot_be_done_is_refused(
    arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        translate_build(["bundle", *arguments])
    assert caught.value.hint


def refusal(arguments: list[str]) -> ConfigError | None:
    try:
        translate_build(arguments)
    except ConfigError as error:
        return error
    return None


OURS = [
    "bundle", "--fp16", "--no-fp16", "--int8", "--profile", "1,8,32", "--workspace", "512",
    "--sparsity", "--dla", "0", "--target", "jetson-nano", "--data=images", "--json",
]  # fmt: skip


@given(st.lists(st.sampled_from(OURS)))
def test_our_own_options_stay_as_they_are(arguments: list[str]) -> None:
    assert translate_build(arguments) == (arguments, [])


@given(st.lists(st.sampled_from([*OURS, *[row[0] for row in SAME], "--useDLACore=0"])))
def test_translating_twice_changes_nothing_more(arguments: list[str]) -> None:
    try:
        once = translate_build(arguments)
    except ConfigError:
        return
    assert translate_build(once.arguments) == (once.arguments, [])


@given(st.permutations([row[0] for row in SAME if row[0][:5] not in ("--opt", "--sha", "--mem")]))
def test_the_order_does_not_matter(arguments: Sequence[str]) -> None:
    arguments = [a for a in arguments if a != "--sparsity=disable" and "Level=none" not in a]
    assert sorted(translate_build(arguments).arguments) == sorted(
        translate_build(sorted(arguments)).arguments
    )


@given(st.lists(st.text()))
def test_no_arguments_break_it(arguments: list[str]) -> None:
    refused = refusal(arguments)
    assert refused is None or refused.hint


@given(st.lists(st.text()))
def test_what_follows_two_dashes_is_not_touched(arguments: list[str]) -> None:
    assert translate_build(["--", "--best", *arguments]).arguments == ["--", "--best", *arguments]


# Options that no user of ours has a use for: plugins, safety, debugging, refitting and the like.
_UNKNOWN_TO_US = frozenset({
    "--accuracyAlgorithm", "--accuracyThreshold", "--adjustForDLA", "--allocationStrategy",
    "--allowWeightStreaming", "--asyncFileReader", "--atol", "--calibProfile", "--consistency",
    "--continue", "--cpuOnly", "--decomposableAttentions", "--deploy", "--directIO",
    "--distributiveIndependence", "--dlaWorkspaceAllocationStrategy", "--dryRun",
    "--dumpCheckerBlob", "--dumpKernelText", "--dumpOptimizationProfile", "--dumpRawBindingsToFile",
    "--dumpRefit", "--dynamicPlugins", "--enablePluginOverride", "--errorOnTimingCacheMiss",
    "--excludeLeanRuntime", "--getPlanVersionOnly", "--greenContext", "--helpBuildRoute",
    "--heuristic", "--ignoreParsedPluginLibs", "--inputIOFormats", "--l2LimitForTiling",
    "--layerDeviceTypes", "--leanDLLPath", "--loadCheckerBlob", "--markDebug",
    "--markUnfusedTensorsAsDebugTensors", "--maxAuxStreams", "--maxTactics", "--model",
    "--monitorMemory", "--noCompilationCache", "--output", "--outputIOFormats", "--pi",
    "--pluginInstanceNorm", "--plugins", "--preview", "--refPair", "--reference", "--refit",
    "--refitFromOnnx", "--remoteAutoTuningConfig", "--remoteConfig", "--reportCapabilityDLA",
    "--restricted", "--rtol", "--runtimePlatform", "--safe", "--safetyPlugins",
    "--saveAllDebugTensors", "--saveAllEngines", "--saveDebugTensors", "--setBuildRoute",
    "--setPluginsToSerialize", "--staticPlugins", "--stripAllWeights", "--stripWeights",
    "--tacticSources", "--tempdir", "--tempfileControls", "--tilingOptimizationLevel",
    "--timeRefit", "--tuneBuildRouteFile", "--tuneBuildRoutes", "--tuningCacheFile",
    "--tuningResultFile", "--tuningSearch", "--tuningTimeOut", "--uff", "--uffInput", "--uffNHWC",
    "--uint8AsymmetricQuantizationDLA", "--useProfile", "--useRuntime", "--weightStreamingBudget",
    "--weightless",
})  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_of_every_version_was_thought_of(version: str) -> None:
    """Each is translated, noted or refused by us; or known to be none that we understand."""
    ours = {"--fp16", "--int8", "--help", "-h", "--profile"}
    for flag in set(flags_of(version)["accepts"]) - ours - _UNKNOWN_TO_US:
        arguments = [f"{flag}=x", "--dla"]
        refused = refusal(arguments)
        if refused is None:
            assert arguments[0] not in translate_build(arguments).arguments
        else:
            assert flag in refused.message
