"""When two models count as equal."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_edge.export.parity import TOLERANCE, compare_logits

REFERENCE = np.array([[10.0, 0.0, 2.0], [0.0, 1.0, 0.9995]], np.float32)


def test_logits_within_the_tolerance_of_the_largest_are_accepted() -> None:
    for step in (0.9, -0.9):
        parity = compare_logits(REFERENCE, REFERENCE + np.float32(step * TOLERANCE * 10))
        assert parity.accepted
    assert (parity.n, parity.argmax_equal, parity.max_logit) == (2, 2, 10)
    assert parity.max_abs == pytest.approx(0.9 * TOLERANCE * 10, rel=1e-3)


def test_a_logit_beyond_the_tolerance_is_not_accepted_though_the_classes_are_equal() -> None:
    changed = REFERENCE.copy()
    changed[0, 1] += np.float32(1.1 * TOLERANCE * 10)
    parity = compare_logits(REFERENCE, changed)
    assert parity.argmax_equal == parity.n
    assert not parity.accepted


def test_one_image_with_another_class_is_not_accepted_however_close_the_logits() -> None:
    changed = REFERENCE.copy()
    changed[1, 2] += np.float32(0.001)  # a tenth of the tolerance, and now the largest
    parity = compare_logits(REFERENCE, changed)
    assert parity.max_abs < TOLERANCE * parity.max_logit
    assert (parity.n, parity.argmax_equal) == (2, 1)
    assert not parity.accepted
