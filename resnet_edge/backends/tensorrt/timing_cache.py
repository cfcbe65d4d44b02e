"""Kernel timings of earlier builds: one file per TensorRT version and GPU, in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import TYPE_CHECKING

from resnet_edge.device.nvidia import Gpu
from resnet_edge.errors import BundleError
from resnet_edge.files import cache_folder, write_bytes

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TimingCache"]

log = logging.getLogger(__name__)

_MAGIC = b"resnet-edge timing cache 1\n"


class TimingCache:
    """The timings for one TensorRT version and one GPU.

    TensorRT reads them with native code, so they carry a header with what they are for and their
    hash; a file that does not fit is ignored with a warning.

    Attributes:
        path: The file, whether or not it exists.
    """

    def __init__(self, version: str, gpu: Gpu) -> None:
        self._key = {"tensorrt": version, "gpu": gpu.name, "capability": gpu.compute_capability}
        words = re.sub(
            r"[^a-z0-9.]+", "-", f"{version}-{gpu.name}-sm{gpu.compute_capability}".lower()
        )
        self.path = cache_folder() / "timing" / f"{words}.bin"

    def attach(self, builder_config: tensorrt.IBuilderConfig) -> None:
        """Let a build use the timings, or start empty."""
        for data in (self.read(), b""):
            timings: tensorrt.ITimingCache = builder_config.create_timing_cache(data)
            if timings is not None and builder_config.set_timing_cache(
                timings, ignore_mismatch=False
            ):
                return
            if data:
                log.warning("TensorRT does not take the timing cache %s; starting anew", self.path)

    def keep(self, builder_config: tensorrt.IBuilderConfig) -> None:
        """Write what a build has added."""
        timings: tensorrt.ITimingCache | None = builder_config.get_timing_cache()
        if timings is None:
            return
        serialized: tensorrt.IHostMemory | None = timings.serialize()
        if serialized is None:  # the engine is built all the same
            log.warning("timings are not kept: TensorRT does not give them out")
            return
        self.write(bytes(serialized))

    def write(self, data: bytes) -> None:
        """Replace the timings; a cache that cannot be written only costs time."""
        header = json.dumps({**self._key, "sha256": hashlib.sha256(data).hexdigest()}).encode()
        try:
            write_bytes(self.path, _MAGIC + header + b"\n" + data)
        except BundleError as error:
            log.warning("timings are not kept: %s", error)

    def read(self) -> bytes:
        """Return the timings as TensorRT wrote them, empty where there are none that fit."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            log.warning("cannot read the timing cache %s: %s", self.path, error)
            return b""
        header, _, data = content.removeprefix(_MAGIC).partition(b"\n")
        expected = {**self._key, "sha256": hashlib.sha256(data).hexdigest()}
        try:
            if content.startswith(_MAGIC) and json.loads(header) == expected:
                return data
        except ValueError:
            pass
        log.warning("the timing cache %s is damaged or of another device; starting anew", self.path)
        return b""
