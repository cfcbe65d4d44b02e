"""Train a ResNet or its plain twin, reproducibly and resumably."""

from resnet_edge.train.stage import train

__all__ = ["train"]
