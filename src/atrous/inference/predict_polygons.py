"""Polygons of the masks of one call of predict: checks the rasters before the work, and writes the file at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atrous.data.mask_value_map import ClassTable
from atrous.data.rasters.open_raster import opened_raster
from atrous.data.remote.transfer import as_path, local_path
from atrous.data.sources.geotiff import RASTER_SUFFIXES
from atrous.errors import AtrousError
from atrous.inference.adjacent_rasters import check_one_crs, read_raster
from atrous.inference.mask_polygons import mask_polygons
from atrous.inference.polygon_files import check_polygon_options, write_polygons
from atrous.inference.predict_jobs import Job
from atrous.inference.predict_records import Record
from atrous.paths import Place, shown_place


def check_options(polygons: Path | None, smallest: float, out: Place) -> None:
    """Checks the options before the work.

    Args:
        polygons: the file of polygons; None to write none.
        smallest: smallest area of a polygon, in m².
        out: folder of the masks.

    Raises:
        AtrousError: the masks are at a URL, or as in `check_polygon_options`.
    """
    check_polygon_options(polygons, smallest)
    if polygons is not None and local_path(out) is None:
        raise AtrousError(
            f"polygons are made from the masks, and out is {shown_place(out)}: give a folder on this machine for --out."
        )


def check_rasters(jobs: Sequence[Job]) -> None:
    """Checks that all pictures are rasters in one coordinate reference system; rasters at URLs are checked later.

    Args:
        jobs: jobs from `plan`.

    Raises:
        AtrousError: a picture has no coordinates, or two rasters have different coordinate reference systems.
    """
    rasters = []
    for job in jobs:
        if isinstance(job.picture, str):
            continue
        name = shown_place(job.picture)
        if job.picture.suffix.lower() not in RASTER_SUFFIXES:
            raise AtrousError(
                f"{name} is not a raster with coordinates on Earth (GeoTIFF, VRT or JPEG 2000), so its mask has no "
                "polygons: give rasters only, or leave --polygons out."
            )
        if _opens(job.picture):  # a damaged file fails later, and the other files do not fail
            rasters.append(read_raster(job.picture, name))
    check_one_crs(rasters)


def write_mask_polygons(
    path: Path, jobs: Sequence[Job], records: Sequence[Record], table: ClassTable, *, smallest: float = 0.0
) -> int:
    """Writes the polygons of all masks into one file; no file is written if there are no masks.

    Args:
        path: the file of polygons.
        jobs: jobs from `plan`.
        records: record of each job.
        table: names and raw values of the classes.
        smallest: smallest area of a polygon, in m².

    Returns:
        The number of polygons.

    Raises:
        AtrousError: a raster from a URL has no coordinates or another coordinate reference system, or the file cannot
            be written.
    """
    done = [job for job, record in zip(jobs, records, strict=True) if record.error is None]
    masks = [read_raster(as_path(job.target), as_path(job.picture).name) for job in done]
    check_one_crs(masks)
    if not masks:
        return 0
    raw = table.decode(np.arange(len(table), dtype=np.uint8)[None])[0] if done[0].raw else None
    polygons = mask_polygons(masks, raw)
    return write_polygons(path, polygons, table.names, masks[0].crs.to_wkt(), smallest=smallest)


def _opens(path: Path) -> bool:
    try:
        opened_raster(path).close()
    except AtrousError:
        return False
    return True
