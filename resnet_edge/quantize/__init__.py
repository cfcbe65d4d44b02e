"""Quantization: where Q/DQ pairs go, and the graphs that carry them."""
