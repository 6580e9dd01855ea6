"""Charts and pictures of HTML pages: curves as inline SVG, pictures as data URIs.

The SVG contains no colours. The style sheet of the page sets them, so charts fit the light, dark and print version.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from atrous.fonts import draw_text, labels, text_width

WIDTH, HEIGHT = 360, 232  # about the size in pixels of a chart on the page, so that the text of the chart is not scaled
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 26, 206  # the edges of the plotted area
PICTURE_SIDE = 640  # longer side of an embedded picture in pixels: sharp if enlarged, but small in the file
WRONG = np.array([224, 45, 45], np.uint8)  # colour of wrong pixels in an error map; all other pixels are grey

Points = Sequence[tuple[float, float]]
Write = Callable[[float], str]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Args:
        name: name of the shown quantity.
        points: (x, y) values, ascending in x, finite.
        low: smallest y in the bin of each point; () without bins.
        high: largest y in the bin of each point; () without bins.
    """

    name: str
    points: Points
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def binned_curve(name: str, points: Points, bins: int = 72) -> Curve:
    """Returns a curve of bin means. Each mean has the range of its bin, so the spikes of a long run remain visible.

    Args:
        name: name of the shown quantity.
        points: (x, y) values, ascending in x, finite.
        bins: largest number of bins, ≥ 1; each bin is one point of the result.
    """
    groups = np.array_split(np.array(points, float), min(bins, len(points))) if points else []
    return Curve(
        name,
        [(float(group[-1, 0]), float(group[:, 1].mean())) for group in groups],
        [float(group[:, 1].min()) for group in groups],
        [float(group[:, 1].max()) for group in groups],
    )


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Returns round numbers at equal steps (1, 2, 2.5 or 5 times a power of ten) that enclose a range of values.

    Args:
        low: smallest value.
        high: largest value.
        about: approximate number of steps, ≥ 1.
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= span / about * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Frame:
    """The plotted area, which maps values to the SVG's units; one unit is about one pixel."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (RIGHT - LEFT), 1)

    def y(self, value: float) -> float:
        inside = min(max(value, self.y_low), self.y_high)  # the range of a curve may exceed the frame
        return round(BOTTOM - (inside - self.y_low) / (self.y_high - self.y_low) * (BOTTOM - TOP), 1)


def line_chart(
    title: str, curves: Sequence[Curve], write: Write, *, mark: tuple[float, float, str] | None = None
) -> str:
    """Draws curves over training steps; CSS shows the values under the mouse pointer, so no script is needed.

    Args:
        title: description of the chart for screen readers.
        curves: up to six curves with at least one point in total; more than two curves need short names.
        write: function that formats a value as text.
        mark: (x, y, label) of a point to mark with a ring.

    Returns:
        An `<svg>` element with escaped text.
    """
    xs = sorted({x for curve in curves for x, _ in curve.points})
    ys = [y for curve in curves for _, y in curve.points]
    x_ticks = nice_ticks(0.0, max(xs[-1], 1.0))
    y_ticks = nice_ticks(min(0.0, *ys), max(ys))
    frame = _Frame(0.0, max(xs[-1], 1.0), y_ticks[0], y_ticks[-1])
    return "".join(
        [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
            *_axes(frame, x_ticks, y_ticks, write),
            *(_line(frame, number, curve) for number, curve in enumerate(curves)),
            *(
                _key(number, curve.name, 92 if len(curves) < 3 else 40)
                for number, curve in enumerate(curves[:6])
                if curves[1:]
            ),
            *_read_outs(frame, xs, curves, write),
            _ring(frame.x(mark[0]), frame.y(mark[1]), mark[2]) if mark else "",
            "</svg>",
        ]
    )


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], write: Write) -> Iterator[str]:
    below = BOTTOM + 17
    for value in y_ticks:
        y = frame.y(value)
        yield f'<path class="grid" d="M{LEFT} {y}H{RIGHT}"/>'
        yield f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{escape(write(value))}</text>'
    for value in x_ticks:
        if value <= frame.x_high:
            yield f'<text x="{frame.x(value)}" y="{below}" text-anchor="middle">{short_count(value)}</text>'
    yield f'<text x="{LEFT - 7}" y="{below}" text-anchor="end">step</text>'


def _line(frame: _Frame, number: int, curve: Curve) -> str:
    steps = [frame.x(x) for x, _ in curve.points]
    line = zip(steps, (frame.y(y) for _, y in curve.points), strict=True)
    drawn = f'<path class="line c{number}" d="M{_path(line)}"/>'
    if curve.low == curve.high:
        return drawn
    upper = list(zip(steps, map(frame.y, curve.high), strict=True))
    lower = list(zip(steps, map(frame.y, curve.low), strict=True))
    return f'<path class="band c{number}" d="M{_path(upper + lower[::-1])}Z"/>' + drawn


def _key(number: int, name: str, width: int) -> str:
    x = LEFT + width * number
    words = f'<text x="{x + 19}" y="14">{escape(name)}</text>'
    return f'<g class="key"><path class="line c{number}" d="M{x} 10h14"/>{words}</g>'


def _read_outs(frame: _Frame, xs: Sequence[float], curves: Sequence[Curve], write: Write) -> Iterator[str]:
    """Yields an invisible strip for each x; the strip under the pointer shows a dot on each curve, and the values."""
    values = [dict(curve.points) for curve in curves]
    middles = [round((frame.x(a) + frame.x(b)) / 2, 1) for a, b in pairwise(xs)]
    for (left, right), x in zip(pairwise([LEFT, *middles, RIGHT]), xs, strict=True):
        here = [known[x] for known in values if x in known]
        dots = "".join(f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" r="3"/>' for y in here)
        words = escape(" · ".join([f"step {x:,.0f}", *map(write, here)]))
        yield (
            f'<g class="hover">'
            f'<rect x="{left}" y="{TOP}" width="{right - left:.1f}" height="{BOTTOM - TOP}"/>{dots}'
            f'<text x="{RIGHT}" y="{TOP - 12}" text-anchor="end">{words}</text></g>'
        )


def _ring(x: float, y: float, words: str) -> str:
    """Draws a ring with a label towards the middle of the chart, below the ring if there is space."""
    anchor, text_x = ("end", min(x + 6, RIGHT)) if x > (LEFT + RIGHT) / 2 else ("start", x - 4)
    text_y = y + 19 if y < BOTTOM - 30 else y - 11
    return (
        f'<circle class="ring" cx="{x}" cy="{y}" r="4"/>'
        f'<text class="mark" x="{text_x}" y="{text_y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def sparkline(values: Sequence[float | None]) -> str:
    """Draws a small curve of scores (0–1) as inline SVG, with a dot at its end; "" for fewer than two finite scores."""
    at = [
        (round(2 + i / (len(values) - 1) * 72, 1), round(20 - value * 18, 1))
        for i, value in enumerate(values)
        if len(values) > 1 and value is not None and math.isfinite(value)
    ]
    if len(at) < 2:
        return ""
    return (
        f'<svg class="spark" viewBox="0 0 78 22" aria-hidden="true"><path class="line" d="M{_path(at)}"/>'
        f'<circle cx="{at[-1][0]}" cy="{at[-1][1]}" r="2"/></svg>'
    )


def dot_plot(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float | None]]]]) -> str:
    """Draws scores (0–1) as dots, one row for each class; the page shows the name of the dot under the pointer.

    Args:
        title: description of the plot for screen readers.
        rows: name of each row, and the name and the score of each of its dots; None draws no dot.

    Returns:
        An `<svg>` element with escaped text.
    """
    bottom = 40 * len(rows)
    drawn = [f'<svg class="chart" viewBox="0 0 720 {bottom + 22}" role="img" aria-label="{escape(title)}">']
    for tick in range(0, 11, 2):
        x = 170 + 53 * tick
        drawn.append(f'<path class="grid" d="M{x} 4V{bottom}"/>')
        drawn.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{tick / 10:g}</text>')
    for number, (name, dots) in enumerate(rows):
        middle = 40 * number + 20
        shown = name if len(name) <= 24 else f"{name[:23]}…"
        drawn.append(f'<text x="158" y="{middle + 4}" text-anchor="end">{escape(shown)}</text>')
        for place, (dot, value) in enumerate(dots):
            if value is not None:
                # Three heights, so that close dots are distinguishable.
                x, y = round(170 + 530 * value, 1), middle + 7 * (place % 3 - 1)
                words = escape(f"{dot}: {value:.3f}")
                drawn.append(f'<circle class="dot" cx="{x:g}" cy="{y}" r="3.5"><title>{words}</title></circle>')
    return "".join([*drawn, "</svg>"])


def _path(points: Iterable[tuple[float, float]]) -> str:
    """Returns points as the data of an SVG path."""
    return "L".join(f"{x:g} {y:g}" for x, y in points)


def short_count(number: float) -> str:
    """Returns a count as short text, such as 950, 12k or 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def error_map(picture: NDArray[np.uint8], truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the picture in pale grey, with wrong pixels in red and ignored pixels darkened.

    Args:
        picture: H×W×3.
        truth: H×W class indices, 255 = ignore.
        prediction: H×W class indices.

    Returns:
        H×W×3 uint8.
    """
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    drawn = np.repeat((118 + grey * 0.5).astype(np.uint8)[..., None], 3, axis=-1)
    ignored = truth == 255
    drawn[ignored] = drawn[ignored] // 3
    drawn[(truth != prediction) & ~ignored] = WRONG
    return drawn


def shrink(array: NDArray[np.uint8], side: int = PICTURE_SIDE) -> NDArray[np.uint8]:
    """Shrinks a picture (with Lanczos) or a mask (with nearest neighbour) if it is larger than allowed.

    Args:
        array: H×W×3 picture, or H×W mask.
        side: largest allowed longer side of the result, in pixels.
    """
    height, width = array.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return array
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.LANCZOS if array.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(array).resize(size, how))


def photo_uri(picture: NDArray[np.uint8], *, sharp_colors: bool = False) -> str:
    """Returns a picture as a JPEG data URI.

    Args:
        picture: H×W×3.
        sharp_colors: store colours at full resolution, so that thin lines keep their colour; the URI is longer.
    """
    return data_uri(Image.fromarray(picture), "jpeg", quality=82, subsampling=0 if sharp_colors else 2)


def mask_uri(mask: NDArray[np.uint8], colors: Sequence[Sequence[int]]) -> str:
    """Returns a mask as a palette PNG data URI; 255 (ignore) is transparent, so the page's hatching is visible.

    Args:
        mask: H×W class indices.
        colors: (red, green, blue), 0–255, of each class.
    """
    palette = np.zeros((256, 3), np.uint8)  # all 256 entries, or Pillow would reduce the bits of the indices
    palette[: len(colors)] = colors
    drawn = Image.fromarray(mask)
    drawn.putpalette(palette.tobytes())
    return data_uri(drawn, "png", transparency=255, optimize=True)


def data_uri(image: Image.Image, kind: str, **options: object) -> str:
    """Returns an image as a data URI, so that the page needs no further file.

    Args:
        image: the image.
        kind: file format, such as "png" or "jpeg".
        options: options of Pillow's writer for the format.
    """
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def confusion_picture(counts: NDArray[np.int64], names: Sequence[str], cell: int = 34) -> NDArray[np.uint8]:
    """Draws a confusion matrix as a heat map, for dashboards that show only pictures, such as TensorBoard.

    Args:
        counts: K×K, row = truth, column = prediction.
        names: names of the K classes. A name that no font of this system can draw is replaced by the class index.
        cell: side of an entry in pixels. An entry shows its percentage of the row if the percentage is ≥ 1 %.

    Returns:
        H×W×3.
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    font, names = ImageFont.load_default(12), labels(names)
    margin = 8 + max(int(text_width(name, 12)) for name in names)
    side = margin + cell * len(names) + 4
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for row, name in enumerate(names):
        y = margin + row * cell
        draw_text(image, (margin - 4, y + cell / 2), name, 12, "black", "rm")
        upright = Image.new("RGB", (margin, cell), "white")
        draw_text(upright, (4, cell / 2), name, 12, "black", "lm")
        image.paste(upright.rotate(90, expand=True), (y, 0))
        for column, part in enumerate(share[row]):
            x = margin + column * cell
            shade = tuple(round(255 - part * (255 - dark)) for dark in (20, 60, 130))
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), shade)
            if part >= 0.01:
                ink = "white" if part > 0.5 else "black"
                draw.text((x + cell / 2 - 1, y + cell / 2 - 1), f"{100 * part:.0f}", ink, font, anchor="mm")
    return np.asarray(image)


