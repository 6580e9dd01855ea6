"""Draws sheets that show a dataset: masks over pictures for each split, and pictures that their EXIF data turns."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from atrous import fonts
from atrous.data.class_colors import Color, default_colors, packed_colors, unpacked_color
from atrous.data.dataset import Dataset, Item, stored_mask
from atrous.data.doctor.examine import Diagnosis
from atrous.data.doctor.exif_rotation import TurnedPair, as_stored, mask_edges
from atrous.data.doctor.taken_channels import TakenChannels
from atrous.data.formats.palettes import as_colors
from atrous.data.mask_value_map import IGNORE_INDEX, UNKNOWN, ClassTable
from atrous.data.pictures import StoredMask
from atrous.errors import AtrousError, counted
from atrous.inference.legend import with_legend
from atrous.inference.prediction import NO_DATA_COLOR, visible
from atrous.overwrite_checks import Output, picture_output, save_picture

#: Largest number of pairs on a split's sheet, number of tiles per row on both sheets, and largest number of pairs on
#: the sheet of turned pictures.
MOST_PAIRS, COLUMNS, MOST_TURNED = 12, 4, 8
#: Longest side of a picture on a split's sheet and on the sheet of turned pictures, and margin of tiles, in pixels.
SIDE, TURNED_SIDE, MARGIN = 320, 400, 10
#: Colour of the outline over turned pictures, and of pixels whose value the class table does not list.
OUTLINE_COLOR: Color = (255, 0, 255)
UNKNOWN_COLOR: Color = (255, 0, 255)
_OPACITY = 0.4  # opacity of a class's colour inside its outline
_STRIPE = 4  # width in pixels of the stripes on void pixels; the picture stays visible between the stripes
_TEXT = 14  # height of letters in pixels
_TURNED = "turned_by_exif"


@dataclass(frozen=True)
class Drawn:
    """A file that was written.

    Attributes:
        path: the file.
        words: description of the content of the file.
    """

    path: Path
    words: str


def planned_pictures(dataset: Dataset, folder: Path) -> list[Output]:
    """Returns the files that `draw_pictures` may write.

    Args:
        dataset: the dataset.
        folder: folder for the files; it need not exist.

    Raises:
        AtrousError: the folder is in the dataset, so the files would be read as pictures of the dataset.
    """
    real = Path(os.path.realpath(folder))
    files = (path for items in dataset.splits.values() for item in items for path in (item.image, item.mask) if path)
    read = {Path(os.path.realpath(parent)) for parent in {path.parent for path in files}}
    if real in read or real.is_relative_to(os.path.realpath(dataset.root)):
        raise AtrousError(
            f"pictures is {folder}, a folder of the data set {dataset.root}: the PNG files would be read as pictures "
            "of the data set. Give a folder outside the data set."
        )
    paths = [folder / f"{name}.png" for name in (_TURNED, *dataset.splits)]
    return [output for path in paths if (output := picture_output("pictures", path, folder))]


def draw_pictures(
    dataset: Dataset, diagnosis: Diagnosis, folder: Path, pages: str = "first", in_channels: int | None = None
) -> list[Drawn]:
    """Draws pictures and masks of a dataset for visual inspection.

    Pairs that cannot be read, or whose sizes differ, are left out. If a file would show nothing, it is not written, and
    the file of an earlier examination is removed.

    Args:
        dataset: the dataset.
        diagnosis: findings of the doctor in this dataset.
        folder: folder for the files; created if missing.
        pages: pages to read from multi-page TIFFs, as in `read_pixels`.
        in_channels: number of channels that a model takes, ≥ 1; a pixel without data in these channels is void. None
            for all channels except alpha.

    Returns:
        The files written: ``turned_by_exif.png`` if masks may not fit turned pictures, and one file for each split
        that has pairs to draw.
    """
    table = _table(dataset, diagnosis)
    reader = _Reader(pages, replace(diagnosis.taken, channels=in_channels), diagnosis.classes)
    written = []
    for output in planned_pictures(dataset, folder):
        name = output.path.name.removesuffix(".png")
        if name == _TURNED:
            drawn = _turned_sheet(dataset, diagnosis.turned, reader)
        else:
            drawn = _split_sheet(dataset, name, table, reader)
        if drawn is not None:
            sheet, words = drawn
            save_picture(sheet, output.path)
            written.append(Drawn(output.path, words))
        elif output.is_ours(output.path):
            output.path.unlink()
    return written


@dataclass(frozen=True)
class _Reader:
    """Reader of pictures and masks with the doctor's options."""

    pages: str
    taken: TakenChannels
    classes: ClassTable | None

    def picture(self, item: Item) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns a visible picture, H×W×3 uint8, and an H×W mask of pixels with data; None if all have data."""
        image, valid = self.taken.values(self.taken.read(item.image, self.pages))
        return visible(image, valid), valid

    def pair(self, item: Item) -> tuple[np.ndarray, np.ndarray | None, StoredMask] | None:
        """Returns a picture, its pixels with data, and its mask; None if they cannot be read or their sizes differ."""
        if item.mask is None:
            return None
        try:
            picture, valid = self.picture(item)
            mask = stored_mask(item.mask, item.image, self.classes)
        except Exception:  # a decoder failed or memory ran out; the findings name the file
            return None
        return (picture, valid, mask) if mask.values.size and mask.values.shape[:2] == picture.shape[:2] else None


def _turned_sheet(dataset: Dataset, turned: Sequence[TurnedPair], reader: _Reader) -> tuple[Image.Image, str] | None:
    """Draws pictures upright and as stored, each with the outline of its mask; None if no pair can be drawn."""
    tiles: list[Image.Image] = []
    for pair in turned:
        read = reader.pair(pair.item) if len(tiles) < 2 * MOST_TURNED else None
        if read is None:
            continue
        picture, _, mask = read
        stored = as_stored(picture, pair.orientation)
        if stored.shape != picture.shape:
            continue
        name = _relative(dataset, pair.item.image)
        tiles += [
            _tile(outlined(picture, mask.values, TURNED_SIDE), name, "as read: upright"),
            _tile(outlined(stored, mask.values, TURNED_SIDE), name, f"as stored: orientation {pair.orientation}"),
        ]
    if not tiles:
        return None
    number = counted(len(turned), "doubtful turned picture")
    words = f"{len(tiles) // 2} of {number}, upright and as stored, with the outline of the mask"
    return _grid(tiles, COLUMNS), words


def _split_sheet(
    dataset: Dataset, split: str, table: ClassTable | None, reader: _Reader
) -> tuple[Image.Image, str] | None:
    """Draws up to `MOST_PAIRS` evenly chosen pairs of a split, with a legend of the classes in them."""
    items = dataset.splits[split]
    tiles: dict[int, Image.Image] = {}
    present: set[int] = set()
    for at in _evenly(len(items), MOST_PAIRS):
        if len(tiles) == MOST_PAIRS or table is None:
            break
        read = reader.pair(items[at])
        labels = None if read is None else _labels(read[2], table, read[1])
        if read is None or labels is None:
            continue
        present |= set(np.unique(labels).tolist())
        name = _relative(dataset, items[at].image)
        tiles[at] = _tile(colored(read[0], labels, sheet_colors(table), SIDE), name)
    if table is None or not tiles:
        return None
    sheet = _grid([tiles[at] for at in sorted(tiles)], COLUMNS)
    words = f"{len(tiles)} of {counted(len(items), 'pair')} of {split}"
    return with_legend(sheet, list(_legend(table, present)), _TEXT), words


def outlined(picture: np.ndarray, mask: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture in display size, with a line along the edges of its mask.

    Args:
        picture: H×W×3 uint8.
        mask: H×W of any integer type, or H×W×3 colours.
        side: longest side of the result, in pixels; small pictures are enlarged by a whole number.

    Returns:
        h×w×3 uint8, `OUTLINE_COLOR` on both sides of each edge of the mask.
    """
    size, times = _shown_size(picture.shape, side)
    shown = _resized(picture, size, times)
    edges = mask_edges(_enlarged(mask, times))
    if not times:
        edges = _covered(edges, size) > 0
    shown[edges] = OUTLINE_COLOR
    return shown


