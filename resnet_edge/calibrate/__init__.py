"""Calibration: images to histograms to activation ranges."""
