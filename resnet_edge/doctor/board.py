"""Checks of the machine itself: device, driver, clocks, power, memory, disk."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_edge.catalog.automatic import automatic_target
from resnet_edge.catalog.targets import Target
from resnet_edge.device.jetson import best_mode, rank
from resnet_edge.device.machine import Machine
from resnet_edge.device.nvidia import INSUFFICIENT_DRIVER
from resnet_edge.device.versions import parts
from resnet_edge.doctor.checks import Check, fail, not_applicable, ok, warn
from resnet_edge.errors import ConfigError

__all__ = ["check_board", "check_driver"]

_GB = 1e9
_BUILD_MEMORY = 2 * _GB  # what a build of ResNet-50 takes besides the engine, generously
_SMALL_MEMORY = 10 * _GB  # modules of up to 8 GB
_DISK = 2 * _GB


def check_board(machine: Machine, targets: Sequence[Target]) -> list[Check]:
    """Return the checks that concern every backend."""
    return [
        check_device(machine),
        check_target(machine, targets),
        check_driver(machine),
        check_power_mode(machine),
        check_clocks(machine),
        check_memory(machine),
        check_disk(machine),
    ]


def check_device(machine: Machine) -> Check:
    """Say what this machine is."""
    jetson, gpus = machine.jetson, machine.driver.gpus
    where = f"{machine.system}, Python {machine.python}"
    if jetson is None:
        names = ", ".join(f"{g.name} (SM {g.compute_capability})" for g in gpus)
        return ok("device", f"{names or 'no NVIDIA GPU'}, {where}")
    model = jetson.model or jetson.soc or "Jetson"
    if jetson.jetpack is None:
        return warn(
            "device",
            f"{model}, JetPack unknown ({where})",
            "in a container: mount /etc/nv_tegra_release read-only, so that its JetPack is known",
        )
    return ok("device", f"{model}, JetPack {jetson.jetpack} (L4T {jetson.l4t}), {where}")


def check_target(machine: Machine, targets: Sequence[Target]) -> Check:
    """Say what ``--target auto`` takes."""
    try:
        target = automatic_target(machine.jetson, machine.driver, machine.memory.total, targets)
    except ConfigError as error:
        return fail("target", error.message, error.hint or "")
    return ok("target", f"--target auto is {target.name}, built by {target.backend}")


def check_driver(machine: Machine) -> Check:
    """Say whether CUDA can be used; asked before any TensorRT object is made."""
    driver, runtime = machine.driver, machine.runtime
    too_old = runtime is not None and runtime.error == INSUFFICIENT_DRIVER
    if driver.cuda is None:
        if machine.jetson is not None:
            return fail(
                "CUDA driver",
                driver.error,
                "in a container: start it with docker run --runtime nvidia; "
                "on the board: sudo apt install nvidia-l4t-cuda",
            )
        detail = f"; CUDA {runtime.cuda} says error {runtime.error}" if runtime and too_old else ""
        return not_applicable("CUDA driver", driver.error + detail)
    if not driver.gpus:
        return fail("CUDA driver", driver.error, "nvidia-smi; then reboot, or pass the GPU on "
                    "to the container with docker run --gpus all")  # fmt: skip
    found = f"supports CUDA {driver.cuda}"
    if runtime is not None and too_old:
        return fail(
            "CUDA driver",
            f"{found}, but the installed CUDA runtime is {runtime.cuda} (CUDA error 35)",
            _newer_driver(machine, needed=runtime.cuda, supported=driver.cuda),
        )
    if runtime is not None and runtime.error:
        return fail("CUDA driver", f"{found}; CUDA error {runtime.error}", "nvidia-smi")
    return ok("CUDA driver", found)


def _newer_driver(machine: Machine, *, needed: str, supported: str) -> str:
    """Return how to bring driver and runtime together; the driver of a Jetson is JetPack's."""
    major = parts(supported)[0]
    older = f"pip install 'cuda-python=={major}.*', and TensorRT from the packages for CUDA {major}"
    if machine.jetson is not None:
        return older
    return (
        "sudo ubuntu-drivers install (not Ubuntu: https://www.nvidia.com/drivers), for CUDA "
        f"{needed} or newer, then reboot; or {older}"
    )


def check_power_mode(machine: Machine) -> Check:
    """Say whether a Jetson runs in its fastest mode."""
    jetson = machine.jetson
    if jetson is None:
        return not_applicable("power mode", "no Jetson")
    best = best_mode(jetson.power_modes)
    if jetson.power_mode is None or best is None:
        return warn("power mode", "cannot be read", "sudo nvpmodel -q")
    name = jetson.power_mode.name
    if rank(jetson.power_mode) < rank(best):
        return warn(
            "power mode",
            f"{name}; the fastest is {best.name}",
            f"sudo nvpmodel -m {best.id} (latencies are those of {name} until then)",
        )
    return ok("power mode", name)


def check_clocks(machine: Machine) -> Check:
    """Say whether a Jetson's clocks are locked, as measuring needs them to be."""
    if machine.jetson is None:
        return not_applicable("clocks", "no Jetson")
    clock = machine.jetson.clock
    if clock is None:
        return warn("clocks", "cannot be read", "sudo jetson_clocks --show")
    if not clock.locked:
        limits = f"{clock.minimum / 1e6:.0f} and {clock.maximum / 1e6:.0f} MHz"
        return warn("clocks", f"GPU moves between {limits}", "sudo jetson_clocks")
    return ok("clocks", f"GPU locked at {clock.maximum / 1e6:.0f} MHz")


def check_memory(machine: Machine) -> Check:
    """Say whether a build has room; on a Jetson it shares memory with everything else."""
    memory = machine.memory
    if not memory.total:
        return not_applicable("memory", "cannot be read")
    found = (
        f"{memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB free, "
        f"swap {memory.swap / _GB:.1f} GB"
    )
    if memory.available + memory.swap < _BUILD_MEMORY:
        return warn("memory", found, "close the desktop (sudo systemctl isolate multi-user)")
    if machine.jetson is not None and memory.total < _SMALL_MEMORY and not memory.swap:
        return warn(
            "memory",
            found,
            "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && "
            "sudo mkswap /swapfile && sudo swapon /swapfile",
        )
    return ok("memory", found)


def check_disk(machine: Machine) -> Check:
    """Say whether engines have room."""
    found = f"{machine.disk_free / _GB:.1f} GB free in the working directory"
    if machine.disk_free < _DISK:
        return warn("disk", found, "free some, or go on from a directory on another disk")
    return ok("disk", found)
