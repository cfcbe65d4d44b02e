"""The driver is asked through ctypes; here stand-ins answer, compiled from a few lines of C."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from resnet_edge.device.nvidia import Gpu, NvidiaDriver, Runtime, query_driver, query_runtime

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = """
#include <stddef.h>
#include <string.h>
int cuDriverGetVersion(int *v) { *v = VERSION; return VERSION == 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDeviceGet(int *d, int i) { *d = i + 40; return 0; }
int cuDeviceGetName(char *name, int size, int d) {
    strncpy(name, d == 40 ? "NVIDIA Stand-in" : "NVIDIA Other", size); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = 25393692672u + (size_t)d - 40; return 0; }
int cuDeviceGetAttribute(int *v, int code, int d) {
    *v = code == 75 ? 8 : code == 76 ? d - 31 : code == 18 ? d == 41 : -1; return 0; }
"""
RUNTIME = """
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaGetDeviceCount(int *n) { *n = 0; return ERROR; }
"""


def compile_library(folder: Path, name: str, source: str, **values: int) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not available on this machine")
    path = folder / f"{name}.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path),
         *(f"-D{key}={value}" for key, value in values.items())],
        input=source, text=True, check=True,
    )  # fmt: skip
    return str(path)


def test_every_gpu_is_described(tmp_path: Path) -> None:
    library = compile_library(tmp_path, "a", DRIVER, VERSION=12060, INIT=0, COUNT=2)
    assert query_driver(library) == NvidiaDriver(
        "12.6",
        (
            Gpu("NVIDIA Stand-in", "8.9", 25393692672),
            Gpu("NVIDIA Other", "8.10", 25393692673, integrated=True),
        ),
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [(100, "no GPU is visible"), (803, "differ in version"), (77, "see cuda.h")],
)
def test_a_driver_that_fails_says_why(tmp_path: Path, code: int, said: str) -> None:
    library = compile_library(tmp_path, "b", DRIVER, VERSION=13000, INIT=code, COUNT=1)
    driver = query_driver(library)
    assert (driver.cuda, driver.gpus) == ("13.0", ())
    assert f"error {code}" in driver.error
    assert said in driver.error


def test_a_driver_without_a_gpu_says_so(tmp_path: Path) -> None:
    library = compile_library(tmp_path, "c", DRIVER, VERSION=13000, INIT=0, COUNT=0)
    assert query_driver(library) == NvidiaDriver("13.0", (), "no GPU is visible")


def test_no_driver_and_no_library_are_no_error(tmp_path: Path) -> None:
    assert "no NVIDIA driver" in query_driver("libnothing-at-all.so.1").error
    other = compile_library(tmp_path, "d", RUNTIME, ERROR=0)
    assert "no CUDA driver" in query_driver(other).error
    silent = compile_library(tmp_path, "e", DRIVER, VERSION=0, INIT=0, COUNT=1)
    assert "does not answer" in query_driver(silent).error


def test_the_runtime_says_that_the_driver_is_too_old(tmp_path: Path) -> None:
    library = compile_library(tmp_path, "f", RUNTIME, ERROR=35)
    assert query_runtime(["libnothing.so", library]) == Runtime(library, "13.0", 35)
    good = compile_library(tmp_path, "g", RUNTIME, ERROR=0)
    assert query_runtime([good, library]) == Runtime(good, "13.0", 0)
    assert query_runtime([library, good]) == Runtime(good, "13.0", 0)
    newer = compile_library(tmp_path, "n", RUNTIME, ERROR=46)
    assert query_runtime([library, newer]) == Runtime(library, "13.0", 35)


def test_what_is_no_runtime_is_passed_over(tmp_path: Path) -> None:
    driver = compile_library(tmp_path, "h", DRIVER, VERSION=1, INIT=0, COUNT=0)
    assert query_runtime(["libnothing.so", driver]) is None
    assert query_runtime([]) is None
