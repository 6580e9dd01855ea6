"""Turns each scene of a dataset into one item per window, and keeps windows of one place in one split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from atrous.data.dataset import Dataset, Item
from atrous.data.file_of_picture import file_of_picture
from atrous.data.input_files import INPUTS_FILE
from atrous.data.layouts.rasters import RASTERS
from atrous.data.rasters.scene_windows import WindowPlace, scene_size, window_place
from atrous.data.sources.source import Window
from atrous.data.splits.random_split import seeded_split
from atrous.errors import AtrousError

#: Height and width of windows in pixels, if none is given.
WINDOW = 512
#: Smallest number of scenes or groups of scenes that are divided into splits as a whole. With fewer, one scene more or
#: less in a split changes the scores too much, so places inside the scenes are divided.
LEAST_SCENES = 10
#: Number of places into which fewer scenes are divided, at least.
LEAST_PLACES = 20
#: Largest side of a place in windows. Larger places have a shorter border, along which splits resemble each other.
LARGEST_PLACE = 8
#: Number that makes the random shifts of windows independent of the random numbers of the augmentation.
_STREAM = 1


def with_windows(dataset: Dataset, side: int | None = None) -> Dataset:
    """Returns a dataset whose items are the windows of its scenes; other datasets are returned unchanged.

    The windows of a scene have nearly the same size and do not overlap. If split lists name the scenes, or if there are
    enough scenes, all windows of a scene are in one split. Otherwise the scenes are divided into square places of
    several windows, and whole places are assigned to splits at random.

    Args:
        dataset: dataset whose items are whole scenes.
        side: largest height and width of a window in pixels, ≥ 1; None for 512.

    Raises:
        AtrousError: a scene is damaged, an input is normalised by the mean of each picture, or a window size is given
            for a dataset without scenes.
    """
    if dataset.layout != RASTERS:
        if side is not None:
            raise AtrousError(
                f"{dataset.root}: the window is for the layout '{RASTERS}', and this dataset has the layout "
                f"'{dataset.layout}': leave it out."
            )
        return dataset
    if per_image := next((one.name for one in dataset.inputs if one.normalize == "per_image"), None):
        raise AtrousError(
            f"{dataset.root}: scenes are read window by window, so {per_image} cannot be normalised by the mean of "
            f"each picture: write normalize: fixed for it in {INPUTS_FILE}."
        )
    sizes = {item.image: scene_size(item.image) for item in _items(dataset) if item.image.exists()}
    side = side or WINDOW
    groups = {item.image if item.group is None else item.group for item in dataset.unlisted}
    if not dataset.unlisted or len(groups) >= LEAST_SCENES:
        splits = {name: _windows_of_all(items, sizes, side, 0) for name, items in dataset.splits.items()}
        return replace(dataset, splits=splits, unlisted=_windows_of_all(dataset.unlisted, sizes, side, 0))
    windows = _windows_of_all(dataset.unlisted, sizes, side, _side_of_places(list(sizes.values()), side))
    parts, note = seeded_split(windows)
    _, before = seeded_split(dataset.unlisted)
    listed = {
        name: items
        for name, items in dataset.splits.items()
        if not {item.image for item in items} & {item.image for item in dataset.unlisted}
    }
    others = {name: _windows_of_all(items, sizes, side, 0) for name, items in listed.items()}
    notes = tuple(note if old == before else old for old in dataset.notes)
    return replace(dataset, splits={**parts, **others}, notes=notes, unlisted=windows)


def moved(item: Item, *, seed: int, epoch: int, index: int) -> Item:
    """Returns the item with its window moved at random inside its region, so that training sees every position.

    The shift is at most half of the window in each direction. It depends on the arguments alone.

    Args:
        item: any item; one without a region is returned unchanged.
        seed: the run's seed, ≥ 0.
        epoch: the epoch, ≥ 0.
        index: the item's number in its dataset, ≥ 0.
    """
    place = window_place(item.image)
    if item.region is None or place is None:
        return item
    window, region = place.window, Window(*item.region)
    rng = np.random.default_rng([seed, epoch, index, _STREAM])
    low = np.maximum((region.top, region.left), (window.top - window.height // 2, window.left - window.width // 2))
    high = np.minimum(
        (region.top + region.height - window.height, region.left + region.width - window.width),
        (window.top + window.height // 2, window.left + window.width // 2),
    )
    top, left = rng.integers(low, high, endpoint=True).tolist()
    return with_window(item, Window(top, left, window.height, window.width))


def with_window(item: Item, window: Window) -> Item:
    """Returns the item of a scene, or of a window of it, with the files of a window.

    Args:
        item: item of the scene, or of another window.
        window: the rectangle in pixels of the scene.
    """

    def inside(path: Path) -> Path:
        return WindowPlace(file_of_picture(path), window).path

    return replace(
        item,
        image=inside(item.image),
        mask=None if item.mask is None else inside(item.mask),
        more=tuple(map(inside, item.more)),
    )


def _items(dataset: Dataset) -> Iterable[Item]:
    return (item for part in (*dataset.splits.values(), dataset.unlisted) for item in part)


def _side_of_places(sizes: list[tuple[int, int]], side: int) -> int:
    """Returns the side of places in windows: the largest power of two that gives enough places."""
    place = LARGEST_PLACE
    while place > 1 and sum(_count(_count(h, side), place) * _count(_count(w, side), place) for h, w in sizes) < (
        LEAST_PLACES
    ):
        place //= 2
    return place


def _windows_of_all(
    items: Iterable[Item], sizes: dict[Path, tuple[int, int]], side: int, place: int
) -> tuple[Item, ...]:
    return tuple(
        one
        for item in items
        for one in (_windows_of(item, sizes[item.image], side, place) if item.image in sizes else (item,))
    )


def _windows_of(item: Item, size: tuple[int, int], side: int, place: int) -> tuple[Item, ...]:
    """Returns the items of a scene's windows.

    Args:
        item: item of the scene.
        size: (H, W) of the scene in pixels.
        side: largest side of a window in pixels.
        place: side of a place in windows; 0 if the whole scene is one place.
    """
    found = []
    rows, columns = (_edges(length, side) for length in size)
    for row in range(len(rows) - 1):
        for column in range(len(columns) - 1):
            window = _between(rows, columns, row, column, 1)
            corner = (row // place * place, column // place * place) if place else (0, 0)
            region = _between(rows, columns, *corner, place or max(len(rows), len(columns)))
            group = item.name if item.group is None else item.group
            found.append(
                replace(
                    with_window(item, window),
                    name=f"{item.name}_{window.top:05d}_{window.left:05d}",
                    group=f"{group}@{corner[0]}-{corner[1]}" if place else group,
                    region=tuple(region),
                )
            )
    return tuple(found)


def _between(rows: list[int], columns: list[int], row: int, column: int, count: int) -> Window:
    """Returns the rectangle of a number of windows from a row and a column of windows on."""
    bottom, right = rows[min(row + count, len(rows) - 1)], columns[min(column + count, len(columns) - 1)]
    return Window(rows[row], columns[column], bottom - rows[row], right - columns[column])


def _edges(length: int, side: int) -> list[int]:
    """Returns the borders of the fewest parts of at most `side` pixels that divide a length equally."""
    count = _count(length, side)
    return [length * index // count for index in range(count + 1)]


def _count(length: int, side: int) -> int:
    return -(-length // side)
