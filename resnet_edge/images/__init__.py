"""Pixels to arrays: image sources, preprocessing, batches."""
