"""What people type for trtexec, of any version, as options of ``resnet-edge build``.

A pure function from arguments to arguments, called before they are parsed, so that the options
stay out of the help. What resnet-edge does anyway is dropped; what it does otherwise is dropped
with a note; what it cannot do is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Translation", "translate_build"]

_SHAPES = ("--minShapes", "--optShapes", "--maxShapes", "--shapes")
_POSITIONAL = "--onnx"
_PRINT = "--print-trtexec"  # ours: its value may be left out, which the parser cannot express
_RENAMED = {
    "--saveEngine": "--save-engine",
    "--calib": "--from-cache",  # its ranges serve Q/DQ graphs too, so every version of TensorRT
    "--useDLACore": "--dla",
    "--builderOptimizationLevel": "--optimization-level",
}
_SWITCHES: dict[str, tuple[str, ...]] = {
    "--best": ("--int8", "--fp16"),
    "--stronglyTyped": ("--strongly-typed",),
    "--versionCompatible": ("--version-compatible",),
    "--vc": ("--version-compatible",),
    "--noBuilderCache": ("--no-timing-cache",),
    "--verbose": ("--debug",),
    "--explicitBatch": (),  # every batch is explicit
    "--explicitPrecision": (),  # Q/DQ pairs always decide
    "--buildOnly": (),  # build does nothing else
    "--skipInference": (),
    "--noTF32": (),  # FP32 always means FP32
}
_NOTED = {
    "--timingCacheFile": "kernel timings are kept in the user's cache, by TensorRT version and GPU",
    "--nvtxMode": "layers are always described in detail, in a file beside the engine",
    "--profilingVerbosity": "layers are always described in detail, in a file beside the engine",
    "--dumpLayerInfo": "layers are always described in detail, in a file beside the engine",
    "--exportLayerInfo": "layers are always described in detail, in a file beside the engine",
    "--minTiming": "there is no such knob; see --builds",
    "--avgTiming": "there is no such knob; see --builds",
}
_RUNNING = frozenset({
    "--avgRuns", "--dumpOutput", "--dumpProfile", "--duration", "--exportOutput",
    "--exportProfile", "--exportTimes", "--exposeDMA", "--idleTime", "--includeDataTransfers",
    "--infStreams", "--iterations", "--loadInputs", "--loadRefOutputs", "--noCudaGraph",
    "--noDataTransfers", "--noSpinWait", "--percentile", "--persistentCacheRatio",
    "--separateProfileRun", "--sleepTime", "--streams", "--threads", "--timeDeserialize",
    "--useCudaGraph", "--useManagedMemory", "--useSpinWait", "--warmUp",
})  # fmt: skip
_OTHER_TYPES = frozenset({"--bf16", "--fp8", "--int4"})
_SHAPES_CALIB = ("--minShapesCalib", "--optShapesCalib", "--maxShapesCalib")
_REFUSED = {
    **dict.fromkeys(
        _SHAPES_CALIB,
        ("images are calibrated on at the optimal batch of the profile", "leave it out"),
    ),
    "--loadEngine": (
        "build makes engines, it does not load them",
        "use resnet-edge verify or resnet-edge bench",
    ),
    "--layerPrecisions": (
        "which layers stay in float is said when quantizing",
        "resnet-edge quantize BUNDLE --layer-precisions SPEC",
    ),
    "--layerOutputTypes": ("layers have the output type of what they compute", "leave it out"),
    "--precisionConstraints": (
        "which layers stay in float is said when quantizing, and is kept",
        "leave it out",
    ),
    "--batch": ("a network of implicit batch cannot be built", "use --profile N"),
    "--maxBatch": ("a network of implicit batch cannot be built", "use --profile 1,8,N"),
    "--buildDLAStandalone": ("a loadable for the DLA alone cannot be built", "use --dla N"),
    "--device": ("the GPU is chosen for the whole process", "set CUDA_VISIBLE_DEVICES"),
}


class Translation(NamedTuple):
    """Arguments in our words.

    Attributes:
        arguments: For the parser.
        notes: What was left out because resnet-edge does it otherwise.
    """

    arguments: list[str]
    notes: list[str]


def translate_build(arguments: Sequence[str]) -> Translation:
    """Translate what follows ``build``; arguments of our own stay as they are.

    Raises:
        ConfigError: An option contradicts another, or asks for what resnet-edge cannot do.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = [argument.partition("=")[::2] for argument in arguments[:end]]
    _refuse_contradictions(given, arguments[:end])
    kept: list[str] = []
    notes: list[str] = []
    for argument, (flag, value) in zip(arguments[:end], given, strict=True):
        if flag in _SHAPES:
            continue
        if flag in _NOTED:
            notes.append(f"{flag}: {_NOTED[flag]}")
        elif argument == _PRINT:
            kept.append(f"{_PRINT}=auto")
        elif flag in _VALUES and (value or flag not in _OURS_TOO):
            kept += _VALUES[flag](flag, value)
        elif flag in _SWITCHES:
            kept += _SWITCHES[flag]
        elif refusal := _refusal(flag):
            raise ConfigError(f"{flag}: {refusal[0]}", hint=refusal[1])
        else:
            kept.append(argument)
    if shapes := {flag: value for flag, value in given if flag in _SHAPES}:
        kept += ["--profile", _profile(shapes)]
    if "--useDLACore" in dict(given) and "--allowGPUFallback" not in dict(given):
        notes.append("--useDLACore: the GPU runs what the DLA cannot, as with --allowGPUFallback")
    return Translation([*kept, *arguments[end:]], notes)


