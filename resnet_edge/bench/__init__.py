"""Latency and throughput, with the protocol that makes the numbers comparable."""
