"""Scales pixel values to the range that a model was trained on, and warns of doubtful ranges."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from atrous.data.pixels import GIVE_RANGE
from atrous.errors import AtrousError
from atrous.logger import warn
from atrous.models.info import Preprocessing

#: Largest values of the bit depths that cameras and scanners store in 16 bits.
STORED_IN_16_BITS = (255, 1023, 4095, 16383)
#: Distance between the median of a picture and the mean of the training, in standard deviations of the training, above
#: which the values must have another unit: no ordinary picture, also none of one colour, is so far away.
FAR_IN_STD = 100.0
#: Largest number of channels whose values a warning shows.
_SHOWN = 4
#: Number of pixels, about, from which the medians of a picture are computed.
_SAMPLED = 10_000
#: Syntax of a range of two numbers in a request to a server, for messages.
ASK_FOR_RANGE = "range={0},{1} in the query"


class PictureWarning(UserWarning):
    """Warns that a picture may be misread, for example because its values are in another range than in training."""


class PictureWarnings:
    """Issues warnings about pictures; over all threads, each kind of warning is issued only once."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._warned_of: set[str] = set()

    def warn(self, sentence: str | None, kind: str | None = None, name: str = "") -> None:
        """Issues a warning, unless one of this kind was issued before.

        Args:
            sentence: text of the warning; None for no warning.
            kind: kind of the warning; None for the text before the first colon of the sentence.
            name: name of the picture; "" for no name.
        """
        if sentence is None:
            return
        kind = kind or sentence.partition(":")[0]
        with self._changing:
            known = kind in self._warned_of
            self._warned_of.add(kind)
        if not known:
            warn(f"{name}: {sentence}" if name else sentence, PictureWarning, stacklevel=4)


def as_range(value_range: Sequence[float] | None) -> tuple[float, float] | None:
    """Returns a range of values as two numbers; None for no range.

    Args:
        value_range: (lower, upper) values that become 0 and the largest value of the data type; None for no range.

    Raises:
        AtrousError: the range is not two finite numbers, the lower first.
    """
    if value_range is None:
        return None
    given = tuple(float(value) for value in value_range)
    if len(given) != 2 or not np.isfinite(given).all() or not given[0] < given[1]:
        raise AtrousError(
            f"range must be two numbers, the lower first, such as 0,4095; got {','.join(map(str, given))}."
        )
    return given[0], given[1]


def check_range(value_range: Sequence[float] | None, preprocessing: Preprocessing) -> tuple[float, float] | None:
    """Checks that a model can use a range of values, and returns the range as two numbers; None for no range.

    Args:
        value_range: (lower, upper) values that become 0 and the largest value of the data type; None for no range.
        preprocessing: preprocessing of the model.

    Raises:
        AtrousError: the range is not two finite numbers, the lower first, or the model takes float32 pictures.
    """
    if (given := as_range(value_range)) is not None and preprocessing.dtype == "float32":
        raise AtrousError(
            "range scales values to 8 or 16 bits, but this model was trained on float32 pictures, whose values are not "
            "scaled: leave range out, and give values in the unit of the training pictures."
        )
    return given


def scale_range(image: np.ndarray, value_range: tuple[float, float], dtype: str) -> np.ndarray:
    """Scales a range of values: its lower end becomes 0, and its upper end becomes the largest value of a data type.

    Args:
        image: H×W×C of uint8, uint16 or float32; values outside the range are clipped to it, and NaN becomes 0.
        value_range: (lower, upper) values of the picture.
        dtype: data type of the result: uint8 or uint16.

    Returns:
        H×W×C of ``dtype``.
    """
    low, high = value_range
    most = np.iinfo(dtype).max
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(most / (high - low))
    return np.nan_to_num(scaled.clip(0, most), nan=0.0).round().astype(dtype)


