"""Make ``fashion-mnist/`` beside this file from the original four IDX files.

    python calibration/images/make_fashion_mnist.py /usr/share/datasets/fashion-mnist

``test/`` is the whole test split. ``calibration/`` is a seeded random draw of 1,024 training
images, as the data set mixes its classes; images whose pixels also occur elsewhere in the
training split or in the test split are passed over, so that holding them out by content is exact.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from resnet_edge.images.idx import write_idx
from resnet_edge.images.opening import open_images

COUNT, SEED = 1024, 20150
HERE = Path(__file__).parent / "fashion-mnist"


def main(source: Path) -> None:
    """Write both image sets."""
    train, test = open_images(source, split="train"), open_images(source, split="test")
    train_keys = [train.key(i) for i in range(len(train))]
    seen = Counter(train_keys)
    test_keys = {test.key(i) for i in range(len(test))}
    unique = [i for i, key in enumerate(train_keys) if seen[key] == 1 and key not in test_keys]
    chosen = np.sort(np.random.default_rng(SEED).choice(unique, COUNT, replace=False))
    for name, images, indices in (
        ("calibration", train, chosen),
        ("test", test, np.arange(len(test))),
    ):
        write_idx(HERE / name / "images-idx3-ubyte.gz", images.pixels[indices])
        write_idx(HERE / name / "labels-idx1-ubyte.gz", images.labels[indices].astype(np.uint8))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
