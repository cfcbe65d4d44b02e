"""Flows that join the stages."""
