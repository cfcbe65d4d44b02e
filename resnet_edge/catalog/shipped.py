"""Where the shipped data lives: recipes, targets, images and the trained checkpoint."""

from __future__ import annotations

from pathlib import Path

from resnet_edge.errors import ConfigError

__all__ = ["CHECKPOINT", "IMAGES", "find", "search_path"]

CHECKPOINT = "resnet_edge/assets/resnet20-fashion-mnist.safetensors"
IMAGES = "calibration/images/fashion-mnist"

_PACKAGE = Path(__file__).parent.parent


def search_path(name: str) -> list[Path]:
    """Return where ``name`` (such as ``engines/targets``) may lie, the first match winning.

    The working directory comes first, so that a user's copy overrides ours; then the data inside
    an installed wheel; then the repository an editable install points to.
    """
    if name.startswith("resnet_edge/"):
        return [_PACKAGE.parent / name]
    return [Path(name), _PACKAGE / "_data" / name, _PACKAGE.parent / name]


def find(name: str) -> Path:
    """Return the first existing place of a shipped file or folder.

    Raises:
        ConfigError: The installation lacks it.
    """
    for path in search_path(name):
        if path.exists():
            return path
    raise ConfigError(f"{name} is missing from this installation", hint="reinstall resnet-edge")
