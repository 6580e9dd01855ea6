"""Turns each scene of a dataset into one item per window, and keeps windows of the same ground in one split.

A *place* is a rectangular part of a scene. Places are used if there are only a few scenes: whole places are then
assigned to splits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from atrous.data.dataset import Dataset, Item
from atrous.data.file_of_picture import file_of_picture
from atrous.data.input_files import INPUTS_FILE
from atrous.data.layouts.rasters import RASTERS
from atrous.data.rasters.ground_lattice import lattice_of, overlapping, parts_on
from atrous.data.rasters.raster_grid import RasterGrid, grid_of, grid_text, same_grid
from atrous.data.rasters.scene_labels import scenes_without_labels
from atrous.data.rasters.scene_windows import WindowPlace, scene_size, window_place
from atrous.data.rasters.vector_files import is_vector_file
from atrous.data.sources.source import Window
from atrous.data.splits.random_split import seeded_split
from atrous.errors import AtrousError

#: Height and width of windows in pixels, if none is given.
WINDOW = 512
#: Smallest number of scenes, or of groups of scenes, for which whole scenes are assigned to splits. With fewer scenes,
#: one scene more or less in a split would change the scores too much, so places inside the scenes are assigned.
LEAST_SCENES = 10
#: If there are fewer scenes, they are divided into at least this number of places.
LEAST_PLACES = 20
#: Largest and smallest side of a place in pixels. Along the border of a place, splits resemble each other; larger
#: places have less border in total.
LARGEST_PLACE, SMALLEST_PLACE = 4096, 64
#: Largest number of scenes that a note names.
MOST_NAMED = 5
#: There is a warning if at least this share of the training windows is smaller than the ground that a crop may show.
SMALL_SHARE = 0.1
#: Number that makes the random shifts of windows independent of the random numbers of the augmentation.
_STREAM = 1


def with_windows(dataset: Dataset, side: int | None = None) -> Dataset:
    """Returns a dataset whose items are the windows of its scenes; other datasets are returned unchanged.

    The windows of a scene have nearly the same size and do not overlap. If split lists name the scenes, or if there are
    enough scenes, all windows of a scene are in one split. Without lists, scenes that overlap on the ground are in the
    same split. If there are few scenes and no lists, the scenes are divided into rectangular places, and whole places
    are assigned to splits at random. Scenes that overlap are divided along common lines, so that the same ground is in
    one split. The splits do not depend on the size of the windows.

    Args:
        dataset: dataset whose items are whole scenes.
        side: largest height and width of a window in pixels, ≥ 1; None for 512.

    Raises:
        AtrousError: a scene is damaged, an input is normalised by the mean of each picture, the window size is below
            1, or it is given for a dataset without scenes.
    """
    if side is not None and side < 1:
        raise AtrousError(f"the height and width of a window must be at least 1 pixel, got {side}.")
    if dataset.layout != RASTERS:
        if side is not None:
            raise AtrousError(
                f"{dataset.root}: only the layout '{RASTERS}' has windows, and this dataset has the layout "
                f"'{dataset.layout}'. Leave out the window."
            )
        return dataset
    if per_image := next((one.name for one in dataset.inputs if one.normalize == "per_image"), None):
        raise AtrousError(
            f"{dataset.root}: scenes are read window by window, so {per_image} cannot be normalised by the mean of "
            f"each picture: write normalize: fixed for it in {INPUTS_FILE}."
        )
    sizes = {item.image: scene_size(item.image) for item in _items(dataset) if item.image.exists()}
    _check_further_inputs(dataset)
    dataset = replace(dataset, notes=(*dataset.notes, *_notes_on_labels(dataset)))
    if dataset.unlisted and dataset.groups_from not in ("file", "pattern"):  # groups that the user gives stay together
        dataset = _by_ground(dataset, sizes)

    def windows(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(one for item in items for one in _windows_of(item, sizes.get(item.image), side or WINDOW))

    splits = {name: windows(items) for name, items in dataset.splits.items()}
    return replace(dataset, splits=splits, unlisted=windows(dataset.unlisted))


def _by_ground(dataset: Dataset, sizes: Mapping[Path, tuple[int, int]]) -> Dataset:
    """Splits a dataset without lists of splits, so that no ground is in two splits.

    The splits are made of whole scenes. If there are only a few scenes, they are made of blocks of the ground.

    The splits do not depend on the size of the windows.
    """
    items = dataset.unlisted
    grids = [_known_grid(item.image) for item in items]
    together = overlapping(grids)
    names = [_group_of(item) for item in items]
    for members in together:
        shared = {names[index] for index in members}
        names = [names[members[0]] if name in shared else name for name in names]
    if len(set(names)) < LEAST_SCENES:
        items = _places(items, sizes, grids, together)
        length = max(side for place in items for side in (place.region or ())[2:])
        count = len({place.group for place in items})
        how = f"The scenes are divided into {count} places of at most {length}×{length} pixels. "
    elif together:
        items = tuple(replace(item, group=name) for item, name in zip(items, names, strict=True))
        how = "Scenes that overlap on the ground are one group. "
    else:
        return dataset
    splits, note = seeded_split(items)
    _, before = seeded_split(dataset.unlisted)
    own = {item.image for item in dataset.unlisted}
    others = {name: part for name, part in dataset.splits.items() if not own & {item.image for item in part}}
    notes = tuple(how + note if old == before else old for old in dataset.notes)
    return replace(dataset, splits={**splits, **others}, unlisted=items, notes=notes)


def moved(item: Item, *, seed: int, epoch: int, index: int) -> Item:
    """Returns the item with its window moved at random inside its region, so that training sees all window positions.

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
    """Returns an item for a window of a scene, with the same files and other data of the item.

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


def small_windows(items: Sequence[Item], crop: tuple[int, int] | None, scale: float) -> str | None:
    """Returns a warning if windows of scenes are smaller than the area that a crop may cover.

    Args:
        items: training items.
        crop: height and width of the crops in pixels; None for whole windows.
        scale: smallest scale factor of the augmentation, > 0.

    Returns:
        The warning; None if fewer than a tenth of the windows are too small, or if there are no windows, or if ``crop``
        is None.
    """
    if crop is None:
        return None
    high, wide = (math.ceil(side / scale) for side in crop)
    places = [(place.window, item.region) for item in items if item.region and (place := window_place(item.image))]
    small = [region for window, region in places if window.height < high or window.width < wide]
    if not small or len(small) < SMALL_SHARE * len(places):
        return None
    narrow = sum(region[2] < high or region[3] < wide for region in small)
    cures = []
    if narrow < len(small):
        cures.append(f"larger windows (--data.window {2 * max(high, wide)})")
    if narrow:
        cures.append("a smaller crop (--augment.crop) or a larger smallest scale (--augment.scale)")
    why = f" Of these, {narrow} are whole scenes, or whole places of the random split." if narrow else ""
    return (
        f"{len(small)} of {len(places)} training windows are smaller than {wide}×{high} pixels, which is the crop "
        f"divided by the smallest scale, so crops have borders without labels.{why} Use {', and '.join(cures)}."
    )


def largest_window(items: Sequence[Item]) -> int | None:
    """Returns the largest height or width of windows of scenes, in pixels; None if no item is a window.

    Args:
        items: items of a dataset.
    """
    windows = [place.window for item in items if (place := window_place(item.image)) is not None]
    return max((max(window.height, window.width) for window in windows), default=None)


def _items(dataset: Dataset) -> Iterable[Item]:
    return (item for part in (*dataset.splits.values(), dataset.unlisted) for item in part)


def _notes_on_labels(dataset: Dataset) -> list[str]:
    """Returns one note for each label file that leaves some of its scenes without labels.

    Raises an error for a label file that overlaps none of its scenes.
    """
    scenes: dict[Path, dict[Path, None]] = {}
    for item in _items(dataset):
        if item.mask is not None and item.image.exists() and item.mask.exists():
            scenes.setdefault(item.mask, {})[item.image] = None
    notes = []
    for labels, own in scenes.items():
        if not is_vector_file(labels) and _known_grid(labels) is None:
            continue
        if missed := scenes_without_labels(labels, list(own)):
            names = ", ".join(sorted(scene.name for scene in missed)[:MOST_NAMED])
            more = f" and {len(missed) - MOST_NAMED} more" if len(missed) > MOST_NAMED else ""
            if is_vector_file(labels):
                notes.append(f"{labels} has no polygon in the scenes {names}{more}: all their pixels have no object.")
            else:
                notes.append(f"{labels} covers no pixel of the scenes {names}{more}: none of their pixels has a label.")
    return notes


def _check_further_inputs(dataset: Dataset) -> None:
    """Checks that the files of further inputs are on the grid of their scene, because one window is read from both."""
    for item in dict.fromkeys(_items(dataset)):
        for path in item.more:
            if item.image.exists() and path.exists() and not same_grid(grid_of(item.image), grid_of(path)):
                raise AtrousError(
                    f"{path}: it is not on the grid of its scene {item.image.name}. It has {grid_text(grid_of(path))}, "
                    f"and the scene has {grid_text(grid_of(item.image))}. Resample it to the grid of the scene."
                )


def _places(
    items: Sequence[Item],
    sizes: Mapping[Path, tuple[int, int]],
    grids: Sequence[RasterGrid | None],
    together: Sequence[Sequence[int]],
) -> tuple[Item, ...]:
    """Divides scenes into places; the side of a place is the largest power of two that gives enough places.

    The arguments are those of `_places_of_side`.
    """
    side = LARGEST_PLACE
    while True:
        places = _places_of_side(items, sizes, grids, together, side)
        if side <= SMALLEST_PLACE or len({place.group for place in places}) >= LEAST_PLACES:
            return places
        side //= 2


def _places_of_side(
    items: Sequence[Item],
    sizes: Mapping[Path, tuple[int, int]],
    grids: Sequence[RasterGrid | None],
    together: Sequence[Sequence[int]],
    side: int,
) -> tuple[Item, ...]:
    """Returns the places of scenes as items; places of one group show the same ground.

    Args:
        items: items of the scenes.
        sizes: (H, W) of each scene in pixels.
        grids: grid of each scene; None if it is unknown.
        together: indices of scenes that overlap, as `overlapping` returns them.
        side: largest side of a place in pixels.
    """
    parts = [_parts(Window(0, 0, *sizes[item.image]), side) for item in items]
    names = [_group_of(item) for item in items]
    for members in together:
        shared = {index: grid for index in members if (grid := grids[index]) is not None}
        lattice = lattice_of([*shared.values()], side)
        for index, grid in shared.items():
            parts[index], names[index] = parts_on(lattice, grid), names[members[0]]
    return tuple(
        replace(item, name=f"{item.name}_{row}_{column}", group=f"{name}@{row}-{column}", region=tuple(region))
        for item, name, own in zip(items, names, parts, strict=True)
        for (row, column), region in own.items()
    )


def _group_of(item: Item) -> str:
    return item.name if item.group is None else item.group


def _known_grid(scene: Path) -> RasterGrid | None:
    try:
        return grid_of(scene)
    except AtrousError:  # reported when the labels are read
        return None


def _windows_of(item: Item, size: tuple[int, int] | None, side: int) -> tuple[Item, ...]:
    """Returns the items of the windows of a scene or a place; a missing scene that a list names stays one item."""
    if size is None:
        return (item,)
    region = Window(*(item.region or (0, 0, *size)))
    return tuple(
        replace(
            with_window(item, window),
            name=f"{file_of_picture(item.image).stem}_{window.top:05d}_{window.left:05d}",
            group=_group_of(item),
            region=tuple(region),
        )
        for window in _parts(region, side).values()
    )


def _parts(region: Window, side: int) -> dict[tuple[int, int], Window]:
    """Divides a rectangle into the fewest equal parts with sides of at most `side` pixels, by row and column."""
    rows, columns = _edges(region.height, side), _edges(region.width, side)
    return {
        (row, column): Window(region.top + top, region.left + left, bottom - top, right - left)
        for row, (top, bottom) in enumerate(pairwise(rows))
        for column, (left, right) in enumerate(pairwise(columns))
    }


def _edges(length: int, side: int) -> list[int]:
    count = _count(length, side)
    return [length * index // count for index in range(count + 1)]


def _count(length: int, side: int) -> int:
    return -(-length // side)
