from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_edge.errors import BuildError
from resnet_edge.lint.check import lint, select
from resnet_edge.lint.fix import fix
from tests.lint.lint_cases import (
    BIAS_SCALES,
    BIAS_STEPS,
    CASES,
    COLUMN_SCALES,
    INT8_PLAN,
    SHIFTED,
    Case,
    plan_size,
    rules,
)
from tests.quantize.graphs import (
    CHANNELS,
    W_STEPS,
    conv,
    foreign,
    model,
    node,
    pair,
    residual,
    run,
    sound,
    weight_pair,
)

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto
FIXABLE = {name: case for name, case in CASES.items() if case.fixed}


@pytest.mark.parametrize("case", FIXABLE.values(), ids=FIXABLE)
def test_a_repair_removes_the_finding_and_keeps_what_the_graph_computes(case: Case) -> None:
    network = case.make()
    before = network.SerializeToString()
    result = fix(network)
    assert network.SerializeToString() == before
    assert rules(result.fixed) == case.fixed
    assert result.findings == lint(result.model)
    assert not any(finding.fixable for finding in result.findings)
    assert not rules(result.findings) & case.fixed
    onnx.checker.check_model(result.model, full_check=True)
    expected = run(case.reference() if case.reference else network)
    moved = np.abs(run(result.model).astype(np.float64) - expected).max()
    assert moved <= case.tolerance
    assert (moved > 0) == (case.tolerance > 1e-4)


@pytest.mark.parametrize("case", FIXABLE.values(), ids=FIXABLE)
def test_tensorrt_rtx_builds_int8_after_a_repair(case: Case) -> None:
    fixed = fix(case.make())
    assert select(fixed.findings, ["rtx"]) == ()
    size = plan_size(fixed.model)
    assert size < INT8_PLAN or case.rtx == "builds"


def test_a_sound_graph_is_left_alone() -> None:
    network = residual()
    result = fix(network)
    assert result.fixed == ()
    assert result.model == network


def test_a_repair_for_one_tensorrt_leaves_alone_what_only_concerns_others() -> None:
    result = fix(sound(opset=18, activation=pair("x", "xd", "xs", None)), ["rtx"])
    assert result.fixed == ()
    assert result.findings == ()


def test_a_q_takes_the_type_of_the_zero_point_its_dq_has() -> None:
    q, dq = pair("x", "xd", "xs", "uz")
    q.input.pop()
    network = sound(activation=[q, dq], constants={"uz": np.uint8(0)})
    expected = run(network)
    fixed = fix(network)
    assert rules(fixed.findings) == {"zero-point-uint8"}
    assert np.array_equal(run(fixed.model), expected)


def test_a_layer_of_a_shared_weight_is_repaired_once() -> None:
    nodes = [*pair("x", "xd"), *pair("w", "wd", "ws", "zeros", 1), conv("xd", out="c1")]
    nodes += [*pair("c1", "c1d", "ys"), conv("c1d")]
    network = model(nodes, {"ws": COLUMN_SCALES})
    result = fix(network)
    assert [finding.node for finding in result.fixed] == ["c1_conv", "y_conv"]
    assert result.findings == ()
    assert sum(i.name.startswith("ws") for i in result.model.graph.initializer) == 2


def test_parameters_that_others_share_keep_their_value() -> None:
    nodes = [*pair("x", "xd", "s", "z"), *pair("w", "wd", "s", "z"), conv("xd", out="c1")]
    nodes += [*pair("c1", "c1d", "s", "other"), conv("c1d")]
    constants = {"s": np.float32(0.01), "z": np.uint8(128), "other": np.uint8(128)}
    network = model(nodes, constants)
    expected = run(network)
    result = fix(network)
    assert result.findings == ()
    assert np.array_equal(run(result.model), expected)


@pytest.mark.parametrize(
    ("activation_type", "symmetric", "quantize_bias", "expected"),
    [
        ("int8", True, False, set()),
        ("int8", True, True, {"bias-int32"}),
        ("uint8", True, True, {"bias-int32", "zero-point-nonzero"}),
        ("uint8", False, True, {"bias-int32", "zero-point-nonzero", "zero-point-uint8"}),
        ("int8", False, False, {"zero-point-nonzero"}),
    ],
)
def test_what_onnx_runtime_quantized_is_repaired_if_it_is_symmetric(
    tmp_path: Path, activation_type: str, symmetric: bool, quantize_bias: bool, expected: set[str]
) -> None:
    path = foreign(tmp_path, activation=activation_type, symmetric=symmetric, bias=quantize_bias)
    network = onnx.load(path)
    errors = {f.rule for f in lint(network) if f.severity == "error"}
    assert errors == expected
    if expected:
        with pytest.raises(BuildError):
            plan_size(network)
    result = fix(network)
    left = [finding for finding in result.findings if finding.severity != "note"]
    if symmetric:
        assert left == []
        assert plan_size(result.model) > 0
        assert np.abs(run(result.model) - run(network)).max() < 0.1
    else:
        assert "zero-point-nonzero" in {finding.rule for finding in left}


@st.composite
def defects(draw: st.DrawFn) -> ModelProto:
    """A network with any mixture of defects that ONNX Runtime runs and a repair keeps exactly."""
    nodes, constants = [], {}
    around = draw(st.sampled_from([0, 128]))
    zero = np.uint8(128) if around else np.int8(0)
    vector = draw(st.booleans())
    constants["xs"] = np.full(1, 0.02, np.float32) if vector else np.float32(0.02)
    constants["xz"] = np.full(1, zero) if vector else zero
    nodes += pair("x", "xd", "xs", "xz")
    kind = draw(st.sampled_from(["float", "int8", "uint8", "untyped"]))
    if kind == "float":
        nodes += weight_pair()
    else:
        shifted = kind == "uint8"
        constants["steps"] = SHIFTED if shifted else W_STEPS
        constants["wz"] = np.full(CHANNELS, 128, np.uint8) if shifted else np.zeros(64, np.int8)
        inputs = ["steps", "ws"] + ([] if kind == "untyped" else ["wz"])
        nodes.append(node("DequantizeLinear", inputs, "wd", axis=0))
    name = "b"
    if draw(st.booleans()):
        constants |= {"bi": BIAS_STEPS, "bs": BIAS_SCALES, "bz": np.zeros(CHANNELS, np.int32)}
        inputs = ["bi", "bs"] + (["bz"] if draw(st.booleans()) else [])
        nodes.append(node("DequantizeLinear", inputs, "bd", axis=0))
        name = "bd"
    nodes.append(conv("xd", bias=name))
    return model(nodes, constants, opset=draw(st.sampled_from([13, 17, 18, 20])))


@given(network=defects())
def test_any_mixture_of_defects_is_repaired_to_a_graph_that_computes_the_same(
    network: ModelProto,
) -> None:
    result = fix(network)
    assert rules(result.findings) <= {"weights-stored-int8"}
    assert np.allclose(run(result.model), run(network), rtol=0, atol=1e-5)
    assert list(result.fixed) == sorted(
        (finding for finding in lint(network) if finding.fixable), key=result.fixed.index
    )
