"""Reads the labels of a scene in a window: rasters on any grid, and polygons of vector files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from atrous.data.file_version import MOST_FILES, Version, file_version
from atrous.data.mask_value_map import BACKGROUND_NAMES, ClassTable
from atrous.data.rasters.raster_grid import RasterGrid, grid_of, grid_text, same_grid
from atrous.data.rasters.raster_labels import RasterLabels, has_labels_in, read_raster_labels
from atrous.data.rasters.reprojection import bounds_in
from atrous.data.rasters.scene_windows import WindowPlace
from atrous.data.rasters.vector_files import VectorLayer, has_polygons_in, is_vector_file, open_layer
from atrous.data.rasters.vector_labels import VectorLabels
from atrous.data.raw_values import NO_NUMBER, numbers_of
from atrous.errors import AtrousError

#: Largest number of attributes and values that a message names.
_SHOWN = 8
#: A number as the value of an attribute.
_NUMBER = re.compile(r"\s*[-+]?\d+(\.\d*)?\s*")


class _Drawing(NamedTuple):
    """Arguments with which polygons are drawn; see `VectorLabels.window`."""

    labels: VectorLabels
    value_of: dict[str, int]
    default: int | None
    order: tuple[int, ...]


def has_own_grid(place: WindowPlace, scene: Path) -> bool:
    """Returns whether the labels of a window must be drawn or resampled on the grid of the scene.

    Args:
        place: window of the labels, in pixels of the scene.
        scene: file of the scene.

    Raises:
        AtrousError: rasterio is not installed, or a file is missing or damaged.
    """
    if is_vector_file(place.file):
        return True
    return not _on_one_grid(place.file, file_version(place.file), scene, file_version(scene))


def read_scene_labels(place: WindowPlace, scene: Path, classes: ClassTable | None) -> RasterLabels:
    """Reads labels that have another grid or no grid, on the grid of a scene.

    The class of a polygon is the value of an attribute: the name of a class, or one of its ``segments`` in
    classes.yaml. ``attribute`` in classes.yaml names the attribute, whose values may then also be raw values. Without
    this key, the attribute is used whose values are all names or segments of classes, or are ignored. If there is no
    such attribute, and the class table has only one class besides the background, no segments and no ignored values,
    all polygons belong to this class. Pixels outside all polygons are background; without a class background, they have
    no class.

    Args:
        place: window of the labels, in pixels of the scene.
        scene: file of the scene.
        classes: class table of the dataset, which the polygons of vector files need.

    Raises:
        AtrousError: as for `read_raster_labels` and `VectorLabels.window`, or the classes of polygons are not certain.
    """
    grid, window = grid_of(scene), place.window
    if not is_vector_file(place.file):
        if classes is not None and classes.color_coded:
            return read_raster_labels(place.file, grid, window, in_colors=True)
        return read_raster_labels(place.file, grid, window, () if classes is None else classes.listed_numbers)
    if classes is None:
        raise AtrousError(
            f"{place.file}: the polygons need a classes.yaml that names the classes. The file has "
            f"{_described(VectorLabels(place.file))}."
        )
    drawing = _drawing(place.file, file_version(place.file), classes)
    drawn = drawing.labels.window(grid, window, drawing.value_of, drawing.default, drawing.order)
    return RasterLabels(drawn.values, drawn.nodata, None)


@lru_cache(maxsize=MOST_FILES)
def _on_one_grid(labels: Path, version: Version, scene: Path, version_of_scene: Version) -> bool:
    """Compares two grids; unchanged files are compared once."""
    return same_grid(grid_of(labels), grid_of(scene))


@lru_cache(maxsize=MOST_FILES)
def _drawing(path: Path, version: object, classes: ClassTable) -> _Drawing:
    """Finds the attribute of the classes; an unchanged file is searched once."""
    if classes.color_coded:
        raise AtrousError(f"{path}: polygons have no colours: list numbers, or no raw values, in classes.yaml.")
    labels = VectorLabels(path, classes.attribute or None)
    values = [numbers_of(raw)[0] for raw in classes.raw]
    background = next((i for i, name in enumerate(classes.names) if name.strip().lower() in BACKGROUND_NAMES), None)
    default = None if background is None else values[background]
    order = tuple(reversed(values)) if classes.overlap == "last" else ()
    if classes.attribute:
        return _Drawing(labels, _texts_of(classes, numbers=True), default, order)
    texts = _texts_of(classes, numbers=False)
    fitting = [name for name in labels.attributes if _fits(labels, name, texts)]
    if len(fitting) == 1:
        return _Drawing(VectorLabels(path, fitting[0]), texts, default, order)
    objects = [value for index, value in enumerate(values) if index != background]
    lists_values = bool(classes.segments or classes.ignored_values)
    if not fitting and not lists_values and background is not None and len(objects) == 1:
        return _Drawing(labels, {"": objects[0]}, default, order)
    which = "no attribute has only values that belong to classes" if not fitting else f"{', '.join(fitting)} all fit"
    raise AtrousError(
        f"{path}: it is not certain which attribute names the class of a polygon: {which}. Write attribute: NAME into "
        f"classes.yaml, and its values as names of classes, under segments: of a class, or under ignore: of the file. "
        f"The file has {_described(labels)}."
    )


def _texts_of(classes: ClassTable, *, numbers: bool) -> dict[str, int]:
    """Returns the raw value that is drawn for each value of an attribute.

    Args:
        classes: class table of the dataset.
        numbers: whether raw values also stand for their class. An attribute such as a running number has them by
            chance, so they count only if the attribute is named. Positions of classes without a written raw value count
            only if no class has a number as its name or segment.

    Raises:
        AtrousError: a written raw value is also the name or a segment of another class.
    """
    segments = classes.segments or ((),) * len(classes)
    drawn = [numbers_of(raw)[0] for raw in classes.raw]
    texts = dict.fromkeys(classes.ignored_values, numbers_of(classes.ignore or (NO_NUMBER,))[0])
    owners = dict.fromkeys(classes.ignored_values, "ignore")
    for values in (segments, [(name,) for name in classes.names]):  # segments of all classes come before all names
        for name, raw, own in zip(classes.names, drawn, values, strict=True):
            for text in own:
                texts.setdefault(text, raw)
                owners.setdefault(text, name)
    if not numbers:
        return texts
    rows = [*zip(classes.names, classes.raw, strict=True)]
    written = [row for index, row in enumerate(rows) if index not in classes.unwritten]
    for name, values in (("ignore", classes.ignore), *written):
        for number in numbers_of(values):
            if (owner := owners.setdefault(str(number), name)) != name:
                raise AtrousError(
                    f"the raw value {number} of '{name}' in classes.yaml is also listed for '{owner}', as its name or "
                    f"under segments:, so the class of polygons with the {classes.attribute} {number} is not certain. "
                    "List it for one of both only."
                )
            texts.setdefault(str(number), numbers_of(values)[0])
    if not any(_NUMBER.fullmatch(text) for own in (*segments, classes.names) for text in own):
        for index in classes.unwritten:  # else the numbers of the file are a code of its own, not positions
            texts.setdefault(str(drawn[index]), drawn[index])
    return texts


def _fits(labels: VectorLabels, attribute: str, texts: dict[str, int]) -> bool:
    values = labels.values(attribute)
    return bool(values) and all(value in texts for value in values)


def _described(labels: VectorLabels) -> str:
    """Returns the attributes of a file with their first values, for messages."""
    listed = []
    counts = {name: labels.values(name) for name in labels.attributes}
    filled = [name for name, values in counts.items() if set(values) - {""}]
    for name in filled[:_SHOWN]:
        values = counts[name]
        more = ", …" if len(values) > _SHOWN else ""
        listed.append(f"{name} ({', '.join(list(values)[:_SHOWN])}{more})")
    return f"the attributes {'; '.join(listed)}" if listed else "no attributes"


def scenes_without_labels(labels: Path, scenes: Sequence[Path]) -> list[Path]:
    """Returns the scenes that a file of labels does not show.

    They are the scenes that no polygon of a vector file touches, by bounding boxes, or the scenes of which no pixel
    centre is inside a label raster.

    Args:
        labels: the vector file or the label raster.
        scenes: files of the scenes.

    Raises:
        AtrousError: a file is missing or damaged, or the labels show none of the scenes.
    """
    grids = {scene: grid_of(scene) for scene in scenes}
    # scenes without a CRS are left out, because reading their labels raises an error
    known = {scene: grid for scene, grid in grids.items() if grid.crs is not None}
    if is_vector_file(labels):
        layer, noun = open_layer(labels), "polygons"
        missed = [scene for scene, grid in known.items() if not _touches(layer, grid)]
        where = f"The CRS of the file is {layer.crs[:60]}."
    else:
        noun, where = "labels", f"The labels have {grid_text(grid_of(labels))}."
        missed = [scene for scene, grid in known.items() if not has_labels_in(labels, grid)]
    if missed and len(missed) == len(scenes):
        which = missed[0].name if len(missed) == 1 else f"{missed[0].name} and {len(missed) - 1} more scenes"
        raise AtrousError(
            f"{labels}: the {noun} show another place than {which}, which has {grid_text(grids[missed[0]])}. {where} "
            "Correct the CRS or the coordinates of one of both, or give the labels of this scene."
        )
    return missed


def _touches(layer: VectorLayer, grid: RasterGrid) -> bool:
    bounds = bounds_in(grid, (0, 0, grid.height, grid.width), layer.crs)
    return bounds is not None and has_polygons_in(layer, bounds)
