"""Draws text into pictures with Pillow's own font if it has all letters, else with fonts of the system.

Pillow's font has only the letters of English. A class name that no font can draw is not drawn as boxes: the picture
shows the class index instead, and a warning names the class.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from atrous import logger

#: Sizes in pixels to try for fonts of coloured bitmaps, such as emoji fonts, which exist in one size only.
BITMAP_SIZES = (109, 136, 128, 160, 96, 64)
#: A code point that Unicode never assigns; its glyph is the font's sign for a missing letter.
NO_LETTER = "\U0010ffff"
#: Font size in pixels at which it is checked whether a font has a letter.
ASKED_SIZE = 20
#: Words in a font's file name that lower its priority, because labels use upright, regular fonts without serifs.
OTHER_STYLES = frozenset(
    {"bold", "italic", "oblique", "mono", "serif", "condensed", "narrow", "light", "thin", "black", "medium"}
    | {"display", "math", "lastresort"}
)
#: The two joiners, the selector of the coloured form of an emoji, and the first and last skin tone.
JOINER, NON_JOINER, COLOURED, TONES = "\u200d", "\u200c", "\ufe0f", ("\U0001f3fb", "\U0001f3ff")
#: The first and last tag character; tag characters are invisible and turn a flag into the flag of a region.
TAGS = "\U000e0020", "\U000e007f"
#: The selector of the plain form of an emoji, and the mark that draws a key around the digit before it.
PLAIN, KEYCAP = "\ufe0e", "\u20e3"
#: The first and last regional indicator; two of them make a flag.
FLAGS = ("\U0001f1e6", "\U0001f1ff")
#: Largest number of names in one warning.
MOST_NAMED = 8

Ink = str | tuple[int, int, int]


class FontWarning(UserWarning):
    """No font of this system can draw some class names, so pictures show class indices instead."""


def labels(names: Sequence[str]) -> list[str]:
    """Returns the label of each class in pictures: its name, or its index ("class 3") if no font can draw the name.

    Args:
        names: names of all classes, in the order of their indices.

    Warns:
        FontWarning: some names cannot be drawn; the message lists them with their indices. The warning is issued once
            for each list of names.
    """
    return list(_labels(tuple(printable(name) for name in names)))


@lru_cache(maxsize=64)
def _labels(names: tuple[str, ...]) -> tuple[str, ...]:
    shown = tuple(name if _runs(name) is not None else f"class {index}" for index, name in enumerate(names))
    missing = [f"{label} {name}" for label, name in zip(shown, names, strict=True) if label != name]
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        logger.warn(
            f"no font of this system draws the names of some classes, so pictures show their numbers: "
            f"{', '.join(missing[:MOST_NAMED])}{more}. Install a font with these letters, such as Noto Sans.",
            FontWarning,
            stacklevel=3,
        )
    return shown


def drawable(text: str) -> str:
    """Returns the text on one line, with "?" for each letter that no font of this system can draw.

    Args:
        text: any text, such as the name of a file.
    """
    return "".join(one if _runs(one) is not None else "?" for one in _clusters(printable(text)))


def printable(text: str) -> str:
    """Returns the text on one line, with "?" for line breaks, other control characters and undecodable bytes."""
    joined = unicodedata.normalize("NFC", text)
    return "".join(_printable(letter) for letter in joined)


def _is_unseen(letter: str) -> bool:
    """Returns whether a character is invisible and only changes how other characters are drawn."""
    return letter in (JOINER, NON_JOINER) or TAGS[0] <= letter <= TAGS[1]


def _printable(letter: str) -> str:
    """Returns the character, or "" for an invisible one, a plain space for any space, "?" for a control character."""
    if letter.isprintable() or _is_unseen(letter):
        return letter
    return {"Cf": "", "Zs": " "}.get(unicodedata.category(letter), "?")


def text_width(text: str, size: int) -> float:
    """Returns the width of a text in pixels.

    Args:
        text: a text from `labels` or `drawable`.
        size: height of the letters in pixels, ≥ 1.
    """
    return sum(_width(path, run, size) for path, run in _runs(text) or [(None, text)])


def draw_text(picture: Image.Image, place: tuple[float, float], text: str, size: int, ink: Ink, anchor: str) -> None:
    """Draws one line of text into a picture.

    Args:
        picture: RGB picture, which is changed.
        place: x and y in pixels.
        text: a text from `labels` or `drawable`.
        size: height of the letters in pixels, ≥ 1.
        ink: colour of the letters; emoji have their own colours.
        anchor: the point of the text at `place`: l, m or r (left, middle, right), then Pillow's letter for the vertical
            position, such as m (middle) or a (top).
    """
    runs = _runs(text) or [(None, text)]
    x = place[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * text_width(text, size)
    for path, run in reversed(runs) if _is_from_the_right(text) else runs:
        font, width = _font(path, size), _width(path, run, size)
        if font.size == size:
            colored = path is not None
            ImageDraw.Draw(picture).text((x, place[1]), run, ink, font, f"l{anchor[1]}", embedded_color=colored)
        else:
            _paste_scaled(picture, (x, place[1]), run, font, size, anchor[1])
        x += width


def _paste_scaled(
    picture: Image.Image, place: tuple[float, float], run: str, font: ImageFont.FreeTypeFont, size: int, height: str
) -> None:
    """Draws text with a font that has only one size, scaled to the wanted size."""
    left, top, right, bottom = font.getbbox(run, anchor="ls")
    drawn = Image.new("RGBA", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(drawn).text((-left, -top), run, "black", font, "ls", embedded_color=True)
    scale = size / font.size
    small = drawn.resize((max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))))
    above = {"m": small.height / 2, "a": 0.0, "t": 0.0}.get(height, float(small.height))
    picture.paste(small, (round(place[0]), round(place[1] - above)), small)


def _width(path: str | None, run: str, size: int) -> float:
    font = _font(path, size)
    return font.getlength(run) * size / font.size


def _is_from_the_right(text: str) -> bool:
    """Returns whether the first letter with a direction belongs to a script written from right to left."""
    directions = map(unicodedata.bidirectional, text)
    return next((one for one in directions if one in ("L", "R", "AL")), "L") != "L"


@lru_cache(maxsize=1024)
def _runs(text: str) -> list[tuple[str | None, str]] | None:
    """Splits the text into parts of one font each, in reading order; None if a letter is in no font.

    A font is represented by the path of its file, Pillow's own font by None.
    """
    clusters = _clusters(text)
    if not features.check("raqm") and any(_needs_shaping(letter) for letter in text):
        return None  # without text shaping, letters would be separated or in the wrong order
    fonts: tuple[str | None, ...] = (None, *_system_fonts())
    if not any(map(_is_emoji, clusters)):
        whole = next((path for path in fonts if all(_has(path, cluster) for cluster in clusters)), "")
        if whole != "":
            return [(whole, text)]
    runs: list[tuple[str | None, str]] = []
    for cluster in clusters:
        if _is_emoji(cluster):
            choices = (*(path for path in fonts if path and "emoji" in path.lower()), *fonts)
        elif runs and not cluster.isspace():  # spaces of emoji fonts are very wide
            choices = (runs[-1][0], *fonts)
        else:
            choices = fonts
        path = next((path for path in choices if _has(path, cluster)), "")
        if path == "":
            return None
        if runs and runs[-1][0] == path:
            runs[-1] = path, runs[-1][1] + cluster
        else:
            runs.append((path, cluster))
    return runs


def _clusters(text: str) -> list[str]:
    """Splits a text into letters with their accents, whole emoji, and whole flags."""
    clusters: list[str] = []
    for letter in text:
        last = clusters[-1] if clusters else ""
        is_flag = FLAGS[0] <= letter <= FLAGS[1] and len(last) == 1 and FLAGS[0] <= last <= FLAGS[1]
        is_part = unicodedata.category(letter)[0] == "M" or _is_unseen(letter) or letter in (COLOURED, PLAIN)
        if last and (is_flag or is_part or last.endswith(JOINER) or TONES[0] <= letter <= TONES[1]):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return clusters


def _needs_shaping(letter: str) -> bool:
    """Returns whether a character is drawn correctly only with text shaping, which the library raqm does."""
    return (
        unicodedata.bidirectional(letter) in ("R", "AL")
        or unicodedata.category(letter) in ("Mn", "Mc", "Me")
        or letter == JOINER
    )


def _is_emoji(cluster: str) -> bool:
    """Returns whether a cluster is an emoji of several characters, which plain fonts would draw separately."""
    is_toned = any(TONES[0] <= letter <= TONES[1] for letter in cluster)
    return is_toned or any(letter in cluster for letter in (JOINER, COLOURED, KEYCAP))


@lru_cache(maxsize=2**16)
def _has(path: str | None, cluster: str) -> bool:
    """Returns whether a font has all letters of a cluster, and does not draw it empty."""
    if cluster.isspace():
        return True
    try:
        letters = [letter for letter in cluster if not _is_unseen(letter) and letter not in (COLOURED, PLAIN)]
        return all(_maps(path, letter) for letter in letters) and any(_glyph(path, cluster))
    except OSError:  # a damaged file, or an unsupported format
        return False


@lru_cache(maxsize=2**16)
def _maps(path: str | None, letter: str) -> bool:
    """Returns whether a font has a letter in its table, with a glyph other than its sign for a missing letter."""
    if path is not None:
        first, last = _letters(path)
        at = int(np.searchsorted(first, ord(letter), side="right")) - 1
        if at < 0 or last[at] < ord(letter):
            return False
    return _glyph(path, letter) != _missing(path)


@cache
def _letters(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the last letters of the ranges in a font's table `cmap` (OpenType 1.9), ascending.

    Raises:
        OSError: the file is damaged, or has no `cmap` table for Unicode.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(16)
            file.seek(int.from_bytes(head[12:16], "big") if head[:4] == b"ttcf" else 0)
            tables = np.frombuffer(file.read(16 * int.from_bytes(file.read(12)[4:6], "big")), ">u4").reshape(-1, 4)
            _, _, place, length = tables[tables[:, 0] == int.from_bytes(b"cmap", "big")][0].tolist()
            file.seek(place)
            cmap = file.read(length)
        encodings = np.frombuffer(cmap, ">u2", 4 * int.from_bytes(cmap[2:4], "big"), 4).reshape(-1, 4)
        starts = [int(high) << 16 | int(low) for kind, way, high, low in encodings if kind == 0 or way in (1, 10)]
        ranges = [_ranges(cmap[start:]) for start in starts]
        return max(ranges, key=lambda found: int((found[1] - found[0]).sum()))
    except (ValueError, IndexError) as error:
        raise OSError(f"{path}: damaged, or without a table of letters") from error


def _ranges(table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ranges in one `cmap` subtable of format 4 or 12; no range for other formats."""
    kind = int.from_bytes(table[:2], "big")
    if kind == 12:
        groups = np.frombuffer(table, ">u4", 3 * int.from_bytes(table[12:16], "big"), 16).reshape(-1, 3).astype(int)
        return groups[:, 0], groups[:, 1]
    if kind == 4:
        count = int.from_bytes(table[6:8], "big") // 2
        last, first = (np.frombuffer(table, ">u2", count, at).astype(int) for at in (14, 16 + 2 * count))
        return first, last
    return np.zeros(0, int), np.zeros(0, int)


