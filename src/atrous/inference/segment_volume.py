"""Segments a volume slice by slice, and averages the probabilities of several planes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.volumes.slice_pixels import volume_pixels
from atrous.data.volumes.slices import AXES, pictures_of
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError
from atrous.inference.picture_input import Found
from atrous.inference.segmenter import Segmenter
from atrous.inference.test_time_augmentation import mean_probabilities


def segment_volume(
    segmenter: Segmenter, volume: Volume, progress: Callable[[int, int], object] | None = None
) -> np.ndarray:
    """Segments a volume with the slices, the planes and the normalisation of the model.

    With one plane, each slice is a picture like any other: large ones are tiled, and scales, flip and the CRF apply.
    With several planes, the probabilities of each voxel are averaged over the planes.

    Args:
        segmenter: segmenter of a model that was trained on volumes.
        volume: volume with as many contrasts as the model takes.
        progress: called after each slice with the number of finished slices and the number of all slices.

    Returns:
        X×Y×Z uint8 class indices along right, anterior and superior; 255 where the volume holds no data.

    Raises:
        AtrousError: the model was trained on pictures, the volume has another number of contrasts, or a CRF is given
            for several planes.
    """
    planes = segmenter.info.preprocessing.image.planes
    if not planes:
        raise AtrousError(
            "the model was trained on pictures, not on slices of volumes: train it with a dataset of volumes, or give "
            "one slice, such as scan.nii.gz/axial/0012."
        )
    if len(planes) > 1 and segmenter.crf is not None:
        raise AtrousError("the CRF refines single slices, and this model averages several planes: leave the CRF out.")
    shape = volume.values.shape[:3]
    total, done = sum(shape[AXES[plane]] for plane in planes), 0
    labels = np.zeros(shape, np.uint8)
    sums = np.zeros((*shape, max(2, len(segmenter.info.classes))), np.float32) if len(planes) > 1 else None
    for plane in planes:
        masks = pictures_of(labels, plane)
        probabilities = None if sums is None else pictures_of(sums, plane)
        for index in range(shape[AXES[plane]]):
            found = _slice(segmenter, volume, plane, index)
            image = segmenter.preparation.filled(found)
            if probabilities is None:
                masks[index] = segmenter.any_size(image, found.valid, name=f"{plane} slice {index}")
            else:
                probabilities[index] += _probabilities(segmenter, image)
            done += 1
            if progress is not None:
                progress(done, total)
    if sums is not None:
        labels = sums.argmax(axis=3).astype(np.uint8)
        labels[~volume.valid(segmenter.info.preprocessing.image.missing)] = IGNORE_INDEX
    return labels


def _slice(segmenter: Segmenter, volume: Volume, plane: str, index: int) -> Found:
    values, valid = volume_pixels(volume, plane, index, segmenter.info.preprocessing.image)
    return Found(values, values, valid, f"{plane} slice {index}")


def _probabilities(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    """Returns the H×W×K probabilities of a slice."""
    info = segmenter.info
    aligned = bool(info.arguments.get("align_corners", False))
    scores = segmenter.whole.scores(image)
    return mean_probabilities(scores, image.shape[:2], aligned, info.temperature).numpy().transpose(1, 2, 0)