def _refusal(flag: str) -> tuple[str, str] | None:
    if flag in _RUNNING:
        return "it is about running an engine, which build does not do", "use resnet-edge bench"
    if flag in _OTHER_TYPES:
        return "ResNet engines are FP32, FP16 or INT8", "use --fp16 or --int8"
    return _REFUSED.get(flag)


def _refuse_contradictions(given: Sequence[tuple[str, str]], arguments: Sequence[str]) -> None:
    values: dict[str, str] = {}
    foreign = {*_SHAPES, *_VALUES, *_SWITCHES, *_NOTED} - _OURS_TOO
    for flag, value in given:
        if flag in foreign and values.setdefault(flag, value) != value:
            raise ConfigError(
                f"{flag} stands there twice, with {values[flag]} and {value}", hint="keep one"
            )
    flags = {flag for flag, _ in given}
    for one, other in (
        *[(shape, "--profile") for shape in _SHAPES],
        ("--best", "--no-fp16"),
        ("--memPoolSize", "--workspace"),
        ("--useDLACore", "--dla"),
        ("--builderOptimizationLevel", "--optimization-level"),
        ("--noBuilderCache", "--timingCacheFile"),
    ):
        if one in flags and other in flags:
            raise ConfigError(f"{one} and {other} contradict each other", hint="leave one out")
    if "--allowGPUFallback" in flags and not flags & {"--useDLACore", "--dla"}:
        raise ConfigError(
            "--allowGPUFallback is about the DLA, which was not asked for", hint="add --dla N"
        )


def _renamed(flag: str, value: str) -> list[str]:
    return [_RENAMED[flag], _present(flag, value)]


def _present(flag: str, value: str) -> str:
    if not value:
        raise ConfigError(f"{flag} needs a value", hint=f"write {flag}=VALUE")
    return value


def _workspace(flag: str, value: str) -> list[str]:
    return ["--workspace", str(_mebibytes(flag, value))]


def _memory_pools(flag: str, value: str) -> list[str]:
    """Read ``workspace:512`` or ``workspace:1.5G``; nothing else can be limited here."""
    pool, _, size = value.partition(":")
    if pool != "workspace" or "," in size:
        raise ConfigError(
            f"{flag}={value}: only the workspace can be limited", hint="use --workspace MIB"
        )
    return _workspace(flag, size)


def _mebibytes(flag: str, text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([BKMG]?)", text)
    if found is None:
        raise ConfigError(f"{flag}: {text!r} is not a size", hint="use --workspace MIB")
    scale = {"B": 2.0**-20, "K": 2.0**-10, "M": 1.0, "": 1.0, "G": 2.0**10}[found[2]]
    size = float(found[1]) * scale
    if size != int(size) or size < 1:
        raise ConfigError(f"{flag}: {text} is no whole number of MiB", hint="use --workspace MIB")
    return int(size)


def _fallback(flag: str, value: str) -> list[str]:
    return []  # --dla implies it


def _sparsity(flag: str, value: str) -> list[str]:
    if value == "force":
        raise ConfigError(f"{flag}=force would overwrite weights with zeros", hint="use --sparsity")
    return _choice(flag, value, {"enable": ["--sparsity"], "disable": []})


def _hardware(flag: str, value: str) -> list[str]:
    return _choice(flag, value, {"ampere+": ["--hardware-compatible"], "none": []})


def _choice(flag: str, value: str, choices: dict[str, list[str]]) -> list[str]:
    if value not in choices:
        raise ConfigError(
            f"{flag}={value} cannot be asked for", hint=f"known: {', '.join(choices)}"
        )
    return choices[value]


def _model(flag: str, value: str) -> list[str]:
    return [_present(flag, value)]


_VALUES: dict[str, Callable[[str, str], list[str]]] = {
    _POSITIONAL: _model,
    **dict.fromkeys(_RENAMED, _renamed),
    "--workspace": _workspace,
    "--memPoolSize": _memory_pools,
    "--allowGPUFallback": _fallback,
    "--sparsity": _sparsity,
    "--hardwareCompatibilityLevel": _hardware,
}
_OURS_TOO = frozenset({"--workspace", "--sparsity"})  # without = they are our own


def _profile(shapes: dict[str, str]) -> str:
    """Return the batches that trtexec's shapes stand for."""
    found = {flag: _shape(flag, value) for flag, value in shapes.items()}
    if len({(name, rest) for name, _, rest in found.values()}) > 1:
        raise ConfigError(
            f"{', '.join(found)} differ in more than the batch",
            hint="only the batch can vary; the image size is the model's",
        )
    fixed = [found[flag][1] for flag in ("--optShapes", "--shapes") if flag in found]
    ends = [flag for flag in ("--minShapes", "--maxShapes") if flag in found]
    if len(ends) == 2 and "--optShapes" in found:
        batches = [found[flag][1] for flag in _SHAPES[:3]]
        if not batches[0] <= found.get("--shapes", ("", batches[1], ""))[1] <= batches[2]:
            raise ConfigError("--shapes lies outside the profile", hint="leave it out")
        return ",".join(map(str, batches))
    if ends or len(set(fixed)) != 1:
        raise ConfigError(
            f"{', '.join(found)}: give --optShapes alone, or all of --minShapes, --optShapes and "
            "--maxShapes",
            hint="or use --profile smallest,optimal,largest",
        )
    return str(fixed[0])


def _shape(flag: str, value: str) -> tuple[str, int, str]:
    """Split ``input:8x3x224x224`` into name, batch and the rest; quotes around the name go."""
    found = re.fullmatch(r"'?([^',]+?)'?:([1-9]\d*)((?:x[1-9]\d*)+)", value)
    if found is None:
        raise ConfigError(
            f"{flag}={value} is not one input's shape", hint="write input:8x3x224x224"
        )
    return found[1], int(found[2]), found[3]
