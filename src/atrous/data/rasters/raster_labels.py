"""Reads rasters as labels of a scene, on the grid of the scene and window by window."""

from __future__ import annotations

import shlex
from collections.abc import Container
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atrous.data.class_colors import Color
from atrous.data.file_version import MOST_FILES
from atrous.data.formats.palettes import as_colors
from atrous.data.formats.tiff_page import Window, as_nodata
from atrous.data.rasters.date_line import full_turn, turns_to
from atrous.data.rasters.gdal_picture import GdalPicture
from atrous.data.rasters.raster_grid import RasterGrid, coordinates, grid_of, grid_text, same_grid
from atrous.data.rasters.reprojection import SQUARE, bounds_in, positions_in
from atrous.data.rasters.scene_windows import WindowPlace, window_mask
from atrous.data.raw_values import NO_NUMBER, whole_numbers
from atrous.data.sources.source import Window as SceneWindow
from atrous.errors import AtrousError

#: Largest number of pixels of the labels that are read at once.
MOST_PIXELS = 2**26
#: A pixel centre on the border of two pixels of the labels gets the right or the lower one. The same holds for a centre
#: that is before the border by at most this fraction of a label pixel, because coordinates are rounded.
ON_BORDER = 1e-6
#: Side of the windows in which a scene is searched for a pixel with a label.
SEARCHED = 1024


class RasterLabels(NamedTuple):
    """The labels in a window of a scene.

    Attributes:
        values: H×W integers, or H×W×3 for colours.
        nodata: the value that means "no data"; None if there is no such value. Pixels outside the label raster have
            this value. It is the nodata value that the file declares, otherwise `NO_NUMBER`.
        palette: colours by index, if the values are indices of a colour table; None otherwise.
        hidden: H×W booleans, True for pixels that a mask of the file hides; None if none is hidden.
    """

    values: np.ndarray
    nodata: int | None
    palette: tuple[Color, ...] | None
    hidden: np.ndarray | None = None


def read_raster_labels(
    path: str | Path,
    grid: RasterGrid,
    window: Window,
    listed: Container[int] = (),
    *,
    in_colors: bool = False,
) -> RasterLabels:
    """Reads a window of a label raster on the grid of a scene.

    A raster on the grid of the scene is read directly. A raster in another CRS, of another resolution or extent is
    resampled: each pixel of the scene gets the label at its centre (nearest neighbour). Windows that overlap agree.

    Values are those of `read_mask`: whole numbers of a float type become int64, and NaN becomes `NO_NUMBER`. Indices of
    a colour table stay indices unless colours are wanted. The file stays open for further windows.

    Args:
        path: the label raster, a file that rasterio reads.
        grid: grid of the scene.
        window: (top, left, height, width) in pixels of the scene, inside the scene.
        listed: raw values that the class table lists. If the nodata value of the file is one of these raw values,
            pixels outside the raster get `NO_NUMBER`, because these pixels belong to no class.
        in_colors: whether indices of a colour table become colours, for a class table that lists colours.

    Raises:
        AtrousError: rasterio or pyproj is not installed; the file is missing or damaged, or its values are not whole
            numbers; the labels show another place than the scene; or the labels are on another grid and a CRS is
            missing.
    """
    path = Path(path)
    own = grid_of(path)
    if same_grid(own, grid):
        return _stored(path, window, in_colors)
    if own.crs is None or grid.crs is None:
        raise _cannot_be_placed(path, own, grid)
    if not _overlaps(own, grid):
        raise AtrousError(
            f"{path}: the labels show another place than the scene. They have {grid_text(own)}, and the scene has "
            f"{grid_text(grid)}. Give the labels of this scene, or correct the coordinates of one of both."
        )
    labels, inside = _nearest(path, own, grid, window, in_colors)
    values, nodata, palette, hidden = labels
    if inside.all():
        return labels
    if values.ndim == 3:
        raise AtrousError(
            f"{path}: the labels are colours, and do not cover the scene: a pixel outside has no colour. Convert the "
            "labels to one band of class numbers, or extend them with a colour that classes.yaml lists under ignore."
        )
    void = NO_NUMBER if nodata is None or nodata in listed else nodata
    return RasterLabels(np.where(inside, values.astype(np.int64), void), void, palette, hidden)