def doubt(given: str, largest: float, preprocessing: Preprocessing, give_range: str = GIVE_RANGE) -> str | None:
    """Returns a warning if a picture's values may be in another range than the model expects.

    Args:
        given: data type of the picture: uint8, uint16 or float32.
        largest: largest value of the picture.
        preprocessing: preprocessing of the model.
        give_range: syntax of a range for the warning, with {0} and {1} for the two numbers.

    Returns:
        The warning, with the probable scaling if it can be inferred; None if the values are not doubtful.
    """
    wanted = preprocessing.dtype
    if (given, wanted) == ("uint16", "uint8") and 0 < largest <= STORED_IN_16_BITS[-1]:
        likely = next(most for most in STORED_IN_16_BITS if largest <= most)
        return (
            f"16-bit pictures for a model of 8-bit pictures: values reach only {largest:g} of 65535, and 65535 counts "
            f"as white. If {likely} is white, give {give_range.format(0, likely)}."
        )
    brightest = max(mean + 3 * std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True))
    if (given, wanted) == ("uint8", "uint16") and brightest <= STORED_IN_16_BITS[-1]:
        return (
            f"8-bit pictures for a model of 16-bit pictures, whose values reached about {brightest:.0f} in training: "
            f"255 becomes 65535, which is much brighter. If 255 should become {brightest:.0f}, scale the pictures and "
            "give uint16."
        )
    if wanted == "float32" and given != "float32":
        means = ", ".join(f"{mean:.3g}" for mean in preprocessing.mean[:4])
        return (
            f"{given} pictures for a model of float32 pictures: values are taken as they are. The training pictures "
            f"had the mean {means}; if these pictures have another unit, scale them and give float32."
        )
    return None


def medians_of(image: np.ndarray, valid: np.ndarray | None = None) -> tuple[float, ...]:
    """Returns the median of each channel over equally spaced pixels; NaN for a channel without a finite value.

    Args:
        image: H×W×C picture.
        valid: H×W booleans, False for pixels without data; None if all pixels hold data.
    """
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _SAMPLED))
    pixels = image[::step, ::step].reshape(-1, image.shape[2])
    pixels = pixels if valid is None else pixels[valid[::step, ::step].ravel()]
    columns = [column[np.isfinite(column)] for column in pixels.T]
    return tuple(float(np.median(column)) if column.size else math.nan for column in columns)


def distance_in_std(medians: Sequence[float], preprocessing: Preprocessing) -> float:
    """Returns the distance of a picture from the training, in standard deviations: the median over the channels.

    Args:
        medians: median of each channel of the picture, from `medians_of`.
        preprocessing: preprocessing of the model.

    Returns:
        The distance; 0 if no channel can be compared, because the channels have no data or are normalised by the
        statistics of each file.
    """
    own = [standardised for one in preprocessing.inputs for standardised in one.standardised]
    rows = zip(medians, preprocessing.mean, preprocessing.std, own, strict=True)
    found = [abs(median - mean) / std for median, mean, std, skipped in rows if not skipped and math.isfinite(median)]
    return float(np.median(found)) if found else 0.0


def nearest_medians(
    one: tuple[float, ...], other: tuple[float, ...], preprocessing: Preprocessing
) -> tuple[float, ...]:
    """Returns the medians of two windows that are nearer to the training; () if there are none.

    Args:
        one: medians of the channels of a window, from `medians_of`; () if there is none.
        other: those of another window; NaN for channels without data.
        preprocessing: preprocessing of the model.
    """
    known = [medians for medians in (one, other) if not all(map(math.isnan, medians))]
    return min(known, key=lambda medians: distance_in_std(medians, preprocessing), default=())


def doubt_of_medians(medians: Sequence[float], preprocessing: Preprocessing) -> str | None:
    """Returns a warning if the values of a float32 picture are far outside the range of the training.

    A file that lost the scale of its bands, for example, has values that are thousands of times too large.

    Args:
        medians: median of each channel of the picture, from `medians_of`.
        preprocessing: preprocessing of the model.

    Returns:
        The warning; None if the median of a typical channel is at most `FAR_IN_STD` standard deviations away.
    """
    if preprocessing.dtype != "float32" or distance_in_std(medians, preprocessing) <= FAR_IN_STD:
        return None
    shown = ", ".join(f"{value:.3g}" for value in medians[:_SHOWN])
    means, stds = (
        ", ".join(f"{value:.3g}" for value in each[:_SHOWN]) for each in (preprocessing.mean, preprocessing.std)
    )
    return (
        f"values far outside the range of the training: the median of the channels is {shown}, but the training "
        f"pictures had the mean {means} and the standard deviation {stds}. Give the pictures in the unit of the "
        "training. A file may have lost the scale and the offset of its bands, which gdalinfo shows."
    )
