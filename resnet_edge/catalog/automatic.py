"""The target that fits this machine: ``--target auto``, and a named one on its own board."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace

from resnet_edge.catalog.targets import Software, Target, list_targets, load_target
from resnet_edge.device.jetson import Jetson, detect_jetson
from resnet_edge.device.memory import read_memory
from resnet_edge.device.nvidia import Gpu, NvidiaDriver, query_driver
from resnet_edge.device.versions import parts
from resnet_edge.errors import ConfigError

__all__ = ["automatic_target", "on_this_board", "resolve_target"]

log = logging.getLogger(__name__)

_GIB = 1 << 30
_FIRST_WITH_BINDINGS = 6  # JetPack; older ones have TensorRT bindings for Python 3.6 and 3.8 only


def automatic_target(
    jetson: Jetson | None, driver: NvidiaDriver, memory: int, targets: Sequence[Target]
) -> Target:
    """Choose the target of a machine and put in what is known better from the machine itself.

    Args:
        jetson: The module, None if this is none.
        driver: With the GPUs; the first one counts.
        memory: Bytes of main memory.
        targets: To choose from.

    Raises:
        ConfigError: This Jetson has no target, or the targets have no CPU.
    """
    if jetson is not None:
        return _jetson_target(jetson, memory, targets)
    if driver.gpus:
        return _gpu_target(driver.gpus[0], targets)
    for target in targets:
        if target.name == "cpu":
            return target
    raise ConfigError("there is no target named cpu", hint="reinstall resnet-edge")


def on_this_board(target: Target, jetson: Jetson | None) -> Target:
    """Keep of a named target's software what runs on the JetPack of this very kind of Jetson.

    Args:
        target: As its file describes it, for every JetPack.
        jetson: The module at hand; None, or one of another SoC, changes nothing.
    """
    if jetson is None or jetson.jetpack is None or jetson.soc != target.soc:
        return target
    return replace(target, software=_software(target, jetson.jetpack))


def _jetson_target(jetson: Jetson, memory: int, targets: Sequence[Target]) -> Target:
    """Match by part number; modules that share one differ in memory."""
    size = _module_memory(memory)
    fits = [
        target
        for target in targets
        if target.soc == jetson.soc and any(m.startswith(target.modules) for m in jetson.modules)
    ]
    if len(fits) > 1:
        fits = [target for target in fits if target.memory_gb == size]
    if len(fits) != 1:
        found = ", ".join(jetson.modules) or "no part number"
        near = [target.name for target in targets if jetson.soc and target.soc == jetson.soc]
        raise ConfigError(
            f"no target for this Jetson: {jetson.model or 'unknown model'} "
            f"({jetson.soc or 'unknown SoC'}, {found}, {size} GB)",
            hint=f"resnet-edge targets copy {near[0] if near else 'jetson-agx-orin-64gb'} mine, "
            "adapt its numbers, and pass --target mine",
        )
    target = replace(fits[0], memory_gb=size or fits[0].memory_gb)
    if jetson.power_modes:
        target = replace(target, power_modes=jetson.power_modes)
    if target.super_modes and any(m.name == "MAXN_SUPER" for m in target.power_modes):
        gained = target.super_modes
        target = replace(
            target,
            bandwidth_gb_s=gained.bandwidth_gb_s,
            int8_tops=gained.int8_tops,
            fp16_tflops=gained.fp16_tflops,
        )
    return _with_jetpack(target, jetson.jetpack)


def _with_jetpack(target: Target, jetpack: str | None) -> Target:
    """Keep only the software of this JetPack, and the backend that it has bindings for."""
    if jetpack is None:
        return target
    if parts(jetpack)[:1] < (_FIRST_WITH_BINDINGS,) and target.backend == "tensorrt":
        log.info("JetPack %s has no TensorRT bindings for this Python: using trtexec", jetpack)
        target = replace(target, backend="trtexec")
    return replace(target, software=_software(target, jetpack))


def _software(target: Target, jetpack: str) -> tuple[Software, ...]:
    return target.software_of(jetpack=jetpack) or target.software


def _gpu_target(gpu: Gpu, targets: Sequence[Target]) -> Target:
    """Match by name; a GPU that is not listed gets a target from what its driver says."""
    for target in targets:
        if gpu.name in target.gpus:
            return target
    consumer = "RTX" in gpu.name
    same = sorted(
        (t for t in targets if t.compute_capability == gpu.compute_capability and not t.soc),
        key=lambda target: (target.backend == "tensorrt_rtx") != consumer,
    )
    if not same:
        boards = [t.name for t in targets if t.compute_capability == gpu.compute_capability]
        raise ConfigError(
            f"no target for this GPU: {gpu.name} (compute capability {gpu.compute_capability})",
            hint=f"if this is a Jetson whose device tree cannot be seen here, pass --target with "
            f"one of {', '.join(boards)}"
            if boards
            else "pass --target cpu, or run resnet-edge targets copy rtx-4090 mine, adapt its "
            "numbers, and pass --target mine",
        )
    return replace(
        same[0],
        name=re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-"),
        description=f"{gpu.name}, as its driver describes it",
        memory_gb=round(gpu.memory_bytes / _GIB) or None,
        bandwidth_gb_s=None,
        int8_tops=None,
        fp16_tflops=None,
        gpus=(gpu.name,),
    )


def _module_memory(memory: int) -> int:
    """Return the size a module is sold with: the system keeps a part of it for itself."""
    size = 2
    while size * _GIB < memory:
        size *= 2
    return size if memory else 0


def resolve_target(name: str) -> Target:
    """Load a target; ``auto`` is this Jetson, else this machine's GPU, else the CPU.

    On a Jetson of its own kind, a named target is narrowed to the software of that board's JetPack.

    Raises:
        ConfigError: It does not exist, breaks the schema, or the device found has no target.
    """
    if name != "auto":
        return on_this_board(load_target(name), detect_jetson())
    return automatic_target(detect_jetson(), query_driver(), read_memory().total, list_targets())
