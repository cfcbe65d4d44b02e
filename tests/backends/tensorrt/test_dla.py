"""Where every layer goes is said before a build for the DLA begins."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_edge.backends.tensorrt.dla import place_on_dla
from resnet_edge.errors import ConfigError

NAMES = [f"conv{n}" for n in range(12)]
TRT: Any = SimpleNamespace(
    DeviceType=SimpleNamespace(DLA="DLA"), BuilderFlag=SimpleNamespace(GPU_FALLBACK="fallback")
)


class BuilderConfig:
    """Takes what is set; the DLA can run the layers that are named."""

    def __init__(self, fitting: list[str]) -> None:
        self.fitting, self.flags = fitting, [""]
        self.DLA_core, self.default_device_type = -1, "GPU"

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        return layer.name in self.fitting


def place(config: BuilderConfig, core: int = 1, cores: int = 2) -> str:
    layers = [SimpleNamespace(name=name) for name in NAMES]
    network: Any = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    builder: Any = SimpleNamespace(num_DLA_cores=cores)
    return place_on_dla(TRT, builder, network, config, core)  # type: ignore[arg-type]


def test_every_layer_is_in_the_report_and_the_note_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = BuilderConfig(NAMES[:2])
    with caplog.at_level(logging.INFO):
        note = place(config)
    on_dla, on_gpu = caplog.messages
    assert on_dla == "DLA core 1 can run: conv0, conv1"
    assert on_gpu == "the GPU runs: " + ", ".join(NAMES[2:])
    assert note.startswith("DLA core 1 can run 2 of 12 layers; the GPU runs conv2")
    assert note.endswith("conv9 and 2 more")
    assert (config.default_device_type, config.DLA_core) == ("DLA", 1)
    assert "fallback" in config.flags


def test_a_network_that_fits_whole_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert place(BuilderConfig(NAMES), core=0) == "DLA core 0 can run 12 of 12 layers"
    assert caplog.messages[1] == "the GPU runs: nothing"


def test_no_core_and_no_layer_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 DLA cores here: cannot use core 2") as caught:
        place(BuilderConfig(NAMES), core=2)
    assert caught.value.hint == "pass --dla 0 or 1"
    with pytest.raises(ConfigError, match="0 DLA cores"):
        place(BuilderConfig(NAMES), core=0, cores=0)
    with pytest.raises(ConfigError, match="none of the network's 12 layers"):
        place(BuilderConfig([]))
