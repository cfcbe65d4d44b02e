"""What TensorRT would refuse in a quantized ONNX file, or run in float, and the mend."""
