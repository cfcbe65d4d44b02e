from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from resnet_edge.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeSession
from resnet_edge.errors import BackendUnavailableError, GraphError, ResnetEdgeError
from resnet_edge.graph.onnx_model import save_graph
from resnet_edge.tensors import TensorSpec
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from resnet_edge.backends.onnxruntime import Optimise

onnxruntime = require("onnxruntime")
X = np.array([[-1.0, 0.5], [2.0, -3.0]], np.float32)


@pytest.fixture
def model() -> ModelProto:
    text = "g (float[n,2] x) => (float[n,2] y, float[n,2] z) { y = Relu(x)\n z = Add(y, one) }"
    return onnx_model(text, one=np.ones(1, np.float32))


@pytest.fixture
def without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"optimise": "none"}])
def test_a_model_in_memory_or_on_disk_gives_named_outputs(
    model: ModelProto, tmp_path: Path, options: dict[str, Any]
) -> None:
    save_graph(model, tmp_path / "m.onnx")
    for source in (model, tmp_path / "m.onnx"):
        with OnnxRuntimeSession(source, **options) as session:
            outputs = session.run({"x": X})
        assert list(outputs) == ["y", "z"]
        assert np.array_equal(outputs["y"], np.maximum(X, 0))
        assert np.array_equal(outputs["z"], np.maximum(X, 0) + 1)


def test_inputs_and_outputs_are_described(model: ModelProto) -> None:
    with OnnxRuntimeSession(model) as session:
        assert session.inputs == (TensorSpec("x", (None, 2), "float32"),)
        assert [o.name for o in session.outputs] == ["y", "z"]
        assert session.outputs[0] == TensorSpec("y", (None, 2), "float32")


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int64", "float32"])
def test_element_types_have_their_numpy_names(dtype: str) -> None:
    name = {"float32": "float"}.get(dtype, dtype)
    model = onnx_model(f"g ({name}[3] x) => ({name}[3] y) {{ y = Identity(x) }}")
    with OnnxRuntimeSession(model) as session:
        assert session.inputs[0] == TensorSpec("x", (3,), dtype)
        x = np.arange(3).astype(session.inputs[0].dtype)
        assert np.array_equal(session.run({"x": x})["y"], x)


@pytest.mark.parametrize("optimise", ["float", "none"])
def test_q_and_dq_stay_as_written_where_they_must_not_be_optimised(optimise: Optimise) -> None:
    text = """
    g (float[4] x) => (float[4] y) {
        q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)
    }"""
    model = onnx_model(text, scale=np.float32(0.5), zero=np.int8(0))
    x = np.array([0.25, 0.75, 100.0, -100.0], np.float32)
    with OnnxRuntimeSession(model, optimise=optimise) as session:
        assert session.run({"x": x})["y"].tolist() == [0.0, 1.0, 63.5, -64.0]


def test_optimised_float_layers_leave_every_rounding_to_integers_where_it_was() -> None:
    """Small integers add up exactly in any order; the integer kernel would clip the sum at 127."""
    text = """
    g (float[1,16,3,3] x) => (float[1,16,3,3] y, float[1,16,3,3] unclipped) {
        q = QuantizeLinear(x, scale, zero)
        d = DequantizeLinear(q, scale, zero)
        w = DequantizeLinear(kernel, scale, zero)
        c = Conv<kernel_shape=[1,1]>(d, w)
        unclipped = Relu(c)
        r = QuantizeLinear(unclipped, scale, zero)
        y = DequantizeLinear(r, scale, zero)
    }"""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-9, 9, (16, 16, 1, 1), np.int8)
    model = onnx_model(text, scale=np.float32(1), zero=np.int8(0), kernel=kernel)
    x = rng.integers(-9, 9, (1, 16, 3, 3)).astype(np.float32) + np.float32(0.25)
    with OnnxRuntimeSession(model, optimise="float") as session:
        found = session.run({"x": x})
    expected = np.einsum("oi,nihw->nohw", kernel[:, :, 0, 0].astype(np.float32), np.rint(x))
    assert np.array_equal(found["unclipped"], np.maximum(expected, 0))
    assert np.array_equal(found["y"], np.clip(expected, 0, 127))
    assert found["unclipped"].max() > 127


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08" * 50])
def test_a_file_that_is_no_model_is_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"broken\.onnx"):
        OnnxRuntimeSession(path)


def test_a_missing_file_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"none\.onnx"):
        OnnxRuntimeSession(tmp_path / "none.onnx")


def test_a_model_it_does_not_support_is_our_error(model: ModelProto) -> None:
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(GraphError, match="the model"):
        OnnxRuntimeSession(model)


@pytest.mark.parametrize(
    "feed",
    [{"other": X}, {"x": X[:, :1]}],
    ids=["another name", "another shape"],
)
def test_a_feed_that_does_not_fit_is_our_error(
    model: ModelProto, feed: dict[str, np.ndarray]
) -> None:
    with OnnxRuntimeSession(model) as session, pytest.raises(ResnetEdgeError):
        session.run(feed)


def test_the_session_is_closed_when_the_block_ends(model: ModelProto) -> None:
    with OnnxRuntimeSession(model) as session:
        pass
    with pytest.raises(Exception, match="_session"):
        session.run({"x": X})


def test_probing_names_version_and_providers() -> None:
    found = OnnxRuntimeBackend().probe()
    assert found.available
    assert found.version == onnxruntime.__version__
    assert "CPUExecutionProvider" in found.detail


@pytest.mark.usefixtures("without_onnx_runtime")
def test_without_onnx_runtime_probing_says_how_to_install_it() -> None:
    found = OnnxRuntimeBackend().probe()
    assert (found.available, found.version) == (False, None)
    assert "pip install 'resnet-edge[cpu]'" in found.detail


@pytest.mark.usefixtures("without_onnx_runtime")
def test_without_onnx_runtime_a_session_says_how_to_install_it(model: ModelProto) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        OnnxRuntimeSession(model)
    assert "pip install 'resnet-edge[cpu]'" in (caught.value.hint or "")