@cache
def _missing(path: str | None) -> bytes:
    return _glyph(path, NO_LETTER)


def _glyph(path: str | None, letter: str) -> bytes:
    """Returns the pixels that a font draws for a letter; all bytes are 0 for an empty glyph."""
    font = _asked(path)
    left, top, right, bottom = (round(side) for side in font.getbbox(letter, anchor="ls"))
    drawn = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), letter, "black", font, "ls", embedded_color=True)
    return drawn.tobytes()


@cache
def _asked(path: str | None) -> ImageFont.FreeTypeFont:
    """Returns a font at the size of the letter checks; all checked fonts, at most a few hundred, stay open."""
    return _font(path, ASKED_SIZE)


@lru_cache(maxsize=32)
def _font(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Returns a font at the given size, or at its own size if it has only one.

    Raises:
        OSError: the file is damaged, or of an unsupported format.
    """
    if path is None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise OSError("this Pillow was built without FreeType")
        return font
    for one in (size, *BITMAP_SIZES):
        with suppress(OSError):
            return ImageFont.truetype(path, one)
    raise OSError(f"{path} has none of the tried sizes, or is not a font")


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Returns the font files of the system and of the user, plain fonts first."""
    files = {path for folder in _font_folders() for path in _files_below(folder)}
    return tuple(map(str, sorted(files, key=_plainness)))


def _plainness(file: Path) -> tuple[int, bool, str, str]:
    """Returns the sort key of a font file, by which plain fonts come first."""
    stem = file.stem.lower()
    return sum(word in stem for word in OTHER_STYLES), "sans" not in stem, stem, str(file)


def _files_below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc")))


def _font_folders() -> list[Path]:
    """Returns the font folders of this operating system."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home fails without a home folder)
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home))
        return [Path(os.environ.get("WINDIR", "C:\\Windows"), "Fonts"), local / "Microsoft" / "Windows" / "Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
    return [*(Path(place, "fonts") for place in shared.split(":")), Path(own, "fonts"), home / ".fonts"]