def has_labels_in(path: str | Path, grid: RasterGrid) -> bool:
    """Returns whether at least one pixel centre of a scene is inside a label raster, whatever its value there.

    Args:
        path: the label raster.
        grid: grid of the scene. If labels and scene are on one grid, or a CRS is missing, the result is True, because
            positions are not compared.

    Raises:
        AtrousError: as for `read_raster_labels`.
    """
    own = grid_of(path)
    if own.crs is None or grid.crs is None or same_grid(own, grid):
        return True
    return _meets(own, grid)


@lru_cache(maxsize=MOST_FILES)
def _meets(own: RasterGrid, grid: RasterGrid) -> bool:
    if not _overlaps(own, grid):
        return False
    height, width = min(grid.height, SQUARE), min(grid.width, SQUARE)
    middle = ((grid.height - height) // 2, (grid.width - width) // 2, height, width)  # nearly always inside
    if _inside(grid, middle, own)[2].any():
        return True
    windows = ((top, left) for top in range(0, grid.height, SEARCHED) for left in range(0, grid.width, SEARCHED))
    return any(
        _inside(grid, (top, left, min(SEARCHED, grid.height - top), min(SEARCHED, grid.width - left)), own)[2].any()
        for top, left in windows
    )


def warp_command(path: str | Path, grid: RasterGrid) -> list[str] | None:
    """Returns the arguments of the program gdalwarp that resamples a label raster to the grid of a scene.

    Args:
        path: the label raster.
        grid: grid of the scene.

    Returns:
        The program and its arguments. If the labels have no CRS, ``CRS_OF_THE_LABELS`` stands for it. None if gdalwarp
        cannot write such a grid: the scene is rotated, or its rows go north, or it has no coordinates.
    """
    path, move = Path(path), grid.transform
    if not grid.has_place or move.b or move.d or move.a <= 0 or move.e >= 0:
        return None
    own = grid_of(path).crs
    systems = []
    if grid.crs is not None:
        systems = ["-t_srs", grid.crs_text]
        systems += ["-s_srs", "CRS_OF_THE_LABELS"] if own is None else []
    right, bottom = coordinates(move, grid.width, grid.height)
    extent = map(repr, map(float, (move.c, bottom, right, move.f)))
    # the size is given instead of -tr, because gdalwarp would compute the size from rounded numbers
    size = (str(grid.width), str(grid.height))
    target = path.with_name(f"{path.stem}_on_grid.tif")
    return ["gdalwarp", "-r", "near", *systems, "-te", *extent, "-ts", *size, str(path), str(target)]


def _cannot_be_placed(path: Path, own: RasterGrid, grid: RasterGrid) -> AtrousError:
    if not own.has_place:
        reason = "the labels have no coordinates"
        solution = "Give labels of the same size as the scene, or labels with coordinates."
    elif not grid.has_place:
        reason = "the scene has no coordinates"
        solution = "Give labels of the same size as the scene, or a scene with coordinates."
    elif grid.crs is None and own.crs is not None:
        reason = "the scene has no coordinate reference system"
        solution = "Write its system into the scene: gdal_edit.py -a_srs EPSG:CODE SCENE"
    else:
        reason = "the labels have no coordinate reference system"
        command = warp_command(path, grid)
        solution = "Resample them to the grid of the scene by nearest neighbour"
        solution += "." if command is None else f": {shlex.join(command)}"
    return AtrousError(
        f"{path}: the labels are not on the grid of the scene, and {reason}. The labels have {grid_text(own)}, and the "
        f"scene has {grid_text(grid)}. {solution}"
    )


@lru_cache(maxsize=MOST_FILES)
def _overlaps(own: RasterGrid, grid: RasterGrid) -> bool:
    """Returns False if the bounds of labels and scene have no common point in the CRS of the scene."""
    crs = grid.crs_text
    there = bounds_in(own, (0, 0, own.height, own.width), crs)
    here = bounds_in(grid, (0, 0, grid.height, grid.width), crs)
    if there is None or here is None:
        return there is None  # labels of the whole Earth may have no corner in the CRS of the scene
    return (
        there[1] < here[3]
        and here[1] < there[3]
        and bool(turns_to(there[0], there[2], (here[0], here[2]), full_turn(crs)))
    )


def _nearest(
    path: Path, own: RasterGrid, grid: RasterGrid, window: Window, in_colors: bool
) -> tuple[RasterLabels, np.ndarray]:
    """Returns the labels at the pixel centres of a window, and which pixels are inside the label raster."""
    columns, rows, inside = _inside(grid, window, own)
    columns, rows = (np.where(inside, one, np.nan) for one in (columns, rows))
    if not inside.any():
        columns, rows = np.zeros_like(columns), np.zeros_like(rows)
    left, right, first, last = (int(f(one)) for one in (columns, rows) for f in (np.nanmin, np.nanmax))
    top, tall, wide = first, last - first + 1, right - left + 1
    if tall * wide > MOST_PIXELS and window[2] * window[3] > 1:
        parts = [_nearest(path, own, grid, part, in_colors) for part in _halves(window)]
        axis = 0 if window[2] >= window[3] else 1
        one, other = (labels for labels, _ in parts)
        nodata = other.nodata if one.nodata is None else one.nodata
        values = np.concatenate([one.values, other.values], axis)
        hidden = None
        if one.hidden is not None or other.hidden is not None:
            both = [
                np.zeros(part.values.shape[:2], bool) if part.hidden is None else part.hidden for part in (one, other)
            ]
            hidden = np.concatenate(both, axis)
        return RasterLabels(values, nodata, one.palette, hidden), np.concatenate([inside for _, inside in parts], axis)
    stored = _stored(path, (top, left, tall, wide), in_colors)
    rows, columns = (np.where(inside, one, start).astype(np.int64) for one, start in ((rows, top), (columns, left)))
    hidden = None if stored.hidden is None else stored.hidden[rows - top, columns - left] & inside
    return stored._replace(values=stored.values[rows - top, columns - left], hidden=hidden), inside


def _inside(grid: RasterGrid, window: Window, own: RasterGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the label's column and row at the pixel centres of a window, and which are inside the label raster."""
    columns, rows = positions_in(grid, window, own)
    with np.errstate(invalid="ignore"):
        columns, rows = np.floor(columns + ON_BORDER), np.floor(rows + ON_BORDER)
        return columns, rows, (columns >= 0) & (columns < own.width) & (rows >= 0) & (rows < own.height)


def _halves(window: Window) -> tuple[Window, Window]:
    top, left, height, width = window
    if height >= width:
        half = height // 2
        return (top, left, half, width), (top + half, left, height - half, width)
    half = width // 2
    return (top, left, height, half), (top, left + half, height, width - half)


def _stored(path: Path, window: Window, in_colors: bool) -> RasterLabels:
    """Reads stored values of a label raster, as `read_mask` does."""
    values, picture = window_mask(WindowPlace(path, SceneWindow(*window)), any_format=True)
    nodata = picture.nodata
    if nodata is not None and isinstance(picture, GdalPicture):  # GDAL returns a float for each type
        nodata = as_nodata(repr(nodata), values.dtype)
    bands = values.shape[2]
    if bands > 4:
        raise AtrousError(f"{path}: the labels have {bands} bands; labels need one band, or three for colours.")
    values = values[:, :, 0] if bands <= 2 else values[:, :, :3]
    if values.dtype.kind == "f":
        values, nodata = whole_numbers(values, nodata, path)
    if values.dtype.kind not in "biu":
        raise AtrousError(f"{path}: the labels are of type {values.dtype}; labels must be whole numbers.")
    palette = picture.palette if values.ndim == 2 else None
    if in_colors and palette is not None:
        values, palette = as_colors(values, palette), None
    declared = None if nodata is None or values.ndim == 3 else int(nodata)
    return RasterLabels(np.ascontiguousarray(values), declared, palette, picture.hidden(window))
