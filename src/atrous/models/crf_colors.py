"""What a CRF compares of the values that a model takes."""

from __future__ import annotations

import numpy as np

from atrous.errors import AtrousError
from atrous.models.info import Preprocessing


def check_crf_fits(preprocessing: Preprocessing) -> None:
    """Refuses a CRF for a model whose values it cannot compare.

    Args:
        preprocessing: of the model.

    Raises:
        AtrousError: pictures are standardised by their own mean and deviation, while the CRF compares colours in steps
            of 0–255.
    """
    if preprocessing.image.normalize == "per_image":
        raise AtrousError(
            "a CRF compares the colours of a picture in steps of 0–255, and this model takes each picture less its own "
            "mean, divided by its own deviation (normalize: per_image): leave the CRF out."
        )


def compared_by_crf(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The picture alone, in its own type of values: further inputs, such as depth, are no colours.

    Args:
        image: H×W×C of all inputs joined.
        preprocessing: of the model.

    Returns:
        H×W×C of the picture's channels.

    Raises:
        AtrousError: as `check_crf_fits`.
    """
    check_crf_fits(preprocessing)
    picture = preprocessing.image
    if picture.channels == image.shape[2]:
        return image
    return np.ascontiguousarray(image[:, :, : picture.channels]).astype(picture.dtype)
