"""TensorRT 8.6 to 11.x, and TensorRT for RTX, over shared code."""
