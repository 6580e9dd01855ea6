"""The channels that training takes from pictures; the doctor examines the same channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atrous.data.channel_count import channels_of
from atrous.data.dataset import Dataset
from atrous.data.file_of_picture import file_of_picture
from atrous.data.pictures import read_pixels
from atrous.data.pixels import PictureKind, StoredPixels, gives_channels
from atrous.data.rasters.band_names import bands_to_read
from atrous.data.splits.split_names import canonical_split
from atrous.data.statistics import bands_of_pictures
from atrous.errors import AtrousError


@dataclass(frozen=True)
class TakenChannels:
    """The channels that a model takes from each picture.

    Attributes:
        channels: number of channels C; None for all bands except alpha.
        bands: names of the bands, as in `bands_to_read`; () for bands by position or by wavelength.
        wavelengths: wavelengths of the bands in nanometres, as in `bands_to_read`.
        missing: values that mean "no data", in addition to the nodata values that the files declare, as in
            `StoredPixels.for_model`.
        listed: whether the user lists the bands or wavelengths, so that each file must have them.
        notes: sentences on bands that are left out, and on files that do not name their bands.
        contradiction: message of the error in training if names of bands contradict each other; "" if not.
    """

    channels: int | None = None
    bands: tuple[str, ...] = ()
    wavelengths: tuple[float, ...] = ()
    missing: tuple[float, ...] = ()
    listed: bool = False
    notes: tuple[str, ...] = ()
    contradiction: str = ""

    @property
    def by_position(self) -> int | None:
        """The number of channels, if they are the first bands of a file; None if bands are found by name."""
        return None if self.bands or self.wavelengths else self.channels

    def read(self, path: Path, pages: str = "first") -> StoredPixels:
        """Reads a picture with the bands that the model takes, in its order.

        Args:
            path: the picture.
            pages: pages of a TIFF to read, as in `read_pixels`.

        Raises:
            AtrousError: the file is damaged, or lacks a band that the user lists.
        """
        stored = read_pixels(path, pages)
        try:
            return stored.choosing(bands_to_read(stored.names, self.bands, self.wavelengths, stored.channels))
        except AtrousError as error:
            if self.listed:
                raise AtrousError(f"{path}: {error}") from error
            return stored  # a file of a split that training does not read

    def values(self, stored: StoredPixels) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the channels H×W×C of a picture, and its pixels with data; see `StoredPixels.for_model`.

        Args:
            stored: the picture, from `read`. If it cannot be converted to the channels, all of them are returned.
        """
        return stored.for_model(self.converted(stored), missing_values=self.missing)

    def converted(self, stored: StoredPixels) -> int | None:
        """Returns the number of channels to which a picture is converted; None for all bands except alpha.

        Args:
            stored: the picture, from `read`.
        """
        fits = self.channels and gives_channels(stored.channels, stored.kind.bands, self.channels)
        return self.channels if fits else None


def taken_channels(
    dataset: Dataset, kinds: Mapping[Path, PictureKind], train: str, val: str, in_channels: int | None
) -> TakenChannels:
    """Returns the channels that a model would take.

    Args:
        dataset: the dataset.
        kinds: kind of each picture.
        train: the split to learn from.
        val: the split to choose the best weights on.
        in_channels: number of channels that the model takes; None for the number of channels of the training pictures.
            If training cannot start, this argument itself is the number in the result.
    """
    training, measured = (
        [
            (kinds[item.image], str(item.image))
            for item in dataset.splits.get(name, dataset.splits.get(canonical_split(name), ()))
            if item.image in kinds
        ]
        for name in (train, val)
    )
    image = dataset.inputs[0]
    try:
        named = [(str(file_of_picture(Path(path))), kind.names) for kind, path in (*training, *measured)]
        bands, notes = bands_of_pictures(image, named, in_channels)
        contradiction = ""
    except AtrousError as error:
        bands, notes, contradiction = (), (), str(error)
    listed = bool(image.bands or image.wavelengths)
    channels = len(bands or image.wavelengths) or in_channels
    if training and not bands and not image.wavelengths:
        try:
            channels = channels_of(training, measured, in_channels)
        except AtrousError:  # reported by `find_channels_without_a_way`
            channels = in_channels
    return TakenChannels(channels, bands, image.wavelengths, image.missing_values, listed, notes, contradiction)
