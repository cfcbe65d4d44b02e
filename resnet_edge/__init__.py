"""Take a trained ResNet to a proven FP16/INT8 engine for NVIDIA Jetson and desktop GPUs.

Importing this package loads nothing heavy; each stage imports what it needs when it is called.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
