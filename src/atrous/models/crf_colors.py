"""The channels of a model's input that a CRF compares as colours."""

from __future__ import annotations

import numpy as np

from atrous.errors import AtrousError
from atrous.models.info import Preprocessing


def check_crf_fits(preprocessing: Preprocessing) -> None:
    """Checks that a CRF can be used with a model.

    Args:
        preprocessing: the model's preprocessing.

    Raises:
        AtrousError: the model normalises each picture, or one of its channels, by its own mean and standard deviation.
            The CRF needs colours on the scale 0–255.
    """
    if any(preprocessing.image.standardised):
        raise AtrousError(
            "a CRF compares the colours of a picture on the scale 0–255, but this model normalises each picture by its "
            "own mean and standard deviation (normalize: per_image, or a contrast without window): leave the CRF out."
        )


def compared_by_crf(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Returns the channels of the picture, in the picture's dtype; further inputs, such as depth, are not colours.

    Args:
        image: H×W×C, all inputs joined.
        preprocessing: the model's preprocessing.

    Returns:
        H×W×C' with the C' channels of the picture.

    Raises:
        AtrousError: as for `check_crf_fits`.
    """
    check_crf_fits(preprocessing)
    picture = preprocessing.image
    if picture.channels == image.shape[2]:
        return image
    return np.ascontiguousarray(image[:, :, : picture.channels]).astype(picture.dtype)