def colored(picture: np.ndarray, labels: np.ndarray, colors: Sequence[Color], side: int) -> np.ndarray:
    """Returns a picture in display size, with the outlines of its classes and a tint of the class colour inside.

    Objects thinner than a pixel of the result keep their outline. A class whose colour is black is not drawn. Pixels
    without a class are striped.

    Args:
        picture: H×W×3 uint8.
        labels: H×W class indices, 255 for ignored pixels and `UNKNOWN` for values that no class lists.
        colors: colours of the classes.
        side: longest side of the result, in pixels; small pictures are enlarged by a whole number.

    Returns:
        h×w×3 uint8.
    """
    size, times = _shown_size(picture.shape, side)
    shown = _resized(picture, size, times).astype(np.float32)
    labels = _enlarged(labels, times)
    most, inside = np.zeros(shown.shape[:2], np.float32), np.full(shown.shape[:2], -1)
    outlines: list[tuple[np.ndarray, np.ndarray, int]] = []
    for index in np.unique(labels).tolist():
        here = labels == index
        covered = _covered(here, size) if not times else here.astype(np.float32)
        inside[covered > most] = index
        most = np.maximum(most, covered)
        if index < len(colors) and any(colors[index]):
            around = np.ones((5, 5) if times > 1 else (3, 3), np.uint8)  # 2 displayed pixels if enlarged
            line = here & (cv2.erode(here.astype(np.uint8), around) == 0)
            outlines.append((line if times else _covered(line, size) > 0, covered, index))
    stripes = np.add.outer(np.arange(shown.shape[0]), np.arange(shown.shape[1])) // _STRIPE % 2 == 0
    for index, color in _all_colors(colors):
        if index >= len(colors):
            shown[(inside == index) & stripes] = color
        elif any(color):
            at = inside == index
            shown[at] = shown[at] * (1 - _OPACITY) + np.array(color, np.float32) * _OPACITY
    most = np.zeros_like(most)
    for line, covered, index in outlines:
        at = line & (covered > most)
        shown[at] = colors[index]
        most = np.where(at, covered, most)
    return shown.round().astype(np.uint8)


