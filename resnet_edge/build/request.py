"""What cannot work, told before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnet_edge.backends.config import BuildConfig
from resnet_edge.catalog.targets import Target, dla_hint
from resnet_edge.device.versions import parts
from resnet_edge.errors import ConfigError

__all__ = ["RTX_CAPABILITIES", "Request", "check_request"]

# TensorRT-RTX 1.5 support matrix, and ComputeCapability of its bindings (1.7)
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_OFFERED = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Request:
    """An engine that somebody wants, and what else decides whether it can be had.

    Attributes:
        config: What to build.
        raw_pixels: The network takes uint8.
        version: Of the backend's library, None where it is not known.
    """

    config: BuildConfig
    raw_pixels: bool = False
    version: str | None = None


def check_request(target: Target, request: Request) -> None:
    """Refuse a request that the target cannot fulfil, saying what can be done instead.

    Raises:
        ConfigError: It cannot work.
    """
    for precision in (request.config.precision, request.config.rest):
        if precision not in _OFFERED:
            raise ConfigError(
                f"{precision} is not offered: ResNets gain nothing over INT8 and FP16 by it, and "
                "most Jetsons lack it",
                hint="use --int8 or --fp16",
            )
    if target.backend == "onnxruntime":
        _check_cpu(request)
        return
    _check_precision(target, request)
    if target.backend == "tensorrt_rtx":
        _check_rtx(target, request)
    else:
        _check_version(target, request)
    if request.config.dla is not None:
        _check_dla(target, request, request.config.dla)


def _check_cpu(request: Request) -> None:
    if request.config.precision == "fp16":
        raise ConfigError(
            "ONNX Runtime has no FP16 kernels for this CPU; it would be slower than FP32",
            hint="use --int8, or the target of a GPU (resnet-edge targets)",
        )
    if request.config.dla is not None or request.config.implicit:
        what = "DLA" if request.config.dla is not None else "TensorRT, so no implicit quantization"
        raise ConfigError(f"a CPU has no {what}", hint="pass the target of a Jetson")


def _check_precision(target: Target, request: Request) -> None:
    capability = parts(target.compute_capability)
    if request.config.precision == "int8" and (capability < (6, 1) or capability == (6, 2)):
        raise ConfigError(
            f"{target.name} (compute capability {target.compute_capability}) has no INT8",
            hint="use --fp16, which is what this GPU is fast in",
        )
    if request.config.hardware_compatible and capability < (8, 0):
        raise ConfigError(
            f"{target.name} (compute capability {target.compute_capability}) is older than Ampere, "
            "from which on an engine can run on other GPUs",
            hint="leave out --hardware-compatible",
        )


def _check_rtx(target: Target, request: Request) -> None:
    if target.compute_capability not in RTX_CAPABILITIES:
        raise ConfigError(
            f"TensorRT-RTX does not support {target.name} (compute capability "
            f"{target.compute_capability}; it supports {', '.join(RTX_CAPABILITIES)})",
            hint='use TensorRT: backend = "tensorrt" in the target, on the device itself',
        )
    _check_capabilities(target, request.config.compute_capabilities)
    capabilities = request.config.compute_capabilities or (target.compute_capability,)
    if "7.5" in capabilities and request.config.precision == "int8":
        raise ConfigError(
            "TensorRT-RTX does not support INT8 on Turing (compute capability 7.5)",
            hint='use --fp16, or TensorRT: backend = "tensorrt" in the target',
        )
    if request.config.implicit:
        raise ConfigError(
            "TensorRT-RTX has no calibrator; precision stands in the graph",
            hint="leave out --implicit: the graph gets Q/DQ pairs",
        )


def _check_capabilities(target: Target, asked: Sequence[str]) -> None:
    listed = ",".join(asked)
    if unknown := [capability for capability in asked if capability not in RTX_CAPABILITIES]:
        raise ConfigError(
            f"--compute-capability {listed}: TensorRT-RTX does not know {unknown[0]!r}",
            hint=f"it supports {', '.join(RTX_CAPABILITIES)}",
        )
    if len(set(asked)) < len(asked):
        raise ConfigError(f"--compute-capability {listed} names one twice", hint="name it once")
    if asked and target.compute_capability not in asked:
        raise ConfigError(
            f"--compute-capability {listed} leaves out that of {target.name} itself, "
            f"{target.compute_capability}",
            hint="add it, or pass the target of one of these GPUs",
        )


def _check_version(target: Target, request: Request) -> None:
    version = request.version
    if version is None:
        return
    if target.software and not target.software_of(tensorrt=version):
        ranges = dict.fromkeys(
            (low, high if "." in high else f"{high}.x")
            for low, high in (range_.tensorrt for range_ in target.software)
        )
        known = ", ".join(low if low == high else f"{low} to {high}" for low, high in ranges)
        right = "the TensorRT that the device's JetPack brings" if target.soc else "one of those"
        raise ConfigError(
            f"TensorRT {version} does not run on {target.name}{_jetpacks(target)}: {known} do",
            hint=f"use {right}; if NVIDIA supports this one by now: resnet-edge targets copy "
            f"{target.name} mine, and add it under software",
        )
    if request.raw_pixels and parts(version) < (8, 5):
        raise ConfigError(
            f"TensorRT {version} takes no uint8, which this model takes",
            hint="export it with --input float",
        )
    if request.config.implicit and request.config.dla is None and parts(version) >= (11,):
        request.config.refuse_implicit(version)


def _jetpacks(target: Target) -> str:
    limits = [limit for range_ in target.software for limit in range_.jetpack or ()]
    if not limits:
        return ""
    first, last = limits[0], limits[-1]
    return f" with JetPack {first}" + (f" to {last}" if first != last else "")


def _check_dla(target: Target, request: Request, core: int) -> None:
    if not 0 <= core < target.dla_cores:
        missing = f"DLA core {core}" if target.dla_cores else "DLA"
        raise ConfigError(f"{target.name} has no {missing}", hint=dla_hint(target.dla_cores))
    fitting = target.software_of(tensorrt=request.version)
    if target.software and not any(range_.dla for range_ in fitting):
        asked = f"TensorRT {request.version}" if request.version else "its JetPack"
        raise ConfigError(
            f"{asked} cannot use the DLA of {target.name}",
            hint="the DLA works with JetPack 4.6 to 6.2, and on AGX Orin from JetPack "
            "7.2.2 with TensorRT 11.4.1; otherwise leave out --dla",
        )
    if request.config.precision == "fp32":
        raise ConfigError("the DLA computes in FP16 and INT8 only", hint="use --fp16 or --int8")
    if request.config.precision == "int8" and request.version and parts(request.version) >= (11,):
        raise ConfigError(
            f"INT8 on the DLA needs implicit quantization, which TensorRT {request.version} has "
            "no more",
            hint="use --fp16 --dla, or --int8 on the GPU",
        )
    if request.config.profile[0] != request.config.profile[2]:
        raise ConfigError(
            "the DLA runs one fixed batch only",
            hint=f"pass one number, for example --profile {request.config.profile[1]}",
        )
