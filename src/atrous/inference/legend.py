"""Draws a legend of class names and colours below a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from atrous.fonts import draw_text, text_width


def with_legend(
    picture: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]], size: int | None = None
) -> Image.Image:
    """Returns the picture with a legend below it, on a white background, in as many rows as the picture's width needs.

    Args:
        picture: RGB picture.
        entries: (name, RGB colour) of each class, in reading order, with names from `fonts.labels`.
        size: height of the letters, in pixels; None for 1/40 of the picture's width, but at least 11.

    Returns:
        RGB picture of the same width and larger height; the picture itself if there are no entries.
    """
    if not entries:
        return picture
    size = size or max(11, round(picture.width / 40))
    widths = [2 * size + round(text_width(name, size)) for name, _ in entries]
    rows: list[list[int]] = [[]]
    for index, width in enumerate(widths):
        if rows[-1] and size + sum(widths[one] for one in rows[-1]) + width > picture.width:
            rows.append([])
        rows[-1].append(index)
    line = round(1.6 * size)
    shown = Image.new("RGB", (picture.width, picture.height + line * len(rows) + size // 2), "white")
    shown.paste(picture)
    draw = ImageDraw.Draw(shown)
    for row, indices in enumerate(rows):
        left, top = size // 2, picture.height + size // 2 + row * line
        for index in indices:
            name, color = entries[index]
            draw.rectangle((left, top, left + size, top + size), fill=color, outline="black")
            draw_text(shown, (left + round(1.3 * size), top + size / 2), name, size, "black", "lm")
            left += widths[index]
    return shown
