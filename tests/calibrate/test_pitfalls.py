"""What is known to go wrong in other calibrators does not go wrong here.

Numbers are those of the reference notes, section 2.5: 1 to 5 are ONNX Runtime's, 6 to 11 those of
ModelOpt, pytorch-quantization and TensorRT. Where a library is at hand, it runs beside
ours.
"""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.bundle import Bundle
from resnet_edge.bundle.names import MODEL
from resnet_edge.calibrate import collect as module
from resnet_edge.calibrate.collect import collect
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.calibrate.ranges import METHODS, Method, estimate
from resnet_edge.calibrate.stage import calibrate
from resnet_edge.catalog.recipes import Recipe, list_recipes
from resnet_edge.graph.onnx_model import load_graph
from resnet_edge.images.arrays import ArrayInputs
from resnet_edge.images.opening import open_images
from resnet_edge.images.spec import ImageSpec
from resnet_edge.quantize.placement import place
from tests.conftest import onnx_model, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from onnx import ModelProto

require("onnxruntime")
from onnxruntime.quantization import calibrate as peer  # noqa: E402

Array = np.ndarray[Any, Any]
SIDE = 4
SPEC = ImageSpec(resize=None, crop=(SIDE, SIDE), mean=(0.0,), std=(1.0,), color="gray")


def network() -> ModelProto:
    """Return a network whose input is the tensor to calibrate."""
    shape = f"float[n, 1, {SIDE}, {SIDE}]"
    return onnx_model(f"g ({shape} x) => ({shape} y) {{ y = Identity(x) }}")


def levels(*values: float) -> Array:
    """Return one input per value, constant throughout."""
    return (
        np.full((len(values), 1, SIDE, SIDE), 1.0, np.float32)
        * np.float32(values)[:, None, None, None]
    )


def ours(values: Array, batch: int = 2, order: Sequence[int] | None = None) -> Histogram:
    """Calibrate ``x`` on these inputs, in batches of this size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_BATCH", batch)
        collected = collect(
            network(),
            ["x"],
            ArrayInputs(Path("inputs"), values),
            SPEC,
            indices=range(len(values)) if order is None else order,
        )
    return collected.histograms["x"]


class Reader(peer.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives these batches to ONNX Runtime's calibrators."""

    def __init__(self, batches: Iterable[Array]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"x": batch}


def calibrator(folder: Path, method: str, **options: Any) -> Any:
    """Return ONNX Runtime's calibrator for the same network."""
    onnx.save(network(), folder / "model.onnx")
    return peer.create_calibrator(
        folder / "model.onnx",
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=peer.CalibrationMethod[method],
        extra_options=options,
    )


def theirs(folder: Path, method: str, batches: Iterable[Array], **options: Any) -> Any:
    """Return ONNX Runtime's smallest and largest value of ``x``."""
    found = calibrator(folder, method, **options)
    found.collect_data(Reader(batches))
    return [np.ravel(v).item() for v in found.compute_data().data["x"].range_value]


def theirs_one_by_one(folder: Path, batches: Iterable[Array], **options: Any) -> Any:
    """Return the entropy range where memory is saved by collecting every batch by itself."""
    found = calibrator(folder, "Entropy", **options)
    for batch in batches:
        found.collect_data(Reader([batch]))
    return [np.ravel(v).item() for v in found.compute_data().data["x"].range_value]


def normal_with_outliers(count: int = 12_500) -> Array:
    values = np.random.default_rng(0).normal(size=(count, 1, SIDE, SIDE)).astype(np.float32)
    values.flat[:5] = 40.0
    return values


class Watched:
    """A session that knows how many of its earlier batches are still held when the next comes."""

    def __init__(self, session: Any) -> None:
        self.session, self.batches, self.alive = session, [], []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, *arguments: Any) -> Any:
        self.alive.append(sum(any(r() is not None for r in batch) for batch in self.batches))
        outputs = self.session.run(*arguments)
        values = outputs.values() if isinstance(outputs, dict) else outputs
        self.batches.append([weakref.ref(v) for v in values])
        return outputs

    def run_rows(self, rows: Any) -> Any:
        return OnnxRuntimeSession.run_rows(self, rows)  # type: ignore[arg-type]  # calls run above


def test_pitfall_1_memory_does_not_grow_with_the_number_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = levels(*range(1, 21))
    found = calibrator(tmp_path, "Percentile")
    found.infer_session = Watched(found.infer_session)
    found.collect_data(Reader(np.split(values, 20)))
    assert max(found.infer_session.alive) == 19, "ONNX Runtime no longer keeps every batch"

    watched: list[Watched] = []
    original = OnnxRuntimeSession.__enter__

    def watch(self: OnnxRuntimeSession) -> Any:
        watched.append(Watched(original(self)))
        return watched[-1]

    monkeypatch.setattr(OnnxRuntimeSession, "__enter__", watch)
    ours(values, batch=1)
    assert len(watched[0].alive) == 1 + 20
    assert max(watched[0].alive) <= 1


def test_pitfall_2_every_batch_counts(tmp_path: Path) -> None:
    values = levels(100, 1, 2, 3, 4)
    batches = np.split(values, 5)
    assert theirs(tmp_path, "MinMax", batches, max_intermediate_outputs=2) == [4, 4]
    assert theirs(tmp_path, "MinMax", batches) == [1, 100]
    with pytest.raises(ValueError, match="No data"):
        theirs(tmp_path, "MinMax", batches[1:], max_intermediate_outputs=2)
    for batch in (1, 2, 5):
        h = ours(values, batch)
        assert (h.minimum, h.maximum, h.total) == (1, 100, values.size)


