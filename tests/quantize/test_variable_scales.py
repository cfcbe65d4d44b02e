"""One session for all ranges gives what each range's own graph gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from resnet_edge.bundle.names import MODEL, TABLE
from resnet_edge.bundle.ranges_table import Ranges, RangesTable
from resnet_edge.bundle.reference import Golden
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.quantize.placement import place
from resnet_edge.quantize.qdq import engine_graph
from resnet_edge.quantize.score import run_graph
from resnet_edge.quantize.variable_scales import VariableScaleGraph
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_edge.bundle.bundle import Bundle

require("onnxruntime")


def narrowed(ranges: Ranges, factor: float) -> Ranges:
    return {k: replace(v, amax=v.amax * factor) for k, v in ranges.items()}


@pytest.mark.parametrize("network", ["resnet20", "bottleneck"])
def test_ranges_fed_at_run_time_give_the_bits_of_a_graph_written_with_them(
    network: str, calibrated: Callable[[str], Bundle]
) -> None:
    bundle = calibrated(network)
    table = RangesTable.load(bundle.artifact(TABLE)).tensors
    model = load_graph(bundle.artifact(MODEL))
    inputs = [bundle.model.image_spec.to_input(Golden.load(bundle).pixels[:4])] * 2
    answers = {}
    with VariableScaleGraph(model, table) as graph:
        for factor in (1.0, 0.1, 1.0):
            ranges = narrowed(table, factor)
            answers[factor] = graph.logits(inputs, ranges)
            own = engine_graph(model, place(model.graph), ranges, weights="rounded")
            np.testing.assert_array_equal(answers[factor], run_graph(own, inputs, optimise="float"))
    assert np.abs(answers[1.0] - answers[0.1]).max() > 0
