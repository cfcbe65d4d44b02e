"""Train a ResNet or its plain twin, reproducibly and resumably."""
