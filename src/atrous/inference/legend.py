"""A legend for a mask's colours, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont


def with_legend(
    picture: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]], size: int | None = None
) -> Image.Image:
    """The picture with names and colours on white below it, as large as its width asks for.

    Args:
        picture: RGB.
        entries: names and their colours, in the order of reading.
        size: height of the letters in pixels; by default a fortieth of the picture's width, 11 at least.

    Returns:
        RGB, as wide and higher; the picture itself where there are no entries.
    """
    if not entries:
        return picture
    entries = [(printable(name), color) for name, color in entries]
    size = size or max(11, round(picture.width / 40))
    font = ImageFont.load_default(size)
    widths = [2 * size + round(font.getlength(name)) for name, _ in entries]
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
            draw.text((left + round(1.3 * size), top + size / 2), name, "black", font, anchor="lm")
            left += widths[index]
    return shown


def printable(text: str) -> str:
    """The text on one line, with "?" for what no font draws: line breaks, other controls, bytes that are no text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
