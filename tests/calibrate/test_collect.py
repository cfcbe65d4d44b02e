from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import numpy_helper

from resnet_edge.backends.onnxruntime import OnnxRuntimeSession
from resnet_edge.bundle.names import MODEL
from resnet_edge.calibrate import collect as module
from resnet_edge.calibrate.collect import Collected, collect
from resnet_edge.calibrate.histogram import Histogram
from resnet_edge.errors import CalibrationError, DataError
from resnet_edge.graph.onnx_model import expose, load_graph
from resnet_edge.images.arrays import ArrayImages, ArrayInputs
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.folder import FolderImages
from resnet_edge.images.opening import open_images
from resnet_edge.quantize.placement import place
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from resnet_edge.bundle.bundle import Bundle

require("onnxruntime")


@pytest.fixture
def bundle(exported: Callable[[str], Bundle]) -> Bundle:
    return exported("tiny")


@pytest.fixture
def model(bundle: Bundle) -> ModelProto:
    return load_graph(bundle.artifact(MODEL))


@pytest.fixture
def images(shipped_images: Path) -> ArrayImages:
    source = open_images(shipped_images / "calibration")
    assert isinstance(source, ArrayImages)
    return source


@pytest.fixture
def folder(images: ArrayImages, tmp_path: Path) -> FolderImages:
    """The first 40 images as files."""
    for i in range(40):
        images.load(i).save(tmp_path / f"{i:02d}.png")
    return FolderImages(tmp_path, tuple(sorted(tmp_path.iterdir())), labels=None)


def limit_batch(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 1 << 40)
    monkeypatch.setattr(module, "_MAX_BATCH", size)


def outcome(h: Histogram) -> tuple[bytes, float, float]:
    return h.counts.tobytes(), h.minimum, h.maximum


def outcomes(collected: Collected) -> dict[str, tuple[bytes, float, float]]:
    return {name: outcome(h) for name, h in collected.histograms.items()}


def test_histograms_hold_every_value_of_every_image(
    bundle: Bundle, model: ModelProto, images: ArrayImages
) -> None:
    tensors, spec = place(model.graph).tensors, bundle.model.image_spec
    collected = collect(model, tensors, images, spec, indices=range(10))
    assert tuple(collected.histograms) == tensors
    assert collected.indices == tuple(range(10))
    assert collected.skipped == ()
    feed = {"input": spec.to_input(next(iter(ImageBatches(images, spec, 10))).pixels)}
    with OnnxRuntimeSession(expose(model, [t for t in tensors if t != "input"])) as session:
        values = {**session.run(feed), **feed}
    for name, collected_histogram in collected.histograms.items():
        expected = Histogram()
        expected.update(values[name])
        assert outcome(collected_histogram) == outcome(expected)


@pytest.mark.parametrize("network", ["tiny", "resnet20", "bottleneck"])
def test_ranges_do_not_depend_on_how_images_are_cut_into_batches(
    network: str,
    exported: Callable[[str], Bundle],
    images: ArrayImages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = exported(network)
    model = load_graph(bundle.artifact(MODEL))
    tensors = place(model.graph).tensors
    results = []
    for size in (1, 3, 8, 20):
        limit_batch(monkeypatch, size)
        collected = collect(model, tensors, images, bundle.model.image_spec, indices=range(20))
        results.append(outcomes(collected))
    assert results[1:] == [results[0]] * 3


def test_the_order_of_the_images_does_not_matter(
    bundle: Bundle, model: ModelProto, images: ArrayImages
) -> None:
    tensors, spec = place(model.graph).tensors, bundle.model.image_spec
    forward = collect(model, tensors, images, spec, indices=range(30))
    backward = collect(model, tensors, images, spec, indices=range(29, -1, -1))
    assert outcomes(forward) == outcomes(backward)
    assert set(forward.indices) == set(backward.indices)


@pytest.mark.parametrize(
    ("images_in_budget", "batch"), [(0, 1), (1, 1), (2.99, 2), (7, 7), (64, 64), (1000, 64)]
)
def test_the_batch_follows_the_memory_budget(
    bundle: Bundle,
    model: ModelProto,
    images: ArrayImages,
    monkeypatch: pytest.MonkeyPatch,
    images_in_budget: float,
    batch: int,
) -> None:
    tensors, spec = place(model.graph).tensors, bundle.model.image_spec
    sizes: list[int] = []
    nbytes: list[int] = []
    run = OnnxRuntimeSession.run

    def spy(self: OnnxRuntimeSession, feed: Any) -> Any:
        outputs = run(self, feed)
        sizes.append(len(feed["input"]))
        nbytes.append(sum(v.nbytes for v in outputs.values()))
        return outputs

    monkeypatch.setattr(OnnxRuntimeSession, "run", spy)
    collect(model, tensors, images, spec, indices=range(1))
    budget = int(images_in_budget * nbytes[0])
    monkeypatch.setattr(module, "_BATCH_BYTES", budget)
    sizes.clear()
    nbytes.clear()
    collect(model, tensors, images, spec, indices=range(80))
    probe, *passes = sizes
    assert (probe, sum(passes)) == (1, 80)
    assert max(passes) == batch
    assert max(nbytes) <= max(budget, nbytes[0])


def test_only_the_batch_being_counted_is_alive_when_the_next_is_computed(
    bundle: Bundle, model: ModelProto, images: ArrayImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[weakref.ref[Any]]] = []
    alive: list[int] = []
    run = OnnxRuntimeSession.run

    def spy(self: OnnxRuntimeSession, feed: Any) -> Any:
        alive.append(sum(any(r() is not None for r in batch) for batch in batches))
        outputs = run(self, feed)
        batches.append([weakref.ref(value) for value in outputs.values()])
        return outputs

    monkeypatch.setattr(OnnxRuntimeSession, "run", spy)
    limit_batch(monkeypatch, 4)
    tensors, spec = place(model.graph).tensors, bundle.model.image_spec
    collect(model, tensors, images, spec, indices=range(60))
    assert len(batches) == 1 + 60 / 4
    assert max(alive) == 1


def test_broken_images_are_skipped_and_named(
    bundle: Bundle, model: ModelProto, folder: FolderImages
) -> None:
    folder.files[7].write_bytes(b"not an image")
    folder.files[39].write_bytes(folder.files[39].read_bytes()[:40])
    tensors, spec = place(model.graph).tensors, bundle.model.image_spec
    collected = collect(model, tensors, folder, spec, indices=range(40))
    assert collected.skipped == (str(folder.files[7]), str(folder.files[39]))
    assert collected.indices == tuple(i for i in range(40) if i not in (7, 39))
    good = [i for i in range(40) if i not in (7, 39)]
    assert outcomes(collected) == outcomes(collect(model, tensors, folder, spec, indices=good))


def test_the_first_image_may_be_the_broken_one(
    bundle: Bundle, model: ModelProto, folder: FolderImages
) -> None:
    folder.files[0].write_bytes(b"not an image")
    tensors, spec = place(model.graph).tensors, bundle.model.image_spec
    collected = collect(model, tensors, folder, spec, indices=range(40))
    assert collected.skipped == (str(folder.files[0]),)
    assert collected.indices == tuple(range(1, 40))


def test_too_many_broken_images_are_refused(
    bundle: Bundle, model: ModelProto, folder: FolderImages
) -> None:
    for path in folder.files[-5:]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="of 40 images cannot be decoded"):
        collect(model, ["input"], folder, bundle.model.image_spec, indices=range(40))


