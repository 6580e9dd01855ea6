"""Draws docs/images/family.png: what each of the four papers added, at a glance.

python docs/figures/family.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from PIL import Image

OUT = Path(__file__).parents[1] / "images" / "family.png"
#: Pixels of the picture; all places below are pixels from the upper left corner.
WIDTH, HEIGHT, DPI = 1600, 680, 200
COLUMN, MARGIN = WIDTH // 4, 20
INSIDE = COLUMN - 2 * MARGIN

# Of Okabe and Ito's palette, which stays apart for colour-blind eyes; the new is darker than the old, too.
NEW, NEW_EDGE = "#F2B233", "#8F6200"
OLD, OLD_EDGE = "#E4E9EE", "#8996A3"
INK, SOFT = "#1B1F24", "#57606A"
GROUND, SKY, ROAD, TREE = "#F7F8FA", "#BFD9EE", "#A9A9A9", "#7BA37B"

FLOOR = 218  # lower edge of the backbone's bars
CONTEXT, EXTRA = (268, 400), (416, 492)


@dataclass(frozen=True)
class Paper:
    """What stands in a column in words.

    Args:
        title: of the paper's network.
        below: year and backbone.
        strides: of the backbone's maps, first to last.
        rates: atrous rate of each stage; 1 is drawn without one.
        caption: two lines at the foot.
        score: VOC val mIoU in percent.
        condition: under which it was measured.
    """

    title: str
    below: str
    strides: Sequence[int]
    rates: Sequence[int]
    caption: str
    score: str
    condition: str


PAPERS = (
    Paper(
        "DeepLabV1",
        "2014 · VGG-16",
        (2, 4, 8, 8, 8),
        (1, 1, 1, 1, 2),
        "Dense features, and a wide\nview from one 3×3 layer",
        "68.7",
        "with side features and CRF",
    ),
    Paper(
        "DeepLabV2",
        "2016 · ResNet-101",
        (4, 4, 8, 8, 8),
        (1, 1, 1, 2, 4),
        "Several views of each place,\nseveral sizes of the picture",
        "77.7",
        "with COCO and CRF",
    ),
    Paper(
        "DeepLabV3",
        "2017 · ResNet-101",
        (4, 4, 8, 16, 16),
        (1, 1, 1, 1, 2),
        "The whole picture as context;\nbatch norm; no CRF any more",
        "82.7",
        "with COCO, scales and flip",
    ),
    Paper(
        "DeepLabV3+",
        "2018 · Xception-65",
        (2, 4, 8, 16, 16),
        (1, 1, 1, 1, 2),
        "A decoder for sharp borders;\nseparable 3×3 for speed",
        "83.6",
        "with COCO, scales and flip",
    ),
)


def points(pixels: float) -> float:
    """A font size in pixels, as matplotlib wants it."""
    return pixels * 72 / DPI


def text(axes: Axes, x: float, y: float, words: str, size: float = 21, **style: object) -> None:
    """Words centred on (x, y), unless the style says otherwise."""
    style = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.25, **style}
    axes.text(x, y, words, fontsize=points(size), **style)  # pyright: ignore[reportArgumentType]


def box(
    axes: Axes, x: float, y: float, width: float, height: float, words: str = "", *, new: bool, size: float = 21
) -> None:
    """A rounded box, upper left corner at (x, y)."""
    face, edge = (NEW, NEW_EDGE) if new else (OLD, OLD_EDGE)
    shape = FancyBboxPatch(
        (x + 5, y + 5), width - 10, height - 10, boxstyle="round,pad=5,rounding_size=7", fc=face, ec=edge, lw=0.8
    )
    axes.add_patch(shape)
    if words:
        text(axes, x + width / 2, y + height / 2, words, size)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, head: bool = True) -> None:
    """A line, with a head or without."""
    style = {"arrowstyle": "-|>,head_length=0.28,head_width=0.14" if head else "-", "lw": 0.9, "color": SOFT}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0, "joinstyle": "miter"})


def picture(axes: Axes, x: float, y: float, side: float) -> None:
    """A tiny landscape: sky, road, tree."""
    axes.add_patch(Rectangle((x, y), side, side, fc=SKY, ec=OLD_EDGE, lw=0.8))
    axes.add_patch(Rectangle((x, y + 0.66 * side), side, 0.34 * side, fc=ROAD, ec="none"))
    axes.add_patch(Rectangle((x + 0.63 * side, y + 0.42 * side), 0.08 * side, 0.26 * side, fc="#7A5C3E", ec="none"))
    axes.add_patch(Circle((x + 0.67 * side, y + 0.35 * side), 0.19 * side, fc=TREE, ec="none"))
    axes.add_patch(Rectangle((x, y), side, side, fc="none", ec=OLD_EDGE, lw=0.8))


def backbone(axes: Axes, left: float, paper: Paper, *, new: Sequence[int]) -> list[float]:
    """The picture and the backbone's maps as bars, as high as the maps are large; gives the bars' centres."""
    picture(axes, left, FLOOR - 84, 84)
    arrow(axes, (left + 88, FLOOR - 42), (left + 110, FLOOR - 42))
    heights = {2: 108, 4: 84, 8: 60, 16: 40}
    centres = []
    for number, (stride, rate) in enumerate(zip(paper.strides, paper.rates, strict=True)):
        x, height = left + 116 + 50 * number, heights[stride]
        box(axes, x, FLOOR - height, 40, height, new=number in new)
        if rate > 1:
            text(axes, x + 20, FLOOR - height - 14, f"r {rate}", 19, color=NEW_EDGE if number in new else SOFT)
        text(axes, x + 20, FLOOR + 15, f"/{stride}", 19, color=SOFT)
        centres.append(x + 20)
    return centres


def branches(axes: Axes, left: float, source: float, labels: Sequence[str], new: Sequence[bool]) -> list[float]:
    """Boxes side by side, as wide as the column, each fed from the bar above `source`; gives their centres."""
    gap, top, bus = 8, CONTEXT[0], FLOOR + 33
    width = (INSIDE - gap * (len(labels) - 1)) / len(labels)
    centres = [left + number * (width + gap) + width / 2 for number in range(len(labels))]
    arrow(axes, (source, FLOOR + 27), (source, bus), head=False)
    arrow(axes, (centres[0], bus), (max(centres[-1], source), bus), head=False)
    for centre, label, fresh in zip(centres, labels, new, strict=True):
        arrow(axes, (centre, bus), (centre, top - 2))
        box(axes, centre - width / 2, top, width, 72, label, new=fresh, size=20 if len(labels) < 5 else 19)
    return centres


def holes(axes: Axes, x: float, y: float, step: float, *, cells: int = 5) -> None:
    """A 3×3 kernel with holes, over the grid it is laid on."""
    for row in range(cells):
        for column in range(cells):
            on = row % 2 == 0 and column % 2 == 0
            corner = (x + column * step, y + row * step)
            axes.add_patch(Rectangle(corner, step, step, fc=NEW_EDGE if on else "#FFF4DC", ec=NEW_EDGE, lw=0.5))


def v1(axes: Axes, left: float, centres: list[float]) -> None:
    """LargeFOV and the side features."""
    top, bottom = CONTEXT
    arrow(axes, (centres[-1], FLOOR + 27), (centres[-1], top - 2))
    box(axes, left, top, INSIDE, bottom - top, new=True)
    holes(axes, left + 20, top + 21, 18)
    text(axes, left + 237, top + 66, "LargeFOV\nfc6: 3×3, r 12\nfc7: 1×1, 1024 wide")
    words = "side features of the picture\nand the pools (MSc)"
    box(axes, left, EXTRA[0], INSIDE, EXTRA[1] - EXTRA[0], words, new=True)


def v2(axes: Axes, left: float, centres: list[float]) -> None:
    """Summed ASPP and the three scales."""
    top, middle = CONTEXT[0], left + INSIDE / 2
    heads = branches(axes, left, centres[-1], ["3×3\nr 6", "3×3\nr 12", "3×3\nr 18", "3×3\nr 24"], [True] * 4)
    for number, x in enumerate(heads):
        arrow(axes, (x, top + 75), (middle + 14 * (number - 1.5), top + 101))
    text(axes, middle, top + 116, "summed (ASPP)")
    box(axes, left, EXTRA[0], INSIDE, EXTRA[1] - EXTRA[0], new=True)
    for x, side in ((16, 24), (48, 36), (92, 48)):
        picture(axes, left + x, EXTRA[0] + 62 - side, side)
    text(axes, left + 250, EXTRA[0] + 38, "maximum over\nsizes 0.5, 0.75, 1")


def v3(axes: Axes, left: float, centres: list[float]) -> None:
    """ASPP with image pooling; multi-grid and cascade."""
    top, bottom = CONTEXT
    labels = ["1×1", "3×3\nr 6", "3×3\nr 12", "3×3\nr 18", "mean\n1×1"]
    for x in branches(axes, left, centres[-1], labels, [True, False, False, False, True]):
        arrow(axes, (x, top + 75), (x, bottom - 41))
    box(axes, left, bottom - 39, INSIDE, 39, "concatenate, 1×1, batch norm", new=True)
    words = "multi-grid: r × (1, 2, 4);\nor a cascade, blocks 5–7"
    box(axes, left, EXTRA[0], INSIDE, EXTRA[1] - EXTRA[0], words, new=True)


def v3plus(axes: Axes, left: float, centres: list[float]) -> None:
    """Decoder, fed from the ASPP and from stride 4."""
    top, side, bend, decoder = CONTEXT[0], left + 52, FLOOR + 33, 370
    arrow(axes, (centres[-1], FLOOR + 27), (centres[-1], top - 2))
    box(axes, left + 120, top, INSIDE - 120, 68, new=False)
    text(axes, left + 166, top + 34, "ASPP")
    box(axes, left + 212, top + 10, INSIDE - 222, 48, "separable", new=True)
    arrow(axes, (centres[1], FLOOR + 27), (centres[1], bend), head=False)
    arrow(axes, (centres[1], bend), (side, bend), head=False)
    arrow(axes, (side, bend), (side, top - 2))
    box(axes, left, top, 104, 68, "1×1\n48", new=True)
    arrow(axes, (side, top + 71), (side, decoder - 2))
    arrow(axes, (left + 240, top + 71), (left + 240, decoder - 2))
    text(axes, left + 262, top + 84, "×4", 19, color=SOFT, ha="left")
    box(axes, left, decoder, INSIDE, EXTRA[1] - decoder, "decoder\nconcatenate at /4\ntwice 3×3, separable", new=True)


def foot(axes: Axes, left: float, paper: Paper, upsampling: str) -> None:
    """Upsampling, caption and score."""
    text(axes, left, 514, f"then bilinear {upsampling}", 18, color=SOFT, ha="left")
    text(axes, left, 556, paper.caption, 21, ha="left")
    text(axes, left, 615, paper.score, 36, ha="left", weight="bold")
    text(axes, left + 104, 614, f"% mIoU, VOC val\n{paper.condition}", 18, ha="left", color=SOFT)


def legend(axes: Axes) -> None:
    """What the colours and the numbers mean."""
    y = 661
    for x, words, new in ((MARGIN, "new in this paper", True), (236, "as before", False)):
        box(axes, x, y - 10, 28, 20, new=new)
        text(axes, x + 38, y, words, 18, ha="left", color=SOFT)
    text(axes, 2 * COLUMN + MARGIN, y, "/8: one feature every 8 pixels", 18, ha="left", color=SOFT)
    text(axes, 3 * COLUMN + MARGIN, y, "r 2: atrous rate 2", 18, ha="left", color=SOFT)


def main(out: Path = OUT) -> None:
    """Draws and saves the figure."""
    mpl.rcParams["font.family"] = "DejaVu Sans"
    figure = plt.figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    bodies = ((v1, (4,), "×8"), (v2, (), "×8"), (v3, (), "×16, or ×8"), (v3plus, (), "×4"))
    for number, (paper, (body, new, upsampling)) in enumerate(zip(PAPERS, bodies, strict=True)):
        left = number * COLUMN + MARGIN
        if number % 2:
            axes.add_patch(Rectangle((number * COLUMN, 0), COLUMN, 643, fc=GROUND, ec="none", zorder=0))
        text(axes, left, 31, paper.title, 30, ha="left", weight="bold")
        text(axes, left, 66, paper.below, 20, ha="left", color=SOFT)
        body(axes, left, backbone(axes, left, paper, new=new))
        foot(axes, left, paper, upsampling)
    legend(axes)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)
    plt.close(figure)
    with Image.open(out) as drawn:
        small = drawn.convert("RGB").quantize(96)
    small.save(out, optimize=True)


if __name__ == "__main__":
    main()
