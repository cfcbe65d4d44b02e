"""Calibration: images to histograms to activation ranges."""

from resnet_edge.calibrate.stage import calibrate

__all__ = ["calibrate"]
