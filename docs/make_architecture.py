"""Draw the rooms of the package and their order: ``python docs/make_architecture.py``.

The order is that of ``.importlinter``, the arrows are the imports that the code has, those for
typing included. An arrow is left out where a way over other rooms says the same; what a room
imports in all is its tooltip. Arrows to the ground, which everything stands on, are not drawn.
"""

from __future__ import annotations

import ast
import configparser
import html
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "resnet_edge"
PICTURE = REPOSITORY / "docs" / "architecture.svg"
WIDTH, BOX, ROW, MARGIN = 1000, 46, 78, 20

STYLE = """
  text { font-family: system-ui, sans-serif; fill: #1f2933; }
  .name { font-size: 15px; font-weight: 600; }
  .what { font-size: 11px; fill: #52606d; }
  .box { fill: #f5f7fa; stroke: #7b8794; }
  .ground { fill: #e4e7eb; }
  .arrow { fill: none; stroke: #7b8794; stroke-width: 1.1; opacity: 0.75; marker-end: url(#tip); }
  @media (prefers-color-scheme: dark) {
    text { fill: #f5f7fa; } .what { fill: #cbd2d9; }
    .box { fill: #323f4b; stroke: #9aa5b1; } .ground { fill: #1f2933; }
  }
"""
WHAT = {  # rooms that are no package have no docstring of a package
    "files": "atomic writes, hashes", "schema": "records from files",
    "statistics": "paired tests, KL", "tensors": "names, shapes, types",
    "errors": "one tree", "progress": "who is told",
}  # fmt: skip


def rooms() -> list[list[str]]:
    """Return the rooms by floor, the top floor first, as ``.importlinter`` has them."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / ".importlinter", encoding="utf-8")
    lines = config["importlinter:contract:rooms"]["layers"].split("\n")
    return [[name.strip() for name in line.split("|")] for line in lines if line.strip()]


def imports() -> dict[str, set[str]]:
    """Return which rooms each room imports from."""
    names = [name for floor in rooms() for name in floor]
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in names:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("resnet_edge."):
                found[room].add(str(node.module).split(".")[1])
    return {room: (others & set(names)) - {room} for room, others in found.items()}


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out every arrow that a way over other rooms implies."""

    def reach(room: str) -> set[str]:
        return edges[room].union(*(reach(other) for other in edges[room]))

    return {
        room: {o for o in others if not any(o in reach(via) for via in others - {o})}
        for room, others in edges.items()
    }


def purpose(room: str) -> str:
    """Return what a room is for, in the words of its own docstring."""
    if room in WHAT:
        return WHAT[room]
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))) or ""
    return text.split("\n")[0].rstrip(".")


def picture() -> str:
    """Return the drawing as SVG."""
    floors, edges = rooms(), imports()
    at: dict[str, tuple[float, float, float]] = {}
    for row, floor in enumerate(floors):
        each = (WIDTH - 2 * MARGIN - 14 * (len(floor) - 1)) / len(floor)
        width = min(each, 620) if len(floor) == 1 else each
        start = (WIDTH - len(floor) * width - 14 * (len(floor) - 1)) / 2
        for column, room in enumerate(floor):
            at[room] = (start + column * (width + 14), MARGIN + row * ROW, width)
    height = 2 * MARGIN + ROW * len(floors) - (ROW - BOX)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="The rooms of resnet_edge, each above those it uses">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" markerWidth="7" markerHeight="7" refX="6" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z" fill="#7b8794"/></marker></defs>',
    ]
    for room, others in reduced(edges).items():
        parts += [_arrow(at[room], at[other]) for other in sorted(others) if other not in WHAT]
    for room, (x, y, width) in at.items():
        ground = " ground" if room in WHAT else ""
        uses = html.escape(f"{room} imports from {', '.join(sorted(edges[room])) or 'nothing'}")
        what = html.escape(_fit(purpose(room), width))
        parts.append(
            f'<g><title>{uses}</title><rect class="box{ground}" x="{x:.0f}" y="{y}" '
            f'width="{width:.0f}" height="{BOX}" rx="6"/>'
            f'<text class="name" x="{x + width / 2:.0f}" y="{y + 19}" text-anchor="middle">'
            f'{room}</text><text class="what" x="{x + width / 2:.0f}" y="{y + 36}" '
            f'text-anchor="middle">{what}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _arrow(above: tuple[float, float, float], below: tuple[float, float, float]) -> str:
    """Return a curve from the foot of one box to the head of another."""
    x1, y1, x2, y2 = above[0] + above[2] / 2, above[1] + BOX, below[0] + below[2] / 2, below[1]
    if y2 - y1 > ROW:  # past the floors between, along the side
        side = 1 if x2 >= WIDTH / 2 else -1
        x1, x2 = x1 + side * above[2] * 0.42, x2 + side * below[2] * 0.42
        bow = side * min(150, 30 + 0.16 * (y2 - y1))
        return f'<path class="arrow" d="M{x1:.0f},{y1} C{x1 + bow:.0f},{y1 + 40} {x2 + bow:.0f},{y2 - 40} {x2:.0f},{y2 - 2}"/>'  # noqa: E501
    middle = (y1 + y2) / 2
    return f'<path class="arrow" d="M{x1:.0f},{y1} C{x1:.0f},{middle} {x2:.0f},{middle} {x2:.0f},{y2 - 2}"/>'  # noqa: E501


def _fit(text: str, width: float) -> str:
    """Cut a text to what a box has room for, at a word."""
    room = int(width / 6.1)
    if len(text) <= room:
        return text
    return text[: room - 1].rsplit(" ", 1)[0].rstrip(",:;") + " …"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