def sheet_colors(table: ClassTable) -> tuple[Color, ...]:
    """Returns the table's colours of the classes, or the colours of Pascal VOC if two classes share a colour."""
    return table.colors if len(set(table.colors)) == len(table) else default_colors(len(table))


def _all_colors(colors: Sequence[Color]) -> Iterator[tuple[int, Color]]:
    yield from enumerate(colors)
    yield IGNORE_INDEX, NO_DATA_COLOR
    yield UNKNOWN, UNKNOWN_COLOR


def _legend(table: ClassTable, present: set[int]) -> Iterator[tuple[str, Color]]:
    names = fonts.labels(table.names)
    for index, color in _all_colors(sheet_colors(table)):
        if index in present:
            name = {IGNORE_INDEX: "striped: ignored or no data", UNKNOWN: "striped: value of no class"}.get(index)
            yield name or names[index] + ("" if any(color) else " (not coloured)"), color


def _table(dataset: Dataset, diagnosis: Diagnosis) -> ClassTable | None:
    """Returns a class table for the masks.

    It is the dataset's table if table and masks both use numbers or both use colours. Otherwise it is the table that
    the doctor proposes, or a table of raw values if there is no proposal.
    """
    if diagnosis.classes and "wrong_mode" not in [finding.kind for finding in diagnosis.errors]:
        return diagnosis.classes
    return diagnosis.proposed_classes or _table_of_values(dataset)


