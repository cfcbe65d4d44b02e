"""An engine for a target, from what is asked for to the file with its sidecar."""

from resnet_edge.build.stage import build

__all__ = ["build"]
