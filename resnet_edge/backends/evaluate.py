"""Run a session over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_edge.backends.base import Session
from resnet_edge.images.batches import ImageBatches
from resnet_edge.images.source import ImageSource
from resnet_edge.images.spec import ImageSpec
from resnet_edge.progress import SILENT, Progress

__all__ = ["run_all"]


def run_all(
    session: Session,
    source: ImageSource,
    spec: ImageSpec,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 64,
    label: str = "run",
    progress: Progress = SILENT,
) -> tuple[NDArray[np.float32], tuple[int, ...], list[str]]:
    """Run a session over images.

    Returns:
        Logits (float32 N x classes), the index of each image, and the names of skipped images.
    """
    batches = ImageBatches(source, spec, batch_size, indices)
    rows: list[NDArray[np.float32]] = []
    kept: list[int] = []
    with progress.task(label, total=len(batches)) as task:
        for batch in batches:
            outputs = session.run_rows(spec.to_input(batch.pixels))
            rows.append(next(iter(outputs.values())).astype(np.float32))
            kept += batch.indices
            task.advance(len(batch.indices))
    return np.concatenate(rows), tuple(kept), batches.skipped
