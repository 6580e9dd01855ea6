"""Text in pictures: in Pillow's own font where that has all its letters, else in fonts of the system.

Pillow's font has the letters of English alone. What no font of the system draws is never drawn as boxes: a class is
then shown by its number, and a warning names it.
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

#: Sizes in pixels at which fonts of coloured bitmaps, such as those for emoji, have their only pictures.
BITMAP_SIZES = (109, 136, 128, 160, 96, 64)
#: A letter that Unicode will never have, whose glyph is therefore the font's sign for a missing one.
NO_LETTER = "\U0010ffff"
#: Size in pixels at which a font is asked whether it has a letter.
ASKED_SIZE = 20
#: Words in a font's file name that make it a later choice: labels are upright, regular and without serifs.
OTHER_STYLES = frozenset(
    {"bold", "italic", "oblique", "mono", "serif", "condensed", "narrow", "light", "thin", "black", "medium"}
    | {"display", "math", "lastresort"}
)
#: What joins two emoji into one, what asks for the coloured form, and the first and last of the tones of skin.
JOINER, NON_JOINER, COLOURED, TONES = "\u200d", "\u200c", "\ufe0f", ("\U0001f3fb", "\U0001f3ff")
#: The first and last of the letters, not drawn by themselves, that make a flag that of a region.
TAGS = "\U000e0020", "\U000e007f"
#: What asks for the plain form of an emoji, and what draws a key around the digit before it.
PLAIN, KEYCAP = "\ufe0e", "\u20e3"
#: The first and last of the letters of which two make a flag.
FLAGS = ("\U0001f1e6", "\U0001f1ff")
#: Names in one warning.
MOST_NAMED = 8

Ink = str | tuple[int, int, int]


class FontWarning(UserWarning):
    """Names that no font of this system draws, so that pictures show numbers."""


def labels(names: Sequence[str]) -> list[str]:
    """What pictures show for each class: its name, or "class 3" where no font of this system draws the name.

    Args:
        names: of all classes, in the order of their indices.

    Warns:
        FontWarning: names that are not drawn, each beside its number; once for each list of names.
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
            f"{', '.join(missing[:MOST_NAMED])}{more}. A font with these letters, such as Noto Sans, mends it.",
            FontWarning,
            stacklevel=3,
        )
    return shown


def drawable(text: str) -> str:
    """The text on one line, with "?" in place of each letter that no font of this system draws.

    Args:
        text: any, such as a file's name.
    """
    return "".join(one if _runs(one) is not None else "?" for one in _clusters(printable(text)))


def printable(text: str) -> str:
    """The text on one line, with "?" for what no font draws: line breaks, other controls, bytes that are no text."""
    joined = unicodedata.normalize("NFC", text)
    return "".join(_printable(letter) for letter in joined)


def _is_unseen(letter: str) -> bool:
    """Whether a letter only tells how others are drawn."""
    return letter in (JOINER, NON_JOINER) or TAGS[0] <= letter <= TAGS[1]


def _printable(letter: str) -> str:
    """The letter; nothing for marks of direction and of places to break a word, and a space for all spaces."""
    if letter.isprintable() or _is_unseen(letter):
        return letter
    return {"Cf": "", "Zs": " "}.get(unicodedata.category(letter), "?")


def text_width(text: str, size: int) -> float:
    """How wide a text will be, in pixels.

    Args:
        text: as `labels` or `drawable` gives it.
        size: height of the letters in pixels, ≥ 1.
    """
    return sum(_width(path, run, size) for path, run in _runs(text) or [(None, text)])


