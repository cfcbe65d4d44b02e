"""Latency and throughput, with the protocol that makes the numbers comparable."""

from resnet_edge.bench.stage import bench

__all__ = ["bench"]
