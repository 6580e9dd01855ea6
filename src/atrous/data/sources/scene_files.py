"""Reads the files of a scene and joins them into the input of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atrous.data.pictures import read_pixels
from atrous.data.pixels import without
from atrous.data.rasters.band_names import bands_to_read
from atrous.data.sources.array import ArraySource
from atrous.data.sources.geotiff import RASTER_SUFFIXES, GeoTiffSource
from atrous.data.sources.joined import JoinedSource, joined
from atrous.data.sources.per_image_standardisation import StandardisedSource
from atrous.data.sources.source import Pixels, Source, whole
from atrous.data.volumes.slice_pixels import read_slice, slice_pixels
from atrous.data.volumes.slices import is_volume, slice_place
from atrous.errors import AtrousError
from atrous.input_spec import Input, Spacing, check_takes_pictures


def read_scene(files: Sequence[Path], inputs: Sequence[Input]) -> Pixels:
    """Reads the files of a scene, and joins the channels of several inputs.

    Args:
        files: one file per input.
        inputs: inputs of the model, in the same order.

    Returns:
        H×W×C: for a single input, the result of `read_input`; for several inputs, the result of `joined.joined`.

    Raises:
        AtrousError: a file is missing or damaged, no conversion to the channels is defined, or sizes differ.
    """
    parts = [read_input(file, one) for file, one in zip(files, inputs, strict=True)]
    try:
        return parts[0] if len(parts) == 1 else joined(parts, inputs)
    except AtrousError as error:
        raise AtrousError(f"{', '.join(map(str, files))}: {error}") from error


def open_windows(files: Sequence[Path], inputs: Sequence[Input]) -> JoinedSource | StandardisedSource | GeoTiffSource:
    """Opens a scene to read it window by window.

    The picture must be a TIFF, VRT or JPEG 2000 file. Further inputs in other formats are read as a whole.

    Args:
        files: one file per input.
        inputs: inputs of the model, in the same order.

    Returns:
        A source, which the caller closes.

    Raises:
        AtrousError: a file is missing or damaged, no conversion to the channels is defined, or sizes differ.
    """
    sources = [_windows_of(file, one, first=one is inputs[0]) for file, one in zip(files, inputs, strict=True)]
    return sources[0] if len(sources) == 1 else JoinedSource(sources, inputs)  # pyright: ignore[reportReturnType]


def _windows_of(file: Path, one: Input, first: bool) -> Source:
    if not first and file.suffix.lower() not in RASTER_SUFFIXES:
        values, valid, doubtful = read_input(file, one)
        return ArraySource(values, valid, doubtful)
    check_takes_pictures(one)
    source = GeoTiffSource(file, one.channels, one.pages, one.missing, one.bands, one.wavelengths, one.mean)
    return StandardisedSource(source) if one.normalize == "per_image" else source


def as_input(pixels: Pixels, one: Input) -> Pixels:
    """Applies the missing values and the per-image normalisation of an input to an array.

    Args:
        pixels: the pixels, with the channels of the input.
        one: the input; it defines which values are missing, and whether each picture is normalised by its own mean and
            standard deviation.

    Raises:
        AtrousError: the input takes slices of volumes, whose normalisation needs the whole volume.
    """
    values, valid, doubtful = pixels
    if one.missing:
        valid = without(values, valid, one.missing)
    return standardised(Pixels(values, valid, doubtful), one)


def standardised(pixels: Pixels, one: Input) -> Pixels:
    """Applies the per-image normalisation of an input to a whole picture.

    Args:
        pixels: pixels of a file, with the channels of the input and without its missing values.
        one: the input; it defines whether each picture is normalised by its own mean and standard deviation.

    Raises:
        AtrousError: the input takes slices of volumes, whose normalisation needs the whole volume.
    """
    check_takes_pictures(one)
    values, valid, doubtful = pixels
    if one.normalize == "per_image":
        values, valid, _ = whole(StandardisedSource(ArraySource(values, valid)))
    return Pixels(values, valid, doubtful)


def read_picture_pixels(
    file: Path,
    channels: int | None,
    pages: str,
    spacing: Spacing | None = None,
    missing: Sequence[float] = (),
    bands: Sequence[str] = (),
    wavelengths: Sequence[float] = (),
    fill: Sequence[float] | None = None,
) -> Pixels:
    """Reads the pixels of a picture, without the normalisation of an input.

    Args:
        file: path of the picture.
        channels: number of channels C of the result; None for all bands except alpha.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
        spacing: for a slice of a volume, the voxel sides to which the volume is resampled, in millimetres; None for no
            resampling.
        missing: values that mean "no data", in addition to the nodata values of the file. For a slice of a volume,
            these values are used only in resampling, where they are left out of the interpolation.
        bands: names of the bands to read, as in `bands_to_read`.
        wavelengths: wavelengths of the bands to read in nanometres, as in `bands_to_read`.
        fill: value of each channel for bands without data in the whole file, as in `StoredPixels.for_model`.

    Raises:
        AtrousError: the file is missing or damaged, it lacks a band, or no conversion to the channels is defined.
    """
    place = None if spacing is None else slice_place(file)
    stored = read_pixels(file, pages) if place is None else slice_pixels(place, spacing, missing)
    try:
        stored = stored.choosing(bands_to_read(stored.names, bands, wavelengths, stored.channels))
        values, valid = stored.for_model(channels, fill, missing if slice_place(file) is None else ())
    except AtrousError as error:
        raise AtrousError(f"{file}: {error}") from error
    return Pixels(values, valid, values.shape[2] != stored.values.shape[2] and stored.alpha_may_be_a_channel)


def read_input(file: Path, one: Input, fill: Sequence[float] | None = None) -> Pixels:
    """Reads one input of a scene; see `standardised`.

    Args:
        file: path of the input's file, or of a slice of a volume.
        one: the input.
        fill: value of each channel for bands without data in the whole file; None for the mean of the input.

    Raises:
        AtrousError: the file is missing or damaged, no conversion to the channels is defined, or the input needs slices
            of volumes and the file is a picture.
    """
    if (place := slice_place(file)) is not None:
        values, valid = read_slice(place, one)
        return Pixels(values, valid)
    if one.planes and not is_volume(file):  # for a volume, the reader of pictures raises its own error
        try:
            check_takes_pictures(one)
        except AtrousError as error:
            raise AtrousError(f"{file}: {error}") from error
    fill = one.mean if fill is None else fill
    pixels = read_picture_pixels(file, one.channels, one.pages, None, one.missing, one.bands, one.wavelengths, fill)
    return standardised(pixels, one)
