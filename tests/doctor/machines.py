"""Machines as `doctor` sees them; each a healthy one that tests break in one way."""

from __future__ import annotations

from pathlib import Path

from resnet_edge.backends.trtexec.binary import Trtexec
from resnet_edge.backends.trtexec.known_options import known_flags
from resnet_edge.device.installs import Bindings
from resnet_edge.device.jetson import GpuClock, Jetson, PowerMode
from resnet_edge.device.memory import Memory
from resnet_edge.device.nvidia import Gpu, NvidiaDriver, Runtime
from resnet_edge.device.packages import Package
from resnet_edge.doctor.examined import Examined

__all__ = ["BARE", "DIST", "H100", "ORIN", "RTX", "XAVIER"]

GB = 10**9
TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")
DIST = "/usr/lib/python3.10/dist-packages/tensorrt"

ORIN = Examined(  # AGX Orin, JetPack 6.2, everything in place
    system="Linux aarch64",
    python="3.10.12",
    in_venv=True,
    jetson=Jetson(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        soc="tegra234",
        modules=("p3737-0000", "p3701-0005"),
        l4t="36.4.3",
        jetpack="6.2",
        power_mode=PowerMode(0, "MAXN"),
        power_modes=(PowerMode(0, "MAXN"), PowerMode(1, "MODE_15W"), PowerMode(2, "MODE_30W")),
        clock=GpuClock(1_300_500_000, 1_300_500_000, 1_300_500_000),
    ),
    driver=NvidiaDriver("12.6", (Gpu("Orin", "8.7", 64 * GB, integrated=True),)),
    runtime=Runtime("libcudart.so.12", "12.6", 0),
    memory=Memory(64 * GB, 50 * GB, 32 * GB),
    disk_free=100 * GB,
    packages={
        "numpy": Package("1.26.4", "numpy"),
        "torch": Package("2.8.0", "torch", details={"cuda": "12.6", "gpus": ["Orin"]}),
        "onnxruntime": Package(
            "1.23.0", "onnxruntime",
            details={"providers": ["CUDAExecutionProvider"], "cuda_works": True},
        ),
        "tensorrt": Package("10.3.0", f"{DIST}/__init__.py"),
        "pycuda": Package("2026.1", "pycuda"),
    },
    bindings=(Bindings(DIST, "3.10", visible=True),),
    debian={"libnvinfer10": "10.3.0.30-1+cuda12.5", "libnvinfer-bin": "10.3.0.30-1+cuda12.5"},
    trtexec=Trtexec(TRTEXEC, "10.3.0", known_flags("10.3.0")),
    nvcc="/usr/local/cuda/bin/nvcc",
)  # fmt: skip

XAVIER = Examined(  # JetPack 5: no bindings for any Python that resnet-edge runs on
    system="Linux aarch64",
    python="3.10.14",
    jetson=Jetson(
        model="NVIDIA Jetson Xavier NX Developer Kit", soc="tegra194",
        modules=("p3509-0000", "p3668-0001"), l4t="35.4.1", jetpack="5.1.2",
        power_mode=PowerMode(2, "MODE_15W_6CORE"),
        power_modes=(PowerMode(2, "MODE_15W_6CORE"), PowerMode(8, "MODE_20W_6CORE")),
        clock=GpuClock(114_750_000, 1_109_250_000, 114_750_000),
    ),
    driver=NvidiaDriver("11.4", (Gpu("Xavier", "7.2", 8 * GB, integrated=True),)),
    memory=Memory(8 * GB, 5 * GB, 0),
    disk_free=20 * GB,
    packages={"numpy": Package("1.26.4", "numpy")},
    trtexec=Trtexec(TRTEXEC, "8.5.2", known_flags("8.5.2")),
)  # fmt: skip

RTX = Examined(
    system="Linux x86_64",
    python="3.12.3",
    in_venv=True,
    driver=NvidiaDriver("13.0", (Gpu("NVIDIA GeForce RTX 4090", "8.9", 25 * GB),)),
    runtime=Runtime("libcudart.so.13", "13.0", 0),
    memory=Memory(64 * GB, 60 * GB, 8 * GB),
    disk_free=500 * GB,
    packages={
        "numpy": Package("2.4.6", "numpy"),
        "tensorrt_rtx": Package("1.7.1.116", "tensorrt_rtx"),
        "cuda.bindings": Package("13.0.1", "cuda"),
    },
)

H100 = Examined(
    system="Linux x86_64",
    python="3.12.3",
    driver=NvidiaDriver("12.4", (Gpu("NVIDIA H100 80GB HBM3", "9.0", 85 * GB),)),
    memory=Memory(128 * GB, 120 * GB, 0),
    disk_free=60 * GB,
    packages={
        "numpy": Package("2.1.0", "numpy"),
        "torch": Package("2.9.0", "torch", details={"cuda": "12.4", "gpus": ["NVIDIA H100"]}),
        "tensorrt_rtx": Package("1.7.1.116", "tensorrt_rtx"),
    },
)

BARE = Examined("Linux x86_64", "3.11.7", memory=Memory(8 * GB, 6 * GB, 0), disk_free=10 * GB)