def draw_text(picture: Image.Image, place: tuple[float, float], text: str, size: int, ink: Ink, anchor: str) -> None:
    """Draws one line of text into a picture.

    Args:
        picture: RGB, drawn into.
        place: x and y in pixels.
        text: as `labels` or `drawable` gives it.
        size: height of the letters in pixels, ≥ 1.
        ink: colour of the letters; emoji have their own.
        anchor: what of the text is at `place`: l, m or r (left, middle, right), then a letter of Pillow's for the
            height, such as m (middle) or a (top).
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
    """Draws letters of a font that has one size only."""
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
    """Whether the first letter with a direction is of a script that is read from the right."""
    directions = map(unicodedata.bidirectional, text)
    return next((one for one in directions if one in ("L", "R", "AL")), "L") != "L"


@lru_cache(maxsize=1024)
def _runs(text: str) -> list[tuple[str | None, str]] | None:
    """The text in parts of one font each, in the order of reading; None where a letter is in no font.

    A font is a file's path; None is Pillow's own.
    """
    clusters = _clusters(text)
    if not features.check("raqm") and any(_needs_shaping(letter) for letter in text):
        return None  # letters would stand apart, or in the wrong order
    fonts: tuple[str | None, ...] = (None, *_system_fonts())
    if not any(map(_is_emoji, clusters)):
        whole = next((path for path in fonts if all(_has(path, cluster) for cluster in clusters)), "")
        if whole != "":
            return [(whole, text)]
    runs: list[tuple[str | None, str]] = []
    for cluster in clusters:
        if _is_emoji(cluster):
            choices = (*(path for path in fonts if path and "emoji" in path.lower()), *fonts)
        elif runs and not cluster.isspace():  # spaces of fonts for emoji are very wide
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
    """Letters, each with the signs that belong to it: accents, parts of one emoji, the two halves of a flag."""
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
    return (
        unicodedata.bidirectional(letter) in ("R", "AL")
        or unicodedata.category(letter) in ("Mn", "Mc", "Me")
        or letter == JOINER
    )


def _is_emoji(cluster: str) -> bool:
    """Whether letters are joined into one emoji, or asked for as one, which fonts of plain signs draw apart."""
    is_toned = any(TONES[0] <= letter <= TONES[1] for letter in cluster)
    return is_toned or any(letter in cluster for letter in (JOINER, COLOURED, KEYCAP))


@lru_cache(maxsize=2**16)
def _has(path: str | None, cluster: str) -> bool:
    """Whether a font has all letters of a cluster, and draws something for it."""
    if cluster.isspace():
        return True
    try:
        letters = [letter for letter in cluster if not _is_unseen(letter) and letter not in (COLOURED, PLAIN)]
        return all(_maps(path, letter) for letter in letters) and any(_glyph(path, cluster))
    except OSError:  # a damaged file, or a format that is not read
        return False


@lru_cache(maxsize=2**16)
def _maps(path: str | None, letter: str) -> bool:
    """Whether a font has a letter: in its table of letters, and not as its sign for a missing one."""
    if path is not None:
        first, last = _letters(path)
        at = int(np.searchsorted(first, ord(letter), side="right")) - 1
        if at < 0 or last[at] < ord(letter):
            return False
    return _glyph(path, letter) != _missing(path)


@cache
def _letters(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last letters of the ranges in a font's table `cmap` (OpenType 1.9), ascending.

    Raises:
        OSError: damaged, or without such a table of Unicode.
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
    """The ranges in one table of letters, of format 4 or 12; none of another."""
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
    """What a font draws for a letter; no byte of it is set for one that is empty."""
    font = _asked(path)
    left, top, right, bottom = (round(side) for side in font.getbbox(letter, anchor="ls"))
    drawn = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), letter, "black", font, "ls", embedded_color=True)
    return drawn.tobytes()


@cache
def _asked(path: str | None) -> ImageFont.FreeTypeFont:
    """A font at the size at which it is asked; all that are asked stay open, a few hundred at most."""
    return _font(path, ASKED_SIZE)


@lru_cache(maxsize=32)
def _font(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size, or at its own size where it has one only.

    Raises:
        OSError: damaged, or of a format that is not read.
    """
    if path is None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise OSError("this Pillow was built without FreeType")
        return font
    for one in (size, *BITMAP_SIZES):
        with suppress(OSError):
            return ImageFont.truetype(path, one)
    raise OSError(f"{path} has none of the sizes that are tried, or is no font")


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """The files of the system's and the user's fonts, plain ones first."""
    files = {path for folder in _font_folders() for path in _files_below(folder)}
    return tuple(map(str, sorted(files, key=_plainness)))


def _plainness(file: Path) -> tuple[int, bool, str, str]:
    stem = file.stem.lower()
    return sum(word in stem for word in OTHER_STYLES), "sans" not in stem, stem, str(file)


def _files_below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc")))


def _font_folders() -> list[Path]:
    """Where this kind of system keeps fonts."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home fails where there is none)
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home))
        return [Path(os.environ.get("WINDIR", "C:\\Windows"), "Fonts"), local / "Microsoft" / "Windows" / "Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
    return [*(Path(place, "fonts") for place in shared.split(":")), Path(own, "fonts"), home / ".fonts"]
