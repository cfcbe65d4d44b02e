"""The precision asked for is the one computed in: flags, ranges and layers kept in float.

Inputs, weights and scales are short binary fractions, so that every sum is exact in FP32 and what
the engine gives must equal what numpy gives, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.conftest import onnx_model
from tests.emulation.device import run_on_device
from tests.emulation.rounded import rounded_outputs

WEAK = ("8.6", "10.3")
RANGES = {"x": 127 / 32, "c": 127 / 8, "r": 127 / 8, "s": 127 / 4, "y": 127 / 4}
RNG = np.random.default_rng(0)


def fractions(*shape: int, unit: float) -> Any:
    """Return numbers of 12 bits, one more than FP16 holds."""
    odd = 2 * RNG.integers(1025, 2048, shape) + 1
    return (np.where(RNG.random(shape) < 0.5, -odd, odd) * unit).astype(np.float32)


def weight(*shape: int) -> Any:
    """Return such weights, whose INT8 scale in every channel is 1/64."""
    values = fractions(*shape, unit=2.0**-12)
    values.reshape(shape[0], -1)[:, 0] = 127 / 64
    return values


WEIGHTS = {"w": weight(2, 1, 2, 2), "b": fractions(2, unit=2.0**-10), "v": weight(2, 2, 1, 1)}
X = fractions(2, 1, 4, 4, unit=2.0**-11)
BODY = "c = Conv(x, w, b)  r = Relu(c)  s = Conv(r, v)  y = Add(s, r)"


def network(*, pairs: bool = False) -> Any:
    """Return a small residual network, or it with a Q/DQ pair in front of each Conv."""
    if not pairs:
        body, constants = BODY, WEIGHTS
    else:
        body = BODY.replace("Conv(x, w", "Conv(xd, wd").replace("Conv(r, v)", "Conv(rd, vd)")
        parts = {"x": "sx, z", "w": "sw, zw", "r": "sr, z", "v": "sw, zw"}
        made = {
            name: f"{name}q = QuantizeLinear <axis=0> ({name}, {p})  "
            f"{name}d = DequantizeLinear <axis=0> ({name}q, {p})  "
            for name, p in parts.items()
        }
        body = made["x"] + made["w"] + made["v"] + body.replace("s =", made["r"] + "s =")
        scales = {n: np.float32(a / 127) for n, a in (("sx", RANGES["x"]), ("sr", RANGES["r"]))}
        zeros = {"z": np.int8(0), "zw": np.zeros(2, np.int8)}
        constants = {**WEIGHTS, **scales, "sw": np.full(2, 1 / 64, np.float32), **zeros}
    model = onnx_model(f"g (float[n,1,4,4] x) => (float[n,2,3,3] y) {{ {body} }}", **constants)
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


def build_and_run(model: str, x: list[Any], variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Build and run a network in several ways, as `TensorRTBackend` does; on the device."""
    import numpy as np
    import tensorrt as trt

    from resnet_edge.backends.config import BuildConfig, Calibration
    from resnet_edge.backends.tensorrt.builder import build_plan
    from resnet_edge.backends.tensorrt.calibration_cache import encode_cache
    from resnet_edge.backends.tensorrt.engine import LoadOptions
    from resnet_edge.backends.tensorrt.session import TensorRTSession
    from resnet_edge.backends.tensorrt.settings import PlanRequest
    from resnet_edge.errors import BuildError
    from resnet_edge.progress import SILENT

    found: list[dict[str, Any]] = []
    for variant in variants:
        ranges, kept = variant.pop("ranges", None), variant.pop("keep_float", ())
        config = BuildConfig(profile=(1, 2, 2), **variant)
        calibration = (
            Calibration(cache=encode_cache(ranges), keep_float=tuple(kept)) if ranges else None
        )
        request = PlanRequest(config, calibration=calibration)
        try:
            plan = build_plan(trt, bytes.fromhex(model), request, SILENT)
        except BuildError as error:
            found.append({"error": f"{error.message} ({error.hint})"})
            continue
        with TensorRTSession(trt, plan.data, LoadOptions("engine")) as session:
            y = session.run({"x": np.array(x, np.float32)})["y"]
        found.append({"y": y.tolist(), "warnings": plan.warnings})
    return found


