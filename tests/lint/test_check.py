from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resnet_edge.bundle.ranges_table import Ranges, TensorRange
from resnet_edge.errors import BuildError, GraphError
from resnet_edge.lint.check import FLAVOURS, RULES, Finding, Flavour, lint, select
from resnet_edge.lint.fix import fix
from resnet_edge.quantize.fp16 import to_fp16
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import Weights, engine_graph
from tests.conftest import REPOSITORY, require
from tests.lint.lint_cases import (
    BIAS_SCALES,
    BIAS_STEPS,
    CASES,
    INT8_PLAN,
    Case,
    activation,
    bias,
    plan_size,
    rules,
)
from tests.quantize.graphs import conv, float_net, model, node, pair, residual, sound, weight_pair

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_lint_says_exactly_what_is_wrong(case: Case) -> None:
    findings = lint(case.make())
    assert rules(findings) == case.rules
    assert {f.rule for f in findings if f.fixable} >= case.fixed


def test_every_rule_has_a_case() -> None:
    assert {rule.id for rule in RULES} == set().union(*(case.rules for case in CASES.values()))
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tensorrt_rtx_agrees_with_lint(case: Case, tmp_path: Path) -> None:
    """What lint calls an error is rejected (or known to be wrong), and so on."""
    network = case.make()
    findings = select(lint(network), ["rtx"])
    severities = {finding.severity for finding in findings}
    assert ("error" in severities) == (case.rtx in ("rejects", "crashes", "wrong"))
    if case.rtx == "crashes":
        assert_the_builder_dies(network, tmp_path / "model.onnx")
    elif case.rtx == "rejects":
        with pytest.raises(BuildError):
            plan_size(network)
    else:
        size = plan_size(network)
        if case.rtx == "int8":
            assert size < INT8_PLAN
            assert "slow" not in severities
        elif case.rtx == "float":
            assert size > INT8_PLAN
            assert "slow" in severities or rules(findings) == {"not-quantized"}


def assert_the_builder_dies(network: ModelProto, path: Path) -> None:
    require("tensorrt_rtx")
    onnx.save(network, path)
    program = (
        "import sys, pathlib; from resnet_edge.backends.tensorrt.rtx import build_plan\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "build_plan(data, compute_capabilities=('8.6',), profile=(1, 1, 1))"
    )
    arguments = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, check=False)
    assert result.returncode != 0


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("zero-point-missing", ("8.5", "8.6")),
        ("scale-fp16", ("8.5", "8.6")),
        ("scale-type", ("strong",)),
        ("layer-types", ("strong", "rtx")),
        ("bias-int32", FLAVOURS),
    ],
)
def test_a_finding_names_the_tensorrt_flavours_it_concerns(
    rule: str, expected: tuple[Flavour, ...]
) -> None:
    case = next(case for case in CASES.values() if rule in case.rules)
    [finding, *_] = [f for f in lint(case.make()) if f.rule == rule]
    assert finding.flavours == expected
    assert select([finding], ["rtx"]) == (
        (Finding(**{**vars(finding), "flavours": ("rtx",)}),) if "rtx" in expected else ()
    )


def test_findings_come_with_errors_first_and_name_node_cause_and_fix() -> None:
    network = residual(quantize_main=True)
    network.graph.node[0].input.pop()  # the zero-point of xd_Q
    errors = [finding.severity for finding in lint(network)]
    assert errors == ["error", "slow"]
    missing, blocked = lint(network)
    assert (missing.node, blocked.node) == ("xd_Q", "c2d_Q")
    assert "Add add" in blocked.message
    assert "rounding disappears" in blocked.fix


def test_a_pair_is_reported_once() -> None:
    findings = lint(activation(xs=np.float32(0))())
    assert [finding.node for finding in findings] == ["xd_Q"]


def test_nodes_without_a_name_are_called_by_their_output() -> None:
    network = bias(BIAS_STEPS, BIAS_SCALES)()
    for item in network.graph.node:
        item.name = ""
    assert [finding.node for finding in lint(network)] == ["bd"]
    assert rules(fix(network).fixed) == {"bias-int32"}


def test_the_missing_zero_point_of_a_q_says_that_onnx_runtime_will_differ() -> None:
    [at_q, at_dq] = lint(sound(activation=pair("x", "xd", "xs", None)))
    assert "ONNX Runtime assumes uint8, its results change" in at_q.fix
    assert "ONNX Runtime" not in at_dq.fix


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear", "Conv", "Add"])
def test_a_node_without_its_inputs_is_an_error_of_ours(operator: str) -> None:
    with pytest.raises(GraphError, match="too few inputs"):
        lint(model([node(operator, ["x"], "y")]))


def test_a_model_without_an_opset_is_an_error_of_ours() -> None:
    network = sound()
    del network.opset_import[:]
    with pytest.raises(GraphError, match="opset"):
        lint(network)


def test_scales_are_found_behind_constant_and_identity_nodes() -> None:
    scale = numpy_helper.from_array(np.float32(-1), "v")
    makers = [
        [node("Constant", [], "s", value=scale)],
        [node("Constant", [], "s", value_float=-1.0)],
        [node("Constant", [], "s0", value=scale), node("Identity", ["s0"], "s")],
    ]
    for before in makers:
        network = model([*before, *pair("x", "xd", "s"), *weight_pair(), conv("xd")])
        assert rules(lint(network)) == {"scale-value"}


def table(names: tuple[str, ...]) -> Ranges:
    return {name: TensorRange(4.0, -4.0, 4.0, {}) for name in names}


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_our_own_fp32_graph_is_accepted_by_every_tensorrt(weights: Weights) -> None:
    network = float_net()
    placement = place(network.graph)
    graph = engine_graph(network, placement, table(placement.tensors), weights=weights)
    assert rules(lint(graph)) == ({"weights-stored-int8"} if weights == "int8" else set())
    assert plan_size(graph) > 0


def test_our_own_fp16_graph_is_accepted_by_strongly_typed_builders() -> None:
    network = to_fp16(float_net())
    placement = place(network.graph)
    graph = engine_graph(network, placement, table(placement.tensors), weights="int8")
    findings = lint(graph)
    assert rules(findings) == {"scale-fp16", "weights-stored-int8"}
    assert select(findings, ["10-weak", "strong", "rtx"]) == ()
    assert plan_size(graph) > 0
