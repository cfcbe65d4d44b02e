"""Running layers on a deep learning accelerator of a Jetson; the GPU runs what it cannot."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import TYPE_CHECKING

from resnet_edge.catalog.targets import dla_hint
from resnet_edge.errors import ConfigError

if TYPE_CHECKING:
    import tensorrt

__all__ = ["place_on_dla"]

log = logging.getLogger(__name__)

_NAMED = 8  # layers


def place_on_dla(
    trt: ModuleType,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    builder_config: tensorrt.IBuilderConfig,
    core: int,
) -> str:
    """Let a DLA core run every layer it can, say where each layer goes, and return a summary.

    Args:
        trt: The module.
        builder: Knows how many cores there are.
        network: The parsed network.
        builder_config: Its precision flags are set already: what a DLA can run depends on them.
        core: Counted from 0.

    Raises:
        ConfigError: There is no such core, or it can run no layer at all.
    """
    cores = builder.num_DLA_cores
    if not 0 <= core < cores:
        raise ConfigError(
            f"TensorRT finds {cores} DLA cores here: cannot use core {core}", hint=dla_hint(cores)
        )
    builder_config.default_device_type = trt.DeviceType.DLA
    builder_config.DLA_core = core
    builder_config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    placed: list[str] = []
    left: list[str] = []
    for index in range(network.num_layers):
        layer: tensorrt.ILayer = network.get_layer(index)
        (placed if builder_config.can_run_on_DLA(layer) else left).append(layer.name)
    if not placed:
        raise ConfigError(
            f"the DLA can run none of the network's {len(left)} layers",
            hint=dla_hint(0),
        )
    # Every layer is named, and now: the build that follows may take minutes.
    log.info("DLA core %d can run: %s", core, ", ".join(placed))
    log.info("the GPU runs: %s", ", ".join(left) or "nothing")
    note = f"DLA core {core} can run {len(placed)} of {network.num_layers} layers"
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        note += f"; the GPU runs {', '.join(left[:_NAMED])}{more}"
    return note
