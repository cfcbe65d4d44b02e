"""Running layers on a deep learning accelerator of a Jetson; the GPU runs what it cannot."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from resnet_edge.errors import ConfigError
from resnet_edge.request import dla_hint

if TYPE_CHECKING:
    from types import ModuleType

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
    """Let a DLA core run every layer it can, and say which ones it cannot.

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
    left = []
    for index in range(network.num_layers):
        layer: tensorrt.ILayer = network.get_layer(index)
        fits = builder_config.can_run_on_DLA(layer)
        log.debug("%s: %s", layer.name, "DLA" if fits else "GPU")
        if not fits:
            left.append(layer.name)
    placed = network.num_layers - len(left)
    if not placed:
        raise ConfigError(
            f"the DLA can run none of the network's {len(left)} layers",
            hint="leave out --dla: the GPU runs the whole network",
        )
    note = f"DLA core {core} can run {placed} of {network.num_layers} layers"
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        note += f"; the GPU runs {', '.join(left[:_NAMED])}{more}"
    log.info("%s", note)  # now, before a build that may take minutes
    return note
