"""`Prediction`: the mask of a picture, and ways to show and store it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.checked_arguments import checked, checked_fields
from atrous.data.class_colors import color_table
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.value_counts import value_counts
from atrous.errors import AtrousError, shown
from atrous.fonts import labels
from atrous.inference.data_array import is_data_array, mask_like
from atrous.inference.legend import with_legend
from atrous.models.info import Info
from atrous.overwrite_checks import check_replaceable, is_our_picture, save_picture

#: Number of pixels of an overlay that are computed at once.
PIXELS_AT_ONCE = 2**18
#: Number of pixels that is enough for percentiles. In a picture with n times as many pixels, every n-th pixel is used.
MOST_JUDGED = 2**21
#: Colour of pixels without data in palette masks: Pascal VOC's colour of unlabelled pixels.
NO_DATA_COLOR = (224, 224, 192)


@checked_fields
@dataclass(frozen=True, eq=False)
class Prediction:
    """The mask of one picture, with the picture and the model's metadata.

    Args:
        mask: H×W uint8 class indices, 255 where the picture has no data.
        image: H×W×C picture, as it was read.
        info: metadata of the model.
        array: the picture as an `xarray.DataArray`; None if the picture was given in another form.
    """

    mask: np.ndarray
    image: np.ndarray
    info: Info
    array: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.mask, np.ndarray) or self.mask.ndim != 2 or self.mask.dtype != np.uint8:
            raise AtrousError(f"mask must be an array of H×W uint8, got {shown(self.mask)}.")
        if not isinstance(self.image, np.ndarray) or self.image.ndim != 3 or self.image.shape[:2] != self.mask.shape:
            raise AtrousError(f"image must be H×W×C with the mask's H×W, {self.mask.shape}, got {shown(self.image)}.")
        if self.image.dtype.kind not in "biuf" or not self.image.shape[2]:
            raise AtrousError(f"image must contain numbers in one or more channels, got {shown(self.image)}.")
        if not isinstance(self.info, Info):
            raise AtrousError(f"info must be the metadata of a model, model.info, got {shown(self.info)}.")

    def __repr__(self) -> str:
        counts = value_counts(self.mask)
        largest = sorted(((count, index) for index, count in enumerate(counts.tolist()) if count), reverse=True)[:4]
        names = {IGNORE_INDEX: "no data", **dict(enumerate(self.info.classes))}
        shares = ", ".join(
            f"{names.get(index, f'index {index}')} {count / self.mask.size:.0%}" for count, index in largest
        )
        height, width = self.mask.shape
        return f"Prediction({height}×{width}: {shares})"

    def palette_image(self) -> Image.Image:
        """Returns the mask as a palette image in the model's colours; pixels without data have their own colour."""
        palette = color_table(self.info.colors)  # all 256 entries: with fewer, Pillow stores indices in fewer bits
        palette[IGNORE_INDEX] = NO_DATA_COLOR
        picture = Image.fromarray(self.mask)
        picture.putpalette(palette.tobytes())
        return picture

    def raw_mask(self) -> np.ndarray:
        """Returns the mask with the values of the training masks; a class with several values gets the first value."""
        return self.info.table.decode(self.mask)

    def data_array(self) -> Any:
        """Returns the mask as an `xarray.DataArray` with the coordinates of the picture; 255 means no data.

        Raises:
            AtrousError: the picture was no DataArray.
        """
        if not is_data_array(self.array):
            raise AtrousError("the picture was no xarray.DataArray, so the mask has no coordinates: use mask.")
        return mask_like(self.array, self.mask)

    @checked
    def overlay(self, opacity: float = 0.55, legend: bool = False) -> Image.Image:
        """Returns the picture with the colours of the mask over it; black classes are transparent.

        Args:
            opacity: opacity of the colours, 0–1.
            legend: whether to add the names and colours of the mask's classes below the picture, which makes the image
                higher. A class is shown by its number if no font of this system can draw its name.

        Warns:
            FontWarning: some names are shown by their numbers.
        """
        if not 0 <= opacity <= 1:
            raise AtrousError(f"opacity must be 0 to 1, got {opacity}.")
        picture = visible(self.image, self.mask != IGNORE_INDEX)
        colors = color_table(self.info.colors).astype(np.float32)  # black for pixels without data: they get no colour
        strengths = np.where(colors.any(1), np.float32(opacity), np.float32(0))
        shown = np.empty(picture.shape, np.uint8)
        for rows in _some_rows(*picture.shape[:2]):
            mask = self.mask[rows]
            strength = strengths[mask][..., None]
            shown[rows] = (picture[rows].astype(np.float32) * (1 - strength) + colors[mask] * strength).round()
        mixed = Image.fromarray(shown)
        if not legend:
            return mixed
        present = [index for index in np.flatnonzero(value_counts(self.mask)) if colors[index].any()]
        names = labels(self.info.classes)
        return with_legend(mixed, [(names[index], self.info.colors[index]) for index in present])

    @checked
    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes the mask as a palette image, atomically, with the name atrous in its metadata.

        Args:
            path: path of the file; its folder is created.
            overwrite: True to allow replacing a file that atrous did not write, or that was changed since it was
                written.

        Raises:
            AtrousError: the path is a file that must not be replaced, or its suffix is not that of an image format.
        """
        check_replaceable(path, "mask", is_our_picture, overwrite=overwrite)
        # Masks compress well at any level: level 3 is twice as fast as the default of 6, and a third larger.
        options: dict[str, Any] = {"compress_level": 3} if Path(path).suffix.lower() == ".png" else {}
        save_picture(self.palette_image(), path, **options)


def visible(image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Converts any picture to H×W×3 uint8 for display.

    Args:
        image: H×W×C picture. Of three or more channels, the first three are shown; of one or two channels, the first is
            shown in grey. Other data types than uint8 are stretched from the 1st to the 99th percentile.
        valid: H×W booleans, False for pixels without data, which percentiles ignore; None if all pixels have data.

    Returns:
        H×W×3 uint8.
    """
    channels = image.shape[2]
    image = image[..., :3] if channels >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if image.dtype == np.uint8:
        return image
    known = np.isfinite(image).all(axis=2)
    if valid is not None:
        known &= valid
    every = max(1, image.shape[0] * image.shape[1] // MOST_JUDGED)
    low, high = np.percentile(image[known][::every], (1, 99)) if known.any() else (0.0, 1.0)
    shown = np.empty(image.shape, np.uint8)
    for rows in _some_rows(*image.shape[:2]):
        with np.errstate(over="ignore"):  # a nodata value may overflow
            stretched = (image[rows].astype(np.float32) - np.float32(low)) / np.float32(max(float(high - low), 1e-6))
        shown[rows] = (np.nan_to_num(stretched).clip(0, 1) * 255).round()
    return shown


def _some_rows(height: int, width: int) -> Iterator[slice]:
    """Yields slices of a few rows each, so that their floats need little memory."""
    step = max(1, PIXELS_AT_ONCE // max(width, 1))
    return (slice(top, top + step) for top in range(0, height, step))
