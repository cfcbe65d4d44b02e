"""Which of our trtexec options each version of TensorRT has, read off its public sources."""

from __future__ import annotations

from resnet_edge.errors import ConfigError

__all__ = ["ALWAYS", "known_flags"]

_FIRST, _LAST = (8, 2), (99, 0)
# First and last version whose help lists the option; all others of ours are in every one.
_LISTED: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "--workspace": (_FIRST, (9, 99)),
    "--memPoolSize": ((8, 4), _LAST),
    "--buildOnly": (_FIRST, (8, 5)),
    "--skipInference": ((8, 6), _LAST),
    "--fp16": (_FIRST, (10, 99)),
    "--int8": (_FIRST, (10, 99)),
    "--calib": (_FIRST, (10, 99)),
    "--layerPrecisions": ((8, 4), (10, 99)),
    "--precisionConstraints": (_FIRST, (10, 99)),
    "--stronglyTyped": ((9, 1), _LAST),  # 11 takes it and does nothing
    "--builderOptimizationLevel": ((8, 6), _LAST),
    "--versionCompatible": ((8, 6), _LAST),
    "--hardwareCompatibilityLevel": ((8, 6), _LAST),
    "--includeDataTransfers": ((11, 0), _LAST),
    "--noCudaGraph": ((11, 0), _LAST),
    "--noSpinWait": ((11, 0), _LAST),
}
ALWAYS = frozenset({
    "--onnx", "--saveEngine", "--loadEngine", "--minShapes", "--optShapes", "--maxShapes",
    "--shapes", "--loadInputs", "--exportOutput", "--exportTimes", "--exportLayerInfo",
    "--profilingVerbosity", "--iterations", "--duration", "--warmUp", "--exposeDMA",
    "--useDLACore", "--allowGPUFallback", "--sparsity", "--timingCacheFile", "--noTF32",
})  # fmt: skip


def known_flags(version: str) -> frozenset[str]:
    """Return which of our options a version has, where its trtexec cannot be asked.

    Args:
        version: For example ``8.5`` or ``10.3.0``.

    Raises:
        ConfigError: It is no version from 8.2 on.
    """
    try:
        major, minor = (int(part) for part in (*version.split("."), "0")[:2])
    except ValueError as error:
        raise ConfigError(f"{version!r} is not a version of TensorRT") from error
    if (major, minor) < _FIRST:
        raise ConfigError(f"TensorRT {version} is too old", hint="8.2 and newer can be used")
    listed = {flag for flag, (a, b) in _LISTED.items() if a <= (major, minor) <= b}
    return frozenset(ALWAYS | listed)
