"""Checks of each backend: is it installed, does it fit, can it reach the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resnet_edge.backends.config import BuildConfig
from resnet_edge.build.request import RTX_CAPABILITIES, Request, check_request
from resnet_edge.catalog.automatic import automatic_target
from resnet_edge.catalog.targets import Target
from resnet_edge.device.installs import Bindings
from resnet_edge.device.versions import parts, within
from resnet_edge.doctor.board import check_driver
from resnet_edge.doctor.checks import Check, fail, not_applicable, ok, warn
from resnet_edge.doctor.examined import Examined
from resnet_edge.errors import BackendUnavailableError, ConfigError

__all__ = ["BACKENDS", "check_backends", "check_device_memory"]

BACKENDS = ("pytorch", "onnxruntime", "tensorrt", "tensorrt_rtx", "trtexec")

_DEVICE_LIBRARIES = (("pycuda", "pycuda"), ("cuda.bindings", "cuda-python"))  # in this order
_OLDEST_PYTHON = (3, 10)  # that resnet-edge runs on
_TRTEXEC_INSTEAD = 'use backend = "trtexec" in the target, which --target auto does'


def check_backends(machine: Examined, targets: Sequence[Target]) -> dict[str, tuple[Check, ...]]:
    """Return the checks of every backend."""
    checks = (
        check_pytorch(machine),
        check_onnxruntime(machine),
        check_tensorrt(machine, targets),
        check_tensorrt_rtx(machine),
        check_trtexec(machine),
    )
    return dict(zip(BACKENDS, map(tuple, checks), strict=True))


def check_pytorch(machine: Examined) -> list[Check]:
    """Check what export and the reference need."""
    package = machine.usable("torch")
    if package is None:
        return [_missing(machine, "torch", "pip install 'resnet-edge[export]'")]
    built = package.details.get("cuda")
    gpus = package.details.get("gpus") or []
    found = f"PyTorch {package.version}"
    if gpus or not machine.driver.gpus:
        return [ok("package", f"{found}, {', '.join(gpus) or 'on the CPU'}")]
    if built:
        return [warn("package", f"{found} cannot use the GPU", check_driver(machine).fix or
                     "python -c 'import torch; torch.cuda.init()' says why")]  # fmt: skip
    fix = (
        "pip install torch --index-url https://pypi.jetson-ai-lab.io/jp6/cu126 (JetPack 6; for "
        "others see pypi.jetson-ai-lab.io)"
        if machine.jetson
        else "pip install --force-reinstall torch (from PyPI: the CUDA build)"
    )
    return [warn("package", f"{found} is a build without CUDA", fix)]


def check_onnxruntime(machine: Examined) -> list[Check]:
    """Check the CPU backend and, where there is a GPU, its CUDA provider."""
    package = machine.usable("onnxruntime")
    if package is None:
        return [_missing(machine, "onnxruntime", "pip install 'resnet-edge[cpu]'")]
    checks = [ok("package", f"ONNX Runtime {package.version}")]
    if not machine.driver.gpus:
        return [*checks, not_applicable("CUDA provider", "no GPU")]
    if package.details.get("cuda_works"):
        return [*checks, ok("CUDA provider", "works")]
    if "CUDAExecutionProvider" in package.details.get("providers", ()):
        fix = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        return [*checks, warn("CUDA provider", "is there but cannot start", fix)]
    return [*checks, not_applicable("CUDA provider", "not in this build; the CPU calibrates")]


def check_tensorrt(machine: Examined, targets: Sequence[Target]) -> list[Check]:
    """Check TensorRT's Python package and everything that running an engine needs."""
    package = machine.usable("tensorrt")
    if package is None:
        return [_no_bindings(machine)]
    version = package.version or ""
    checks = [ok("package", f"TensorRT {version} in {package.location}")]
    others = [b.folder for b in machine.bindings if not package.location.startswith(b.folder)]
    if others:
        checks.append(
            warn("installations", f"another one lies in {', '.join(others)}",
                 "pip uninstall tensorrt tensorrt-cu12 tensorrt-cu13, to use that of the system")
        )  # fmt: skip
    fit = _fit(machine, version, targets)
    return [*checks, *fit, _needs_gpu(machine), check_device_memory(machine)]


def _fit(machine: Examined, version: str, targets: Sequence[Target]) -> list[Check]:
    """Check TensorRT against JetPack and numpy."""
    checks = []
    if machine.jetson and machine.jetson.jetpack:
        checks += _fits_jetpack(machine, machine.jetson.jetpack, version, targets)
    numpy = machine.usable("numpy")
    if numpy and within(version, "8", "8.5.2") and parts(numpy.version or "") >= (1, 24):
        checks.append(
            fail("numpy", f"numpy {numpy.version} has no np.bool, which TensorRT {version} uses",
                 'use backend = "trtexec" in the target, which needs no Python package; '
                 "or pip install 'numpy<1.24'")
        )  # fmt: skip
    return checks


def _fits_jetpack(
    machine: Examined, jetpack: str, version: str, targets: Sequence[Target]
) -> list[Check]:
    """Check TensorRT by the rule that refuses a build."""
    try:
        target = automatic_target(machine.jetson, machine.driver, machine.memory.total, targets)
    except ConfigError:  # a check of its own says so
        return []
    try:
        check_request(target, Request(BuildConfig("fp16"), version=version))
    except ConfigError as error:
        fix = (
            "pip uninstall tensorrt tensorrt-cu12 tensorrt-cu13; "
            "sudo apt install python3-libnvinfer; python3 -m venv --system-site-packages .venv"
        )
        return [fail("JetPack", error.message, fix)]
    return [ok("JetPack", f"{jetpack} goes with TensorRT {version}")]