def outputs(version: str, model: Any, *variants: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_on_device(
        "cuda-python", build_and_run, model.SerializeToString().hex(), X.tolist(), variants,
        tensorrt=version,
    )  # fmt: skip
    return found


def expected(model: Any, **rounding: Any) -> list[Any]:
    values: list[Any] = rounded_outputs(model, {"x": X}, **rounding)["y"].tolist()
    return values


@pytest.mark.parametrize("version", WEAK)
def test_the_fp16_flag_is_what_makes_an_engine_round_to_fp16(version: str) -> None:
    fp32, fp16 = outputs(version, network(), {"precision": "fp32"}, {"precision": "fp16"})
    assert fp32["y"] == expected(network())
    assert fp16["y"] == expected(network(), half=True)
    difference = np.abs(np.subtract(fp16["y"], fp32["y"]))
    assert 2.0**-13 < difference.max() / np.abs(fp32["y"]).max() < 2.0**-9


@pytest.mark.parametrize("version", WEAK)
def test_what_a_graph_with_pairs_does_not_quantize_is_of_the_type_asked_for(version: str) -> None:
    model = network(pairs=True)
    fp16, fp32 = outputs(
        version, model, {"precision": "int8"}, {"precision": "int8", "rest": "fp32"}
    )
    assert fp16["y"] == expected(model, half=True)
    assert fp32["y"] == expected(model)
    assert fp16["y"] != fp32["y"]
    assert fp32["y"] != expected(network())


IMPLICIT = {"precision": "int8", "implicit": "ranges"}


@pytest.mark.parametrize("version", WEAK)
def test_every_range_reaches_the_tensor_it_is_of(version: str) -> None:
    all_ranges = [RANGES, *({**RANGES, name: RANGES[name] / 4} for name in RANGES)]
    found = outputs(version, network(), *({**IMPLICIT, "ranges": ranges} for ranges in all_ranges))
    for ranges, one in zip(all_ranges, found, strict=True):
        assert one["y"] == expected(network(), half=True, ranges=ranges)
        assert one["warnings"] == []
    assert len({str(one["y"]) for one in found}) == len(found)


@pytest.mark.parametrize("tensor", ["x", "r", "y"])
def test_a_tensor_without_a_range_leaves_the_layers_around_it_in_float(tensor: str) -> None:
    ranges = {name: amax for name, amax in RANGES.items() if name != tensor}
    whole, without = outputs(
        "10.3", network(), {**IMPLICIT, "ranges": RANGES}, {**IMPLICIT, "ranges": ranges}
    )
    assert without["y"] == expected(network(), half=True, ranges=ranges)
    assert without["y"] != whole["y"]
    (warning,) = without["warnings"]
    assert f"Missing scale and zero-point for tensor {tensor}," in warning


def test_ranges_of_another_network_are_an_error() -> None:
    (found,) = outputs("10.3", network(), {**IMPLICIT, "ranges": {"other": 1.0}})
    assert "names no tensor of this network" in found["error"]
    assert "calibrate this model again" in found["error"]


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_a_layer_kept_in_float_is_not_quantized(rest: str) -> None:
    variant = {**IMPLICIT, "rest": rest, "ranges": RANGES}
    kept, quantized = outputs(
        "10.3", network(), {**variant, "keep_float": ["node_c"]}, {**variant, "keep_float": []}
    )
    half = rest == "fp16"
    assert kept["y"] == expected(network(), half=half, ranges=RANGES, keep_float=["node_c"])
    assert kept["y"] != quantized["y"]


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_a_strongly_typed_engine_rounds_nothing_that_its_graph_does_not(version: str) -> None:
    (fp16,) = outputs(version, network(), {"precision": "fp16", "strongly_typed": True})
    assert fp16["y"] == expected(network())
