"""The demo on a few real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from resnet_edge.deploy.demo import demo
from resnet_edge.images.idx import write_idx
from resnet_edge.images.opening import open_images
from tests.conftest import require

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def few_images(tmp_path: Path, shipped_images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose own image sets, 300 images each, win over the shipped ones."""
    for name in ("calibration", "test"):
        source = open_images(shipped_images / name)
        folder = tmp_path / "calibration" / "images" / "fashion-mnist" / name
        write_idx(folder / "images-idx3-ubyte.gz", source.pixels[:300])  # type: ignore[attr-defined]
        assert source.labels is not None
        write_idx(folder / "labels-idx1-ubyte.gz", source.labels[:300].astype("u1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_fills_its_table_and_is_judged(few_images: Path) -> None:
    require("tensorrt_rtx")
    result = demo(few_images / "bundle", max_drop=5)
    assert [(r.backend, r.precision, r.executed) for r in result.rows] == [
        ("pytorch", "fp32", "engine"),
        ("onnxruntime", "fp32", "engine"),
        ("onnxruntime", "int8", "engine"),
        ("tensorrt_rtx", "fp32", "graph"),
        ("tensorrt_rtx", "fp16", "graph"),
        ("tensorrt_rtx", "int8", "graph"),
    ]
    assert result.images == 300
    assert result.passed
    measured = [row.p50_ms is not None for row in result.rows]
    assert measured == [True, True, True, False, False, False]
    assert result.rows[0].speedup == 1.0
    assert all(row.size and row.top1 for row in result.rows)
    keys = {
        "model", "backend", "precision", "bytes", "top1", "drop_points", "agreement", "executed",
        "p50_ms", "speedup_vs_pytorch",
    }  # fmt: skip
    assert all(keys <= set(row.to_json()) for row in result.rows)


def test_a_gate_too_tight_for_so_few_images_is_not_passed(few_images: Path) -> None:
    assert not demo(few_images / "bundle", max_drop=0.1).passed
