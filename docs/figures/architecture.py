"""Draws which package imports which into docs/images/architecture.svg, from the imports in src/.

Run it as `python docs/figures/architecture.py`; tests/test_imports.py fails if the picture is out of date.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE, TARGET = ROOT / "src" / "atrous", ROOT / "docs" / "images" / "architecture.svg"
#: Boxes of the diagram: a title, what it does, its (column, row), its packages and files. "foundations" has the rest.
BOXES: dict[str, tuple[str, tuple[float, float], tuple[str, ...]]] = {
    "cli": ("the command line and its help", (0, 1), ("cli", "__main__", "command_discovery", "help_text")),
    "commands": ("one verb, one file", (1, 0), ("commands",)),
    "tuning": ("the search for better recipes", (3.5, 1), ("tuning",)),
    "learning": ("training and measuring", (0, 2), ("learning",)),
    "serving": ("HTTP server and client", (1, 2), ("serving",)),
    "cluster": ("work on many machines", (2.25, 1), ("cluster",)),
    "build_model": ("create_model", (0, 3), ("build_model",)),
    "explaining": ("uncertainty, Grad-CAM, parts", (2.6, 4), ("explaining",)),
    "inference": ("from a picture to a mask", (1, 3), ("inference",)),
    "weights": ("other libraries' checkpoints", (0, 4), ("weights",)),
    "model file": (
        "one safetensors file; a run's folder",
        (1, 4),
        ("model_file", "adapter_file", "model_state_dict", "roundtrip_check", "run_folder"),
    ),
    "models": ("one paper, one file", (1, 5), ("models",)),
    "crf": ("the fully connected CRF", (2.6, 5), ("crf",)),
    "data": ("from files to samples", (1, 6), ("data",)),
    "foundations": ("errors, paths, checks, console, device", (1.5, 7), ()),
}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 210, 58, 26, 46, 16
INK, LINE, FILL = "#1B1F24", "#8996A3", "#F3F6F9"


def main() -> None:
    """Writes the diagram."""
    TARGET.write_text(diagram(), encoding="utf-8")


def diagram() -> str:
    """The diagram as SVG: an arrow leads from a box to each box that it imports; implied arrows are left out."""
    edges = reduced(imports())
    places = {
        box: (MARGIN + column * (WIDTH + GAP_X), MARGIN + row * (HEIGHT + GAP_Y))
        for box, (_, (column, row), _) in BOXES.items()
    }
    width, height = (max(place[axis] for place in places.values()) for axis in (0, 1))
    width, height = width + WIDTH + MARGIN, height + HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        "<title>Packages of atrous; an arrow leads from a package to those that it imports</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="#FFFFFF"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
    ]
    for start, ends in edges.items():
        for end in sorted(ends):
            (x1, y1), (x2, y2) = places[start], places[end]
            assert y1 < y2, f"{start} imports {end}, which is drawn above it"
            x1, y1, x2 = x1 + WIDTH / 2, y1 + HEIGHT, x2 + WIDTH / 2
            bend = (y2 - y1) / 2
            parts.append(
                f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}" fill="none" '
                f'stroke="{LINE}" stroke-width="1.3" marker-end="url(#tip)"/>'
            )
    for box, (x, y) in places.items():
        middle = x + WIDTH / 2
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{FILL}" stroke="{INK}"/>'
            f'<text x="{middle:g}" y="{y + 25:g}" text-anchor="middle" font-size="15" font-weight="bold" fill="{INK}">'
            f"{escape(box)}</text>"
            f'<text x="{middle:g}" y="{y + 44:g}" text-anchor="middle" font-size="11" fill="{INK}">'
            f"{escape(BOXES[box][0])}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def imports() -> dict[str, set[str]]:
    """The boxes that each box imports, also inside functions and for type checkers."""
    box_of = {part: box for box, (_, _, parts) in BOXES.items() for part in parts}
    found: dict[str, set[str]] = {box: set() for box in BOXES}
    for path in sorted(SOURCE.rglob("*.py")):
        if path == SOURCE / "__init__.py":
            continue
        box = box_of.get(path.relative_to(SOURCE).parts[0].removesuffix(".py"), "foundations")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "atrous"):
                continue
            for name in node.names:
                inside = f"{node.module}.{name.name}".split(".")[1]
                found[box].add(box_of.get(inside, "foundations"))
    return {box: boxes - {box} for box, boxes in found.items()}


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those that other arrows imply."""
    return {
        box: {one for one in ends if not any(one in reached(edges, other) for other in ends - {one})}
        for box, ends in edges.items()
    }


def reached(edges: dict[str, set[str]], box: str) -> set[str]:
    """All boxes below one."""
    below = set(edges[box])
    for one in edges[box]:
        below |= reached(edges, one)
    return below


if __name__ == "__main__":
    main()
