"""The real bindings can be looked at, and differ where the documentation says they do."""

from __future__ import annotations

import pytest

from tests.emulation.bindings import VERSIONS, run_with_bindings

# FP16 flag, STRONGLY_TYPED, IInt8EntropyCalibrator2, IProgressMonitor, EXPLICIT_BATCH
FEATURES = {
    "8.6": (True, False, True, False, True),
    "10.3": (True, True, True, True, True),
    "10.13": (True, True, True, True, True),
    "10.16": (True, True, True, True, True),
    "11.4": (False, True, False, True, False),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_has_the_features_it_is_known_for(version: str) -> None:
    def look() -> list[object]:
        import tensorrt as trt

        creation = trt.NetworkDefinitionCreationFlag
        features = (
            hasattr(trt.BuilderFlag, "FP16"),
            hasattr(creation, "STRONGLY_TYPED"),
            hasattr(trt, "IInt8EntropyCalibrator2"),
            hasattr(trt, "IProgressMonitor"),
            hasattr(creation, "EXPLICIT_BATCH"),
        )
        return [trt.__version__, features]

    found, features = run_with_bindings(version, look)
    assert found.startswith(version)
    assert tuple(features) == FEATURES[version]
