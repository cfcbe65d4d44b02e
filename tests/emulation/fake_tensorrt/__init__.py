"""A TensorRT that runs the ONNX model through ONNX Runtime, on the emulated device.

It "builds" a plan that holds the model and what the builder was told; running the plan reads and
writes the device addresses it is given, when the stream gets there. Which names, methods,
properties and enumerators a version has was recorded from its real bindings: what a version
lacks is absent here too, and what it has but the fake has not raises `NotImplementedError`.

It does not compute in the precisions asked for: FP16 and implicit INT8 give FP32 results.
"""
