"""Quantization: where Q/DQ pairs go, and the graphs that carry them."""

from resnet_edge.quantize.stage import quantize

__all__ = ["quantize"]
