"""What a TensorRT module can do, found out by looking, never by comparing versions."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

__all__ = ["TrtFeatures"]


@dataclass(frozen=True)
class TrtFeatures:
    """What differs between TensorRT 8.6, 10.x, 11.x and TensorRT for RTX.

    Attributes:
        weak: Flags choose the precision; the builder decides layer by layer.
        strong: A network can be strongly typed: the graph alone decides.
        batch_flag: Networks must be asked to have an explicit batch.
        calibrators: Implicit INT8 quantization with calibrators.
        dla: Layers can be put on a DLA.
        ahead_of_time: Builds for compute capabilities that need not be present.
        timing_cache: Kernel timings can be kept.
        hardware_compatibility: Engines can be built for more than one architecture.
        profile_sharing: Sharing one profile between execution contexts must be asked for.
        progress: Reports how far a build is.
        node_names: The parser names the node it stumbled over.
        host_code: Version-compatible engines carry code that must be allowed to run.
        runtime_cache: What is compiled at the first inference can be kept.
        validity: An engine's fitness for this machine can be asked before it is loaded.
    """

    weak: bool
    strong: bool
    batch_flag: bool
    calibrators: bool
    dla: bool
    ahead_of_time: bool
    timing_cache: bool
    hardware_compatibility: bool
    profile_sharing: bool
    progress: bool
    node_names: bool
    host_code: bool
    runtime_cache: bool
    validity: bool

    @classmethod
    def of(cls, trt: ModuleType) -> TrtFeatures:
        """Look at a module."""
        ahead_of_time = hasattr(trt, "ComputeCapability")
        # TensorRT for RTX has the names of these, but says that they do nothing.
        on_device = not ahead_of_time
        network_flags = trt.NetworkDefinitionCreationFlag
        return cls(
            weak=hasattr(trt.BuilderFlag, "FP16"),
            strong=hasattr(network_flags, "STRONGLY_TYPED"),
            batch_flag=hasattr(network_flags, "EXPLICIT_BATCH"),
            calibrators=hasattr(trt, "IInt8EntropyCalibrator2"),
            dla=on_device and hasattr(trt.IBuilderConfig, "can_run_on_DLA"),
            ahead_of_time=ahead_of_time,
            timing_cache=on_device and hasattr(trt.IBuilderConfig, "set_timing_cache"),
            hardware_compatibility=on_device and hasattr(trt, "HardwareCompatibilityLevel"),
            profile_sharing=hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"),
            progress=hasattr(trt, "IProgressMonitor"),
            node_names=hasattr(trt.ParserError, "node_name"),
            host_code=on_device and hasattr(trt.Runtime, "engine_host_code_allowed"),
            runtime_cache=hasattr(trt, "IRuntimeCache"),
            validity=hasattr(trt.Runtime, "get_engine_validity"),
        )

    def strongly_typed(self, *, asked: bool) -> bool:
        """Whether to build a strongly typed network.

        Where both exist (TensorRT 10) the builder may choose, unless asked: docs/decisions.
        """
        return asked or not self.weak
