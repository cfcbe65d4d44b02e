"""A TensorRT that runs the ONNX model through ONNX Runtime, on the emulated device.

It "builds" a plan that holds the model and what the builder was told; running the plan reads and
writes the device addresses it is given, when the stream gets there. Which names, methods,
properties and enumerators a version has was recorded from its real bindings: what a version
lacks is absent here too, and what it has but the fake has not raises `NotImplementedError`.

Every layer computes in the precision that flags, calibration and constraints allow it: see
`precision`. In a strongly typed network the graph says it all.
"""
