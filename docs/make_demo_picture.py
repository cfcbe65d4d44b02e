"""Run the demo and draw its table as docs/demo.svg.

python docs/make_demo_picture.py
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from resnet_edge.cli.demo import render
from resnet_edge.deploy.demo import demo


def main() -> None:
    """Write the picture beside this file."""
    result = demo(Path("engines/builds/demo"))
    console = Console(record=True, width=120, file=io.StringIO(), highlight=False)
    render(console, result)
    console.save_svg(str(Path(__file__).with_name("demo.svg")), title="resnet-edge demo")


if __name__ == "__main__":
    main()