@pytest.mark.parametrize(
    "options", [{}, {"num_bins": 128, "num_quantized_bins": 128}], ids=["default", "ModelOpt's"]
)
def test_pitfalls_3_and_6_entropy_is_not_minmax(tmp_path: Path, options: dict[str, int]) -> None:
    values = normal_with_outliers()
    assert theirs(tmp_path, "Entropy", [values], **options)[1] == pytest.approx(40.0)
    methods: tuple[Method, ...] = ("entropy", "entropy-tensorrt")
    for method in methods:
        assert 3.5 < estimate(ours(values, 64), method) < 6.0


def test_pitfall_3_a_wide_first_batch_does_not_set_a_floor(tmp_path: Path) -> None:
    rest = np.random.default_rng(0).normal(size=(5_000, 1, SIDE, SIDE)).astype(np.float32)
    first = levels(40.0)
    assert theirs_one_by_one(tmp_path, [first, rest])[1] == pytest.approx(40.0)
    assert estimate(ours(np.concatenate([first, rest]), 64), "entropy") < 6.0


@pytest.mark.parametrize("method", ["Entropy", "Percentile"])
def test_pitfall_4_batches_of_unequal_size_are_fine(tmp_path: Path, method: str) -> None:
    values = levels(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="inhomogeneous"):
        theirs(tmp_path, method, [values[:2], values[2:4], values[4:]])
    assert ours(values, batch=2).total == values.size


@pytest.mark.parametrize("name", ["resnet20", "bottleneck"])
def test_pitfall_5_only_tensors_to_quantize_leave_the_network(
    name: str, exported: Callable[[str], Bundle], tmp_path: Path
) -> None:
    path = exported(name).artifact(MODEL)
    model = load_graph(path)
    planned = set(place(model.graph).engine_points) - {"input"}
    ours = {o.name for o in module._exposed(model, sorted(planned)).graph.output}
    assert ours == planned | {"logits"}
    theirs = peer.create_calibrator(path, augmented_model_path=str(tmp_path / "peer.onnx"))
    theirs.augment_graph()
    assert len(theirs.model.graph.output) > 2 * len(ours)


def test_pitfall_7_counts_do_not_stop_at_two_to_the_24() -> None:
    torch = require("torch")
    zeros = torch.zeros((1 << 24) + 64)
    assert torch.histc(zeros, bins=4, min=0, max=1).sum() < len(zeros), "histc counts exactly now"
    h = Histogram()
    for part in np.array_split(zeros.numpy(), 8):
        h.update(part)
    assert h.total == h.magnitudes()[0] == len(zeros)


@pytest.mark.parametrize("method", METHODS)
def test_pitfall_8_the_first_batch_may_be_zero(method: Method) -> None:
    values = np.concatenate([levels(0, 0), normal_with_outliers(200)])
    expected = estimate(ours(values[::-1], 2), method)
    assert estimate(ours(values, 2), method) == expected > 1.0


@pytest.mark.parametrize("first", METHODS)
def test_pitfall_9_estimators_do_not_change_what_was_counted(first: Method) -> None:
    h = ours(np.maximum(normal_with_outliers(500), 0), 64)
    expected = {m: estimate(ours(np.maximum(normal_with_outliers(500), 0), 64), m) for m in METHODS}
    counts = h.counts.copy()
    estimate(h, first)
    assert np.array_equal(h.counts, counts)
    assert {m: estimate(h, m) for m in METHODS} == expected


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_pitfall_10_every_recipe_gives_ranges_without_further_arguments(
    recipe: Recipe, exported: Callable[[str], Bundle], shipped_images: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(exported("tiny").path, tmp_path / "bundle")))
    images = open_images(shipped_images / "calibration")
    table = calibrate(bundle, images, replace(recipe, images=8)).table
    assert table.tensors
    assert all(
        0 < found.amax <= 1.01 * max(-found.min, found.max) for found in table.tensors.values()
    )


def test_pitfall_11_the_order_of_the_batches_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    calm, wild = (rng.normal(0, s, (2_000, 1, SIDE, SIDE)).astype(np.float32) for s in (1, 3))
    one, other = (
        theirs_one_by_one(tmp_path, pair, num_bins=512) for pair in ([calm, wild], [wild, calm])
    )
    assert one != other, "ONNX Runtime's entropy no longer depends on the order"
    values = np.concatenate([calm, wild])
    forward, backward = ours(values, 64), ours(values[::-1], 48)
    for method in METHODS:
        assert estimate(forward, method) == estimate(backward, method)


@pytest.mark.parametrize("name", ["tiny", "basic", "uint8", "bottleneck", "resnet20"])
def test_pitfall_11_no_bit_of_a_real_network_depends_on_order_or_batch_size(
    name: str, exported: Callable[[str], Bundle], shipped_images: Path
) -> None:
    """Through ONNX Runtime, with every tensor that has a value, the logits among them."""
    bundle, count = exported(name), 14
    model = load_graph(bundle.artifact(MODEL))
    inferred = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        v.name
        for v in (*inferred.value_info, *inferred.output)
        if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    tensors = [o for node in model.graph.node for o in node.output if o in floats]
    assert set(place(model.graph).tensors) <= {*tensors, "input"}
    source = open_images(shipped_images / "calibration")

    def counted(batch: int, order: Sequence[int]) -> dict[str, tuple[bytes, float, float]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_BATCH_BYTES", 1 << 40)
            patch.setattr(module, "_MAX_BATCH", batch)
            found = collect(model, tensors, source, bundle.model.image_spec, indices=order)
        return {n: (h.counts.tobytes(), h.minimum, h.maximum) for n, h in found.histograms.items()}

    expected = counted(1, range(count))

    @settings(max_examples=8)
    @given(batch=st.integers(2, count + 2), order=st.permutations(range(count)))
    def compare(batch: int, order: list[int]) -> None:
        assert counted(batch, order) == expected

    compare()
