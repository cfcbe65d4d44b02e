"""ONNX classifiers made by someone else, brought into a bundle."""
