"""TensorRT 8.6 to 11.x, and what TensorRT for RTX shares with it."""

from resnet_edge.backends.tensorrt.standard import TensorRTBackend

__all__ = ["TensorRTBackend"]
