"""Verification: does the candidate answer as the PyTorch reference does?"""

from resnet_edge.verify.stage import verify

__all__ = ["verify"]
