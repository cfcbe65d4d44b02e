"""The ResNet family, its plain twins, and the checkpoints they are loaded from."""