def _no_bindings(machine: Examined) -> Check:
    """Explain why ``import tensorrt`` does not work."""
    hidden = [b for b in machine.bindings if not b.visible]
    if hidden:
        return _hidden(machine, hidden[0])
    package = machine.packages.get("tensorrt")
    if package is not None:
        fix = (
            "sudo apt install tensorrt" if machine.jetson else
            f"pip install --force-reinstall {_wheel(machine)} (it brings libnvinfer)"
        )  # fmt: skip
        return fail("package", f"cannot be imported: {package.error}", fix)
    if machine.jetson is not None:
        if machine.jetson.jetpack and parts(machine.jetson.jetpack) < (6,):
            return fail(
                "package",
                f"JetPack {machine.jetson.jetpack} has TensorRT for Python 3.6 or 3.8 only",
                _TRTEXEC_INSTEAD,
            )
        return fail("package", "not installed", "sudo apt install python3-libnvinfer, then "
                    "python3 -m venv --system-site-packages .venv")  # fmt: skip
    return fail("package", "not installed", f"pip install {_wheel(machine)} (needs an NVIDIA GPU)")


def _wheel(machine: Examined) -> str:
    """Return the name of the TensorRT wheels that this driver can serve."""
    return "tensorrt-cu12" if parts(machine.driver.cuda or "13")[0] < 13 else "tensorrt-cu13"


def _hidden(machine: Examined, bindings: Bindings) -> Check:
    running = ".".join(machine.python.split(".")[:2])
    if bindings.python is not None and bindings.python != running:
        return fail(
            "package",
            f"TensorRT in {bindings.folder} is for Python {bindings.python}, this is {running}",
            _TRTEXEC_INSTEAD
            if parts(bindings.python) < _OLDEST_PYTHON
            else f"python{bindings.python} -m venv --system-site-packages .venv, and install "
            "resnet-edge there",
        )
    return fail(
        "package",
        f"TensorRT lies in {bindings.folder}, out of sight of this environment",
        "python3 -m venv --system-site-packages .venv, and install resnet-edge there"
        if machine.in_venv
        else "run the system's python3",
    )


def check_tensorrt_rtx(machine: Examined) -> list[Check]:
    """Check TensorRT-RTX, which builds on any machine; what only running needs is a warning."""
    package = machine.usable("tensorrt_rtx")
    if package is None:
        if machine.jetson is not None:
            return [fail("package", "there is no TensorRT-RTX for Jetson", "use TensorRT")]
        return [_missing(machine, "tensorrt_rtx", "pip install 'resnet-edge[rtx]'")]
    checks = [ok("package", f"TensorRT-RTX {package.version}: builds here, for any of its GPUs")]
    if not machine.driver.gpus:
        return [*checks, not_applicable("running", "no GPU: engines are built but not run")]
    gpu = machine.driver.gpus[0]
    if gpu.compute_capability not in RTX_CAPABILITIES:
        found = f"{gpu.name} (SM {gpu.compute_capability}) is not among its GPUs"
        return [*checks, warn("running", found, "use TensorRT, PyTorch or ONNX Runtime here")]
    needed = (_needs_gpu(machine), check_device_memory(machine))
    return [*checks, *(replace(c, status="warn") if c.status == "fail" else c for c in needed)]


def check_trtexec(machine: Examined) -> list[Check]:
    """Check NVIDIA's own program, which needs no Python package."""
    program = machine.trtexec
    if program is None:
        if machine.jetson is not None:
            return [fail("program", "not found", "sudo apt install libnvinfer-bin")]
        return [fail("program", "not found", "install NVIDIA's TensorRT tar or Debian package "
                     "(the wheels have none), and put its bin folder on PATH")]  # fmt: skip
    if isinstance(program, BackendUnavailableError):
        return [fail("program", program.message, program.hint or "install it again")]
    return [ok("program", f"{program.path}, TensorRT {program.version}"), _needs_gpu(machine)]


def check_device_memory(machine: Examined) -> Check:
    """Say which package gives device memory, streams and events: the first that imports."""
    problem = "neither pycuda nor cuda-python"
    for name, title in _DEVICE_LIBRARIES:
        package = machine.packages.get(name)
        if package is not None and package.version is not None:
            return ok("device memory", f"{title} {package.version}")
        if package is not None:
            problem = f"{title} cannot be imported: {package.error}"
    wheels = f"pip install 'cuda-python=={parts(machine.driver.cuda or '12')[0]}.*' (prebuilt)"
    if machine.nvcc is None:
        fix = f"{wheels}; pycuda is compiled at installation and there is no nvcc here"
    else:
        folder = machine.nvcc.removesuffix("/nvcc")
        fix = f"PATH={folder}:$PATH pip install pycuda; or {wheels}"
    return fail("device memory", problem, fix)


def _needs_gpu(machine: Examined) -> Check:
    """Return the driver's check, where its absence is a failure."""
    check = check_driver(machine)
    if check.status == "ok":
        return check
    return fail(check.name, check.found, check.fix or "run this on a machine with an NVIDIA GPU")


def _missing(machine: Examined, name: str, fix: str) -> Check:
    package = machine.packages.get(name)
    if package is None:
        return fail("package", "not installed", fix)
    again = fix.replace("pip install", "pip install --force-reinstall")
    return fail("package", f"cannot be imported: {package.error}", again)