def _table_of_values(dataset: Dataset) -> ClassTable | None:
    """Returns a class table in which each of the most frequent values of a sample of masks is a class."""
    found: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}
    for items in dataset.splits.values():
        for at in _evenly(len(items), MOST_PAIRS)[:MOST_PAIRS]:
            item = items[at]
            try:
                values = stored_mask(item.mask, item.image, None).values if item.mask else np.zeros((0, 0), np.uint8)
            except Exception:  # the findings name the file
                continue
            in_color = values.ndim == 3
            codes, counts = np.unique(packed_colors(values) if in_color else values, return_counts=True)
            found[in_color].update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
    in_color = found[True].total() > found[False].total()
    codes = sorted(code for code, _ in found[in_color].most_common(IGNORE_INDEX))
    raw = [(unpacked_color(code) if in_color else code,) for code in codes]
    names = tuple(f"value {values[0]}" for values in raw)
    return ClassTable(names, default_colors(len(raw)), tuple(raw)) if raw else None


def _labels(stored: StoredMask, table: ClassTable, valid: np.ndarray | None) -> np.ndarray | None:
    """Returns H×W class indices, with 255 for void and `UNKNOWN` for other values; None if the table does not fit."""
    values = stored.values
    if stored.palette and values.ndim == 2 and table.color_coded:
        values = as_colors(values, stored.palette)
    try:
        labels = table.look_up(values)
    except AtrousError:
        return None
    if stored.nodata is not None and values.ndim == 2:
        labels[(labels == UNKNOWN) & (values == stored.nodata)] = IGNORE_INDEX
    return labels if valid is None else np.where(valid, labels, IGNORE_INDEX)


def _evenly(count: int, some: int) -> list[int]:
    """Returns all numbers below ``count``: first ``some`` evenly chosen numbers, then all others, as replacements."""
    first = [at * count // some for at in range(some)] if count > some else [*range(count)]
    step = max(1, count // some)
    return [*dict.fromkeys([*first, *(at for start in range(step) for at in range(start, count, step))])]


def _shown_size(shape: tuple[int, ...], side: int) -> tuple[tuple[int, int], int]:
    """Returns the displayed (width, height) of a picture and its factor of enlargement, which is 0 for a reduction."""
    height, width = shape[:2]
    longest = max(height, width)
    if longest <= side:
        times = side // longest
        return (width * times, height * times), times
    return (max(1, round(width * side / longest)), max(1, round(height * side / longest))), 0


def _resized(picture: np.ndarray, size: tuple[int, int], times: int) -> np.ndarray:
    if times:
        return np.ascontiguousarray(_enlarged(picture, times))
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)


def _enlarged(array: np.ndarray, times: int) -> np.ndarray:
    return array.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else array


def _covered(here: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a smaller array with the share of True in the area of each pixel, 0–1."""
    return cv2.resize(here.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _relative(dataset: Dataset, path: Path) -> str:
    return str(path.relative_to(dataset.root) if path.is_relative_to(dataset.root) else path)


def _tile(picture: np.ndarray, *lines: str) -> Image.Image:
    """Returns a picture with lines of text below it; a line that is too long is cut at its left end."""
    height, width = picture.shape[:2]
    wide = max(width, SIDE)
    tile = Image.new("RGB", (wide, height + round(1.5 * _TEXT * len(lines))), "white")
    tile.paste(Image.fromarray(picture))
    for row, line in enumerate(lines):
        text = fonts.drawable(line)
        while fonts.text_width(text, _TEXT) > wide:
            text = f"…{text[2:]}"
        fonts.draw_text(tile, (0, height + (1.5 * row + 0.25) * _TEXT), text, _TEXT, "black", "la")
    return tile


def _grid(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Returns a white sheet with the tiles in rows, with a margin around each tile."""
    wide = max(tile.width for tile in tiles)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    width = MARGIN + (wide + MARGIN) * min(columns, len(tiles))
    sheet = Image.new("RGB", (width, MARGIN + sum(height + MARGIN for height in heights)), "white")
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + column * (wide + MARGIN), top))
        top += height + MARGIN
    return sheet
