"""Converts a picture's values for the network, and warns if their range is doubtful."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from atrous.checked_arguments import checked
from atrous.data.file_headers import Note
from atrous.data.pixels import GIVE_RANGE, fill_missing, to_channels, to_depth
from atrous.inference.picture_input import Found
from atrous.inference.segmenter_arguments import check_found, check_notes
from atrous.inference.value_range import PictureWarnings, check_range, doubt, doubt_of_medians, medians_of, scale_range
from atrous.models.info import Preprocessing
from atrous.models.picture_checks import check_picture, check_read


class Preparation:
    """Prepares pictures for one model; any number of threads may share it.

    Args:
        preprocessing: preprocessing of the model.
        range: (lower, upper) values of the pictures that become 0 and the largest value of the model's data type; None
            for the whole range of the pictures' data type.

    Attributes:
        preprocessing: preprocessing of the model.
        range: the given range as two numbers; None if none was given.

    Raises:
        AtrousError: the range is not two finite numbers, the lower first, or the model does not take a range.
    """

    def __init__(self, preprocessing: Preprocessing, range: Sequence[float] | None = None) -> None:
        self.preprocessing = preprocessing
        self.range = check_range(range, preprocessing)
        self._warnings = PictureWarnings()

    @checked
    def with_range(self, range: Sequence[float]) -> Preparation:
        """Returns a preparation for the same model with another range; it does not repeat earlier warnings.

        Args:
            range: as in `Preparation`.
        """
        other = Preparation(self.preprocessing, range)
        other._warnings = self._warnings
        return other

    @checked
    def prepare(
        self,
        image: np.ndarray,
        *,
        whole: bool = True,
        name: str = "",
        give_range: str = GIVE_RANGE,
        valid: np.ndarray | None = None,
    ) -> np.ndarray:
        """Converts an H×W×C picture, as read, to the channels and the value range that the model was trained on.

        Args:
            image: H×W×C picture, as read.
            whole: True for a whole picture, whose largest value decides whether to warn of its range; False for a
                window of a picture.
            name: name of the picture for warnings; "" for no name.
            give_range: syntax of a range for warnings and errors, with {0} and {1} for the two numbers, such as
                `GIVE_RANGE`.
            valid: H×W booleans, False for pixels without data, which cause no warning; None if all pixels hold data.

        Warns:
            PictureWarning: the values may be in another range than the model expects; once for each kind of doubt.
        """
        preprocessing = self.preprocessing
        image = to_channels(check_read(image, preprocessing.channels), preprocessing.channels)
        if len(preprocessing.inputs) > 1:  # each input was scaled when it was read
            return to_depth(image, preprocessing.dtype, give_range)
        if self.range is not None:
            return scale_range(image, self.range, preprocessing.dtype)
        if whole:
            self._warnings.warn(self.doubt_of(image, give_range, valid), name=name)
        return to_depth(image, preprocessing.dtype, give_range)

    @checked
    def doubt_of(self, image: np.ndarray, give_range: str = GIVE_RANGE, valid: np.ndarray | None = None) -> str | None:
        """Returns a warning if a whole picture's values may be in another range than the model expects; else None.

        See `value_range.doubt` and `value_range.doubt_of_medians`.

        Args:
            image: H×W×C picture, as read.
            give_range: as in `prepare`.
            valid: as in `prepare`.
        """
        if self.range is not None:
            return None
        if check_picture(image).dtype.name == self.preprocessing.dtype:
            alike = image.dtype == np.float32 and image.shape[2] == self.preprocessing.channels
            return doubt_of_medians(medians_of(image, valid), self.preprocessing) if alike else None
        return doubt(image.dtype.name, float(image.max()), self.preprocessing, give_range)

    @checked
    def warn_of_values(self, dtype: str, largest: float, name: str = "") -> None:
        """Warns, once for each kind of doubt, if a picture's values may be in another range than the model expects.

        Args:
            dtype: data type of the picture: uint8, uint16 or float32.
            largest: largest value of the picture.
            name: name of the picture; "" for no name.
        """
        self._warnings.warn(doubt(dtype, largest, self.preprocessing) if self.range is None else None, name=name)

    @checked
    def warn_of_medians(self, medians: Sequence[float], name: str = "") -> None:
        """Warns, once, if the values of a float32 picture are far outside the range of the training.

        Args:
            medians: median of each channel of the picture; () for no warning.
            name: name of the picture; "" for no name.
        """
        known = len(medians) == self.preprocessing.channels
        self._warnings.warn(doubt_of_medians(medians, self.preprocessing) if known else None, name=name)

    @checked
    def warn_of(self, notes: Iterable[Note]) -> None:
        """Writes the notes of `picture_input.doubts_of_files` as warnings, each kind of note only once."""
        for kind, message, _ in check_notes(notes):
            self._warnings.warn(message, kind)

    @checked
    def filled(self, found: Found, give_range: str = GIVE_RANGE) -> np.ndarray:
        """Prepares a picture as `prepare` does; pixels without data get the training mean, which normalises to 0.

        Args:
            found: picture, as `Segmenter.read` returns it.
            give_range: as in `prepare`.
        """
        image = self.prepare(check_found(found).image, name=found.name, give_range=give_range, valid=found.valid)
        return fill_missing(image, found.valid, self.preprocessing.mean)
