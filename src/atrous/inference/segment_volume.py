"""Segments a volume slice by slice, and averages the probabilities of several planes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.volumes.resampling import labels_of_probabilities, nearest_axis, resampled, target_grid
from atrous.data.volumes.scratch import VARIABLE, scratch_file
from atrous.data.volumes.slice_pixels import volume_pixels
from atrous.data.volumes.slices import AXES, pictures_of
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError
from atrous.inference.picture_input import Found
from atrous.inference.segmenter import Segmenter
from atrous.inference.slice_views import for_plane
from atrous.input_spec import Input

#: Number of bytes of probabilities that are kept in memory; more are kept in a scratch file.
IN_MEMORY = 2**29


def check_crf(image: Input) -> None:
    """Checks that a CRF can refine the masks of a model's volumes, because it refines single slices.

    Args:
        image: first input of the model.

    Raises:
        AtrousError: the model resamples volumes, or averages several planes.
    """
    if image.spacing is not None:
        raise AtrousError(
            "the CRF refines single slices, and this model resamples volumes and averages probabilities: leave the CRF "
            "out."
        )
    if len(image.planes) > 1:
        raise AtrousError("the CRF refines single slices, and this model averages several planes: leave the CRF out.")


def segment_volume(
    segmenter: Segmenter, volume: Volume, progress: Callable[[int, int], object] | None = None
) -> np.ndarray:
    """Segments a volume with the slices, the planes and the normalisation of the model.

    With one plane, each slice is a picture like any other: large ones are tiled, and scales, flip and the CRF apply.
    With several planes, the probabilities of each voxel are averaged over the planes. If the probabilities take more
    than 512 MB, they are kept in a scratch file, whose size is reported first.

    With a target spacing, the resampled volume is segmented, and it is normalised by the resampled values. Then the
    probabilities are resized to the volume's own grid, slice by slice. Each voxel gets the class with the highest
    resized probability.

    Args:
        segmenter: segmenter of a model that was trained on volumes.
        volume: volume with as many contrasts as the model takes.
        progress: called after each slice with the number of finished slices and the number of all slices.

    Returns:
        X×Y×Z uint8 class indices along right, anterior and superior; 255 where the volume holds no data.

    Raises:
        AtrousError: the model was trained on pictures, the volume has another number of contrasts, a CRF is given
            for several planes or a target spacing, or the disk has too little free space for the scratch file.
    """
    image = segmenter.info.preprocessing.image
    planes = image.planes
    if not planes:
        raise AtrousError(
            "the model was trained on pictures, not on slices of volumes: use a model that was trained on a dataset of "
            "volumes. A model of grey pictures also takes one slice, such as scan.nii.gz/axial/0012."
        )
    if segmenter.crf is not None:
        check_crf(image)
    spacing, missing = image.spacing, image.missing
    labels = np.zeros(volume.grid.shape, np.uint8)
    any_sizes = {plane: for_plane(segmenter.any_size, plane) for plane in planes}
    if len(planes) == 1 and spacing is None:
        masks = pictures_of(labels, planes[0])
        for plane, index, found in _slices(segmenter, volume, progress):
            prepared = segmenter.preparation.filled(found)
            masks[index] = any_sizes[plane](prepared, found.valid, name=f"{plane} slice {index}")
        return labels
    with ExitStack() as arrays:
        say, run = segmenter.any_size.say, volume
        if spacing is not None and (grid := target_grid(volume.grid, spacing)) is not volume.grid:
            shape = (*grid.shape, volume.values.shape[3])
            values = arrays.enter_context(_zeros(shape, "the resampled volume takes", say))
            run = resampled(volume, spacing, missing, values)
        shape = (*run.grid.shape, max(2, len(segmenter.info.classes)))
        sums = arrays.enter_context(_zeros(shape, "the probabilities of all planes take", say))
        for plane, index, found in _slices(segmenter, run, progress):
            prepared = segmenter.preparation.filled(found)
            name = f"{plane} slice {index}"
            pictures_of(sums, plane)[index] += any_sizes[plane].probabilities(prepared, name=name)
        nearest = None if spacing is None else nearest_axis(volume.grid, spacing)
        for index, chosen in enumerate(labels_of_probabilities(sums, volume.grid.shape, nearest)):
            labels[:, :, index] = chosen
    labels[~volume.valid(missing)] = IGNORE_INDEX
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
def _zeros(shape: tuple[int, ...], what: str, say: Callable[[str], object]) -> Iterator[np.ndarray]:
    """Returns float32 zeros: in memory, or in a scratch file if the array is large."""
    x, y, z, classes = shape
    size = 4 * x * y * z * classes
    if size <= IN_MEMORY:
        yield np.zeros(shape, np.float32)
        return
    with scratch_file() as file:
        free = shutil.disk_usage(file.parent).free
        need = f"{what} {size / 1e9:.1f} GB in a scratch file in {file.parent}"
        if free < size:
            raise AtrousError(
                f"{need}, and {free / 1e9:.1f} GB are free: set the environment variable {VARIABLE} to a folder on "
                "another disk."
            )
        say(need)
        # In this order, the voxels of an axial slice are neighbours in the file.
        stored = np.memmap(file, np.float32, "w+", shape=(z, x, y, classes))
        yield np.moveaxis(stored, 0, 2)
