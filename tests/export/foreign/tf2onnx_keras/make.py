"""Make the files beside this: a small Keras ResNet, as tf2onnx writes it, and what Keras computes.

Run where tensorflow-cpu 2.21.0 and tf2onnx 1.17.0 are: ``python make.py``. No test runs it. Weights
and images are random and ours; nothing of anybody's model is in the files.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

SIZE, CLASSES, OPSETS = 16, 5, (13, 17)
layers = tf.keras.layers


def block(x, width, stride, name):
    """Two 3 x 3 convolutions and a shortcut, a projection where the shape changes."""
    skip = x
    if stride != 1 or x.shape[-1] != width:
        skip = layers.Conv2D(width, 1, stride, name=f"{name}_skip")(x)
        skip = layers.BatchNormalization(name=f"{name}_skip_bn")(skip)
    for number, step in enumerate((stride, 1)):
        x = layers.Conv2D(width, 3, step, padding="same", use_bias=number == 0)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(6.0 if number == 0 else None)(x) if number == 0 else x
    return layers.ReLU()(layers.Add()([x, skip]))


def network():
    """Preprocessing in the graph, padding by hand, three blocks, a softmax."""
    image = layers.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(2.0, offset=-1.0)(image)
    x = layers.Conv2D(8, 3, 1)(layers.ZeroPadding2D(1)(x))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for number, (width, stride) in enumerate(((8, 1), (16, 2), (16, 1))):
        x = block(x, width, stride, f"block{number}")
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def main():
    """Write the files."""
    here = Path(__file__).parent
    tf.keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    model = network()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shapes = [w.shape for w in layer.get_weights()]
            layer.set_weights([random.uniform(0.5, 1.5, s).astype(np.float32) for s in shapes])
    images = random.random((8, SIZE, SIZE, 3), np.float32)
    np.savez(here / "outputs.npz", images=images, outputs=model(images, training=False).numpy())
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        for opset in OPSETS:
            command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", folder]
            output = str(here / f"resnet-opset{opset}.onnx")
            subprocess.run([*command, "--opset", str(opset), "--output", output], check=True)


if __name__ == "__main__":
    main()
