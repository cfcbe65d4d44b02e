"""``python -m resnet_edge`` is ``resnet-edge``."""

from __future__ import annotations

from resnet_edge.cli.app import main

if __name__ == "__main__":
    main()
