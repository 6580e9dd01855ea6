"""Segments a raster window by window, and sums up the ground that each class covers; no mask is stored."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.data.rasters.pixel_area import PixelAreas
from atrous.data.sources.source import Window
from atrous.errors import AtrousError
from atrous.inference.predict_jobs import Job, Opened, Worker
from atrous.inference.whole_or_tiled import Progress


class AreaSink:
    """A sink that adds up the true areas of the pixels of each label.

    Args:
        areas: areas of the pixels of the raster.

    Attributes:
        square_metres: area of each of the 256 labels, in m²; 255 is the area without data.
    """

    def __init__(self, areas: PixelAreas) -> None:
        self.square_metres = np.zeros(256)
        self._areas = areas

    def write(self, window: Window, mask: np.ndarray) -> None:
        """Adds the areas of a window."""
        self.square_metres += np.bincount(mask.ravel(), self._areas.of(window).ravel(), minlength=256)


def mapped_area(worker: Worker, raster: Path, progress: Progress = None) -> NDArray[np.float64]:
    """Segments a raster as `atrous predict` does, and returns the area of each of the 256 labels, in m².

    Args:
        worker: worker that runs the model.
        raster: a raster with coordinates.
        progress: called after each tile with the number of finished tiles and the number of all tiles.

    Raises:
        AtrousError: the raster cannot be read, does not suit the model, or has no place on Earth.
    """
    opened = worker.read(Job(raster, raster, windowed=True))  # no mask is written, so the target is not used
    if not isinstance(opened, Opened):
        raise AtrousError(getattr(opened, "error", None) or f"{raster}: it is not a raster.")
    with opened.files, closing(opened.source) as source:
        sink = AreaSink(PixelAreas(source.geometry, source.shape[:2], str(raster)))
        worker.segmenter.windows(source, sink, name=str(raster), progress=progress)
    return sink.square_metres
