"""Removes small connected parts of the classes in the mask of a volume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from atrous.data.volumes.grid import Grid
from atrous.data.volumes.slices import is_volume_place
from atrous.errors import AtrousError, missing_extra, named, shown
from atrous.models.info import Info
from atrous.option_fields import in_words
from atrous.paths import Place, shown_place

#: Name that stands for every class except the first class, the background.
ALL = "all"


class VolumeParts:
    """The connected parts of each class that a mask keeps; voxels of other parts become the first class.

    Voxels are connected if they share a face, an edge or a corner, as in nnU-Net's postprocessing.

    Args:
        classes: names of the K classes.
        largest: names of classes of which only the largest part is kept, such as ("liver",); ("all",) for every class
            except the first one.
        smallest: for classes by name, the smallest volume of a part that is kept, in millilitres. The name "all" gives
            this volume for all classes that are not named themselves, except the first one.

    Raises:
        AtrousError: a name is unknown or names the first class, or a volume is not a number above 0.
    """

    def __init__(
        self, classes: Sequence[str], *, largest: Sequence[str] = (), smallest: Mapping[str, float] | None = None
    ) -> None:
        smallest = {} if smallest is None else smallest
        for name in (*largest, *smallest):
            if name != ALL and name not in classes[1:]:
                raise AtrousError(
                    f"'{named(name)}' is not a class whose parts can be removed: the classes are "
                    f"{in_words(tuple(classes[1:]), 'and')}; {ALL} stands for all of them."
                )
        for name, volume in smallest.items():
            if not isinstance(volume, int | float) or not 0 < volume < float("inf"):
                raise AtrousError(f"the smallest volume of '{named(name)}' must be above 0 ml, got {shown(volume)}.")
        every = range(1, len(classes))
        #: Indices of the classes of which only the largest part is kept.
        self.largest = {index for index in every if ALL in largest or classes[index] in largest}
        #: Smallest volume of a part by class index, in millilitres.
        self.smallest = {
            index: volume for index in every if (volume := smallest.get(classes[index], smallest.get(ALL))) is not None
        }

    def clean(self, labels: np.ndarray, grid: Grid) -> None:
        """Removes the parts from a mask, in place.

        Args:
            labels: X×Y×Z class indices; 255 for no data, which is kept.
            grid: grid of the mask.

        Raises:
            AtrousError: scipy is needed and not installed.
        """
        milliliters = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
        for index in sorted(self.largest | self.smallest.keys()):
            box = _box(labels == index)
            if box is None:
                continue
            inside = labels[box]
            parts, sizes = _connected(inside == index)
            removed = sizes * milliliters < self.smallest.get(index, 0.0)
            if index in self.largest:
                removed |= np.arange(len(sizes)) != sizes.argmax()
            inside[np.concatenate([[False], removed])[parts]] = 0


def parts_to_keep(largest: Sequence[str], smallest: Sequence[str], info: Info) -> VolumeParts:
    """Returns the parts that the options of a command keep.

    Args:
        largest: as in `VolumeParts`.
        smallest: texts CLASS=ML, such as "liver=5", with the volumes of `VolumeParts`.
        info: metadata of the model.

    Raises:
        AtrousError: the model was trained on pictures, a text has another form, or as in `VolumeParts`.
    """
    if not info.preprocessing.image.planes:
        raise AtrousError(
            "largest-part and smallest-part are for volumes, and this model was trained on pictures: leave them out."
        )
    volumes = {}
    for text in smallest:
        name, _, number = text.rpartition("=")
        try:
            volumes[name] = float(number)
        except ValueError:
            raise AtrousError(f"smallest-part takes CLASS=ML, such as liver=5, got {shown(text)}.") from None
    return VolumeParts(tuple(info.classes), largest=tuple(largest), smallest=volumes)


def check_volumes(places: Iterable[Place]) -> None:
    """Checks that all inputs are whole volumes, because a slice does not show which of its parts are connected.

    Args:
        places: volumes, series, slices and pictures.

    Raises:
        AtrousError: an input is a slice or a picture.
    """
    for place in places:
        if not (isinstance(place, Path) and is_volume_place(place)):
            raise AtrousError(
                f"largest-part and smallest-part are for whole volumes, and {shown_place(place)} is a picture or a "
                "slice: leave the options out, or give the volume."
            )


def _box(where: np.ndarray) -> tuple[slice, ...] | None:
    """Returns the smallest box that contains all True voxels; None if there are none."""
    found = []
    for axis in range(3):
        along = np.flatnonzero(where.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(along):
            return None
        found.append(slice(along[0], along[-1] + 1))
    return tuple(found)


def _connected(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of each voxel's part, 0 outside, and the number of voxels of each part."""
    try:
        from scipy import ndimage
    except ImportError:
        raise missing_extra("scipy", "medical") from None
    parts, count = ndimage.label(where, structure=np.ones((3, 3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return parts, np.bincount(parts.ravel(), minlength=count + 1)[1:]
