"""A checkpoint or a foreign ONNX file to a proven ONNX model with its golden reference."""

from resnet_edge.export.stage import export

__all__ = ["export"]
