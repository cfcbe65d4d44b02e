"""From any float ONNX classifier to the form the other stages work on."""
