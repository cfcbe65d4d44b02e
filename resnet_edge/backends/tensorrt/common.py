"""The backend over a TensorRT module; what `tensorrt` and `tensorrt_rtx` have in common."""

from __future__ import annotations

import logging
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from types import ModuleType

from resnet_edge.backends.base import Availability, Backend
from resnet_edge.backends.config import BuildConfig
from resnet_edge.backends.cuda.status import cuda_status
from resnet_edge.backends.tensorrt.compatibility import mismatch
from resnet_edge.backends.tensorrt.engine import LoadOptions
from resnet_edge.backends.tensorrt.features import TrtFeatures
from resnet_edge.backends.tensorrt.session import TensorRTSession
from resnet_edge.bundle.names import GraphKind
from resnet_edge.bundle.sidecar import Sidecar
from resnet_edge.device.nvidia import Gpu, query_driver
from resnet_edge.errors import BackendUnavailableError, EngineMismatchError, ResnetEdgeError

__all__ = ["ModuleBackend"]

log = logging.getLogger(__name__)


class ModuleBackend(Backend):
    """A backend over a Python module of NVIDIA's.

    Attributes:
        install: What to do where the module is missing.
    """

    install: str

    def load(self) -> ModuleType:
        """Import the module.

        Raises:
            BackendUnavailableError: It is not installed, or its libraries are missing.
        """
        try:
            return import_module(self.name)
        except ImportError as error:
            raise BackendUnavailableError(
                f"{self.name} cannot be imported: {error}", hint=self.install
            ) from error

    def version(self) -> str:
        """Return the version a plan built here is bound to."""
        return str(self.load().__version__)

    def features(self) -> TrtFeatures:
        """Return what the module can do."""
        return TrtFeatures.of(self.load())

    def probe(self) -> Availability:
        """Say whether the module is installed and can be used here."""
        try:
            version = self.version()
        except BackendUnavailableError as error:
            return Availability(False, None, f"{error.message}: {error.hint}")
        status = cuda_status()
        if status.usable:
            return Availability(True, version, f"builds and runs here: {status.detail}")
        without = self.without_gpu(status.detail)
        return Availability(without is not None, version, without or status.detail)

    @abstractmethod
    def without_gpu(self, reason: str) -> str | None:
        """Return what it can still do without a GPU, None if nothing."""

    def graph(self, config: BuildConfig) -> GraphKind:
        """Return the graph whose element types are the precision asked for, or leave it open."""
        typed = self.features().strongly_typed(asked=config.strongly_typed)
        return config.graph(strongly_typed=typed)

    def obstacle(self, sidecar: Sidecar) -> str | None:
        """Return why the engine cannot run here, without creating any TensorRT object."""
        try:
            return mismatch(sidecar, self.version(), self.gpu())
        except ResnetEdgeError as error:
            return error.message

    def gpu(self) -> Gpu:
        """Return this machine's GPU.

        Asked through the driver and the CUDA runtime, since TensorRT's own objects crash where
        there is none.

        Raises:
            BackendUnavailableError: There is none that can be used.
        """
        status = cuda_status()
        if not status.usable:
            raise BackendUnavailableError(status.detail, hint=status.hint)
        driver = query_driver()
        if not driver.gpus:
            raise BackendUnavailableError(driver.error, hint="check it with: nvidia-smi")
        return driver.gpus[0]

    def open(self, engine: Path, sidecar: Sidecar, *, host_code: bool = False) -> TensorRTSession:
        """Load an engine.

        Raises:
            BackendUnavailableError: The library, the GPU or what reaches it is missing.
            DeviceError: There is not enough memory.
            EngineMismatchError: The engine does not belong to this machine or library.
        """
        trt, gpu = self.load(), self.gpu()
        if reason := mismatch(sidecar, self.version(), gpu):
            raise EngineMismatchError(f"{engine} cannot run here: {reason}", hint="build it here")
        if sidecar.device not in ("", gpu.name):
            log.warning(
                "%s was built on %s and may be slow on %s", engine, sidecar.device, gpu.name
            )
        dla = sidecar.settings.get("dla")
        if not isinstance(dla, int | None):
            raise EngineMismatchError(
                f"the sidecar of {engine} is damaged: its DLA core is {dla!r}"
            )
        options = LoadOptions(
            str(engine),
            dla=dla,
            host_code=host_code and bool(sidecar.settings.get("version_compatible")),
        )
        return self.session(trt, engine, options)

    @abstractmethod
    def session(self, trt: ModuleType, engine: Path, options: LoadOptions) -> TensorRTSession:
        """Open a session with a checked engine."""
