"""Jetson Linux (L4T) releases and the JetPack that each belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_edge.device.versions import parts

__all__ = ["RELEASES", "Release", "release_of"]


@dataclass(frozen=True)
class Release:
    """One JetPack.

    Attributes:
        l4t: Jetson Linux version.
        jetpack: JetPack version.
        cuda: CUDA toolkit it brings.
        tensorrt: TensorRT it brings.
        python: Version that its TensorRT bindings are for.
    """

    l4t: str
    jetpack: str
    cuda: str
    tensorrt: str
    python: str


# jetson_stats (jtop/core/jetson_variables.py) and jetpack-nixos (README, sourceinfo/*-debs.json);
# the TensorRT of JetPack 5.0 is unverified.
RELEASES = tuple(
    Release(l4t, jetpack, *software)
    for software, pairs in (
        (("10.2", "8.0.1", "3.6"), (("32.6.1", "4.6"),)),
        (
            ("10.2", "8.2.1", "3.6"),
            (
                ("32.7.1", "4.6.1"), ("32.7.2", "4.6.2"), ("32.7.3", "4.6.3"),
                ("32.7.4", "4.6.4"), ("32.7.5", "4.6.5"), ("32.7.6", "4.6.6"),
            ),
        ),
        (
            ("11.4", "8.4", "3.8"),
            (("34.1.0", "5.0"), ("34.1.1", "5.0.1"), ("35.1.0", "5.0.2")),
        ),
        (
            ("11.4", "8.5.2", "3.8"),
            (
                ("35.2.1", "5.1"), ("35.3.1", "5.1.1"), ("35.4.1", "5.1.2"), ("35.5.0", "5.1.3"),
                ("35.6.0", "5.1.4"), ("35.6.1", "5.1.5"), ("35.6.4", "5.1.6"),
            ),
        ),
        (("12.2", "8.6.2", "3.10"), (("36.2.0", "6.0"), ("36.3.0", "6.0"))),
        (
            ("12.6", "10.3.0", "3.10"),
            (
                ("36.4.0", "6.1"), ("36.4.3", "6.2"), ("36.4.4", "6.2.1"), ("36.4.7", "6.2.1"),
                ("36.5.0", "6.2.2"),
            ),
        ),
        (("13.0", "10.13.3", "3.12"), (("38.2.0", "7.0"), ("38.4.0", "7.1"))),
        (
            ("13.2", "10.16.2", "3.12"),
            (("39.0.0", "7.2"), ("39.2.0", "7.2"), ("39.2.1", "7.2.1")),
        ),
    )
    for l4t, jetpack in pairs
)  # fmt: skip


def release_of(l4t: str) -> Release | None:
    """Return the newest known release that is not newer than ``l4t`` and of the same major.

    A patch release that is younger than this table keeps the JetPack before it.
    """
    numbers = parts(l4t)
    known = [
        release
        for release in RELEASES
        if parts(release.l4t)[:1] == numbers[:1] and parts(release.l4t) <= numbers
    ]
    return max(known, key=lambda release: parts(release.l4t), default=None)