@pytest.fixture(params=[np.inf, np.nan, 3e38], ids=["inf", "nan", "overflow"])
def broken_weight(request: pytest.FixtureRequest, model: ModelProto) -> str:
    """Break the second convolution and give the name of its output."""
    conv = [n for n in model.graph.node if n.op_type == "Conv"][1]
    weight = next(i for i in model.graph.initializer if i.name == conv.input[1])
    values = np.full(numpy_helper.to_array(weight).shape, request.param, np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return str(conv.output[0])


def test_a_network_that_is_not_finite_is_refused_by_the_name_of_the_tensor(
    broken_weight: str, bundle: Bundle, model: ModelProto, images: ArrayImages
) -> None:
    tensors = place(model.graph).tensors
    order = [o for n in model.graph.node for o in n.output]
    with pytest.raises(CalibrationError, match="NaN or infinite") as caught:
        collect(model, tensors, images, bundle.model.image_spec, indices=range(8))
    named = caught.value.message.split()[1].rstrip(":")
    assert named in tensors
    assert order.index(named) >= order.index(broken_weight)
    assert "preprocessing" in (caught.value.hint or "")


def test_inputs_that_are_not_finite_are_the_fault_of_the_data_not_of_the_network(
    bundle: Bundle, model: ModelProto
) -> None:
    values = np.zeros((4, *bundle.model.image_spec.input_shape), np.float32)
    values[3, 0, 0, 0] = np.nan
    tensors, inputs = place(model.graph).tensors, ArrayInputs(Path("inputs.npy"), values)
    with pytest.raises(CalibrationError, match=r"tensor input: 1 of \d+ values are NaN") as caught:
        collect(model, tensors, inputs, bundle.model.image_spec, indices=range(4))
    assert caught.value.hint == "these are the inputs themselves; mend the data"


def test_a_tensor_the_graph_does_not_have_is_refused(
    bundle: Bundle, model: ModelProto, images: ArrayImages
) -> None:
    with pytest.raises(CalibrationError, match="no tensor nothing"):
        collect(model, ["nothing"], images, bundle.model.image_spec, indices=range(2))


def test_the_model_given_is_not_changed(
    bundle: Bundle, model: ModelProto, images: ArrayImages
) -> None:
    before = model.SerializeToString()
    tensors = place(model.graph).tensors
    collect(model, tensors, images, bundle.model.image_spec, indices=range(2))
    assert model.SerializeToString() == before


def test_raw_pixels_are_collected_behind_their_normalisation(
    exported: Callable[[str], Bundle], images: ArrayImages
) -> None:
    found = {}
    for name in ("basic", "uint8"):
        bundle = exported(name)
        model = load_graph(bundle.artifact(MODEL))
        tensors = place(model.graph).tensors
        collected = collect(model, tensors, images, bundle.model.image_spec, indices=range(8))
        found[name] = next(iter(collected.histograms.values()))
    assert found["uint8"].total == found["basic"].total
    assert found["uint8"].amax == pytest.approx(found["basic"].amax, rel=1e-5)
