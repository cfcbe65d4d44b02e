"""A checkpoint or a foreign ONNX file to a proven ONNX model with its golden reference."""
