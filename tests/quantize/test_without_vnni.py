"""On an x86 without VNNI 8-bit weights overflow, and 7-bit weights are exact (emulated by QEMU)."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.reference import Golden
from resnet_edge.device.cpu import sums_saturate
from resnet_edge.quantize.stage import quantize
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path

require("onnxruntime")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="this is no x86")
QEMU = ("qemu-x86_64", "-cpu", "Haswell-noTSX")  # AVX2, but neither AVX-512 nor VNNI
RUN = """
import sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
for model in sys.argv[2:]:
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    np.save(model + ".npy", session.run(None, {"input": np.load(sys.argv[1])})[0])
"""


@pytest.fixture
def outputs(bundle_copy: Path) -> Any:
    """Run the twins with 8 and 7 bits of weight, here or on the emulated processor."""
    bundle = Bundle.open(bundle_copy)
    inputs = bundle.path / "input.npy"
    np.save(inputs, bundle.model.image_spec.to_input(Golden.load(bundle).pixels[:16]))
    models = []
    for bits, reduce_range in ((8, False), (7, True)):
        made = quantize(bundle, "int8-cpu", reduce_range=reduce_range).path
        models.append(shutil.copy(made, bundle.path / f"twin{bits}.onnx"))

    def run(*emulator: str) -> list[Any]:
        command = [*emulator, sys.executable, "-c", RUN, str(inputs), *map(str, models)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return [np.load(f"{model}.npy") for model in models]

    return run


def test_seven_bits_compute_on_a_haswell_what_they_compute_here(outputs: Any) -> None:
    require(QEMU[0], available=shutil.which(QEMU[0]) is not None)
    here, there = outputs(), outputs(*QEMU)
    assert np.array_equal(here[1], there[1])
    if not sums_saturate():
        assert np.abs(here[0] - there[0]).max() > 0.1  # what 7 bits are for