def reliability_picture(panels: Sequence[tuple[str, NDArray, NDArray, NDArray]], side: int = 320) -> Image.Image:
    """Draws reliability diagrams side by side: bars of accuracy by confidence, with their difference in red.

    Args:
        panels: for each diagram its title, and per bin the number of pixels, their mean confidence and their accuracy.
        side: side of a diagram in pixels.
    """
    left, top, below, gap = 52, 40, 56, 24
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    wide = left + side + gap
    image = Image.new("RGB", (wide * len(panels), top + side + below), "white")
    draw = ImageDraw.Draw(image)
    for number, (title, counts, confidence, accuracy) in enumerate(panels):
        x, floor = number * wide + left, top + side
        draw.text((x, top - 22), title, "black", font, anchor="lm")
        width, most = side / len(counts), max(int(counts.max()), 1)
        for index, (pixels, sure, right) in enumerate(zip(counts, confidence, accuracy, strict=True)):
            if not pixels:
                continue
            start, end = x + index * width + 1, x + (index + 1) * width - 1
            high, low = floor - max(sure, right) * side, floor - min(sure, right) * side
            draw.rectangle((start, floor - right * side, end, floor), (70, 110, 170))
            draw.rectangle((start, high, end, low), (235, 160, 150))
            draw.line((start, floor - right * side, end, floor - right * side), (20, 50, 110), 2)
            draw.rectangle((start, floor + 46 - 14 * pixels / most, end, floor + 46), (150, 150, 150))
        draw.line((x, floor, x + side, top), (120, 120, 120), 1)
        draw.rectangle((x, top, x + side, floor), outline="black")
        for tick in (0.0, 0.5, 1.0):
            draw.text((x + tick * side, floor + 6), f"{tick:g}", "black", small, anchor="mt")
            draw.text((x - 5, floor - tick * side), f"{tick:g}", "black", small, anchor="rm")
        draw.text((x + side / 4, floor + 6), "confidence", "black", small, anchor="mt")
        draw.text((x + 6, top + 8), "accuracy", "black", small, anchor="lt")
        draw.text((x - 5, floor + 40), "pixels", "black", small, anchor="rm")
    return image
