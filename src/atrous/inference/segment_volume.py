"""Segments a volume slice by slice, and averages the probabilities of several planes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.volumes.scratch import VARIABLE, scratch_file
from atrous.data.volumes.slice_pixels import volume_pixels
from atrous.data.volumes.slices import AXES, pictures_of
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError
from atrous.inference.picture_input import Found
from atrous.inference.segmenter import Segmenter

#: Number of bytes of probabilities that are kept in memory; more are kept in a scratch file.
IN_MEMORY = 2**29


def segment_volume(
    segmenter: Segmenter, volume: Volume, progress: Callable[[int, int], object] | None = None
) -> np.ndarray:
    """Segments a volume with the slices, the planes and the normalisation of the model.

    With one plane, each slice is a picture like any other: large ones are tiled, and scales, flip and the CRF apply.
    With several planes, the probabilities of each voxel are averaged over the planes. If they take more than 512 MB,
    they are kept in a scratch file, whose size is said first.

    Args:
        segmenter: segmenter of a model that was trained on volumes.
        volume: volume with as many contrasts as the model takes.
        progress: called after each slice with the number of finished slices and the number of all slices.

    Returns:
        X×Y×Z uint8 class indices along right, anterior and superior; 255 where the volume holds no data.

    Raises:
        AtrousError: the model was trained on pictures, the volume has another number of contrasts, a CRF is given
            for several planes, or the disk has too little free space for the scratch file.
    """
    planes = segmenter.info.preprocessing.image.planes
    if not planes:
        raise AtrousError(
            "the model was trained on pictures, not on slices of volumes: train it with a dataset of volumes, or give "
            "one slice, such as scan.nii.gz/axial/0012."
        )
    if len(planes) > 1 and segmenter.crf is not None:
        raise AtrousError("the CRF refines single slices, and this model averages several planes: leave the CRF out.")
    x, y, z = volume.grid.shape
    labels = np.zeros((x, y, z), np.uint8)
    if len(planes) == 1:
        masks = pictures_of(labels, planes[0])
        for plane, index, found in _slices(segmenter, volume, progress):
            image = segmenter.preparation.filled(found)
            masks[index] = segmenter.any_size(image, found.valid, name=f"{plane} slice {index}")
        return labels
    with _zeros((x, y, z, max(2, len(segmenter.info.classes))), segmenter.any_size.say) as sums:
        for plane, index, found in _slices(segmenter, volume, progress):
            image = segmenter.preparation.filled(found)
            name = f"{plane} slice {index}"
            pictures_of(sums, plane)[index] += segmenter.any_size.probabilities(image, name=name)
        for index in range(z):
            labels[:, :, index] = sums[:, :, index].argmax(axis=2)
    labels[~volume.valid(segmenter.info.preprocessing.image.missing)] = IGNORE_INDEX
    return labels


def _slices(
    segmenter: Segmenter, volume: Volume, progress: Callable[[int, int], object] | None
) -> Iterator[tuple[str, int, Found]]:
    """Yields the plane and the number of each slice of the model's planes, and its pixels."""
    image, shape = segmenter.info.preprocessing.image, volume.values.shape
    places = [(plane, index) for plane in image.planes for index in range(shape[AXES[plane]])]
    for done, (plane, index) in enumerate(places, 1):
        values, valid = volume_pixels(volume, plane, index, image)
        yield plane, index, Found(values, values, valid, f"{plane} slice {index}")
        if progress is not None:
            progress(done, len(places))


@contextmanager
def _zeros(shape: tuple[int, int, int, int], say: Callable[[str], object]) -> Iterator[np.ndarray]:
    """Gives float32 zeros: in memory, or in a scratch file if they are many."""
    x, y, z, classes = shape
    size = 4 * x * y * z * classes
    if size <= IN_MEMORY:
        yield np.zeros(shape, np.float32)
        return
    with scratch_file() as file:
        free = shutil.disk_usage(file.parent).free
        need = f"the probabilities of all planes take {size / 1e9:.1f} GB in a scratch file in {file.parent}"
        if free < size:
            raise AtrousError(
                f"{need}, and {free / 1e9:.1f} GB are free: set the environment variable {VARIABLE} to a folder on "
                "another disk."
            )
        say(need)
        # In this order, the voxels of an axial slice are neighbours in the file.
        stored = np.memmap(file, np.float32, "w+", shape=(z, x, y, classes))
        yield np.moveaxis(stored, 0, 2)
