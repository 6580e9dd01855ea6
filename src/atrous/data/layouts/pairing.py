"""Functions that several layouts use: they find pictures in a folder, pair them with masks, and read class tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from atrous.data.dataset import Item
from atrous.data.mask_value_map import ClassTable
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.skipped_files import KNOWN_ENDINGS, passed_over_notes
from atrous.data.volumes.series_places import holds_dicom, is_series
from atrous.data.volumes.slices import is_volume, volume_name
from atrous.data.volumes.volume_files import SUFFIXES
from atrous.errors import AtrousError

CLASSES_FILE = "classes.yaml"


class NoClassesError(AtrousError):
    """The dataset does not define the classes of the values in its masks.

    Attributes:
        notes: sentences about files that may be meant to define the classes, but are not read.
    """

    def __init__(self, message: str, notes: Iterable[str] = ()) -> None:
        self.notes = tuple(notes)
        super().__init__(" ".join([message, *self.notes]))


class NoPicturesError(AtrousError):
    """A folder for pictures or masks is missing or contains no pictures."""


def classes_of(root: Path, given: ClassTable | None, default: ClassTable | None = None) -> ClassTable:
    """Returns the class table of a dataset: the given table, else its ``classes.yaml``, else the default.

    Args:
        root: the dataset's folder.
        given: class table to use instead of the dataset's own, or None.
        default: class table of the layout, or None.

    Raises:
        NoClassesError: there is no class table.
        AtrousError: the ``classes.yaml`` is invalid.
    """
    if given is not None:
        return given
    path = root / CLASSES_FILE
    if path.exists():
        return ClassTable.from_yaml(path)
    if default is not None:
        return default
    raise NoClassesError(
        f"{root}: there is no {CLASSES_FILE}, which defines the classes of the values in the masks. "
        f"`atrous doctor {root} --write-classes` writes one from the values it finds."
    )


def pictures_in(folder: Path, *, series: bool = False, labels: bool = False) -> dict[str, Path]:
    """Returns the pictures and volumes of a folder by stem.

    Args:
        folder: the folder, whose subfolders are not searched.
        series: whether subfolders and ZIP files with a DICOM series also count as pictures.
        labels: whether DICOM files, and subfolders with DICOM files, also count as masks.

    Raises:
        NoPicturesError: the folder is missing or contains no pictures.
        AtrousError: two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in [
        *picture_files(folder),
        *(_series_places(folder) if series else ()),
        *(_label_places(folder) if labels else ()),
    ]:
        stem = volume_name(path)
        if stem in found:
            raise AtrousError(
                f"{folder}: '{found[stem].name}' and '{path.name}' share the name '{stem}'. Pictures and masks are "
                "matched by this name, so rename or remove one of the two files."
            )
        found[stem] = path
    if not found:
        passed_over = "".join(f" {sentence}" for sentence in passed_over_notes([folder]))
        raise NoPicturesError(
            f"{folder}: no pictures. The names of pictures end in "
            f"{', '.join(sorted({*PICTURE_SUFFIXES, *SUFFIXES}))}.{passed_over}"
        )
    return found


def picture_files(folder: Path) -> list[Path]:
    """Returns the pictures and volumes of a folder, sorted; hidden files are skipped.

    Args:
        folder: the folder, whose subfolders are not searched.

    Raises:
        NoPicturesError: there is no such folder.
    """
    if not folder.is_dir():
        raise NoPicturesError(f"{folder}: no such folder.")
    with os.scandir(folder) as entries:  # scandir reports folders without a system call for each entry
        files = (folder / entry.name for entry in entries if not (entry.name.startswith(".") or entry.is_dir()))
        return sorted(path for path in files if path.suffix.lower() in PICTURE_SUFFIXES or is_volume(path))


def _series_places(folder: Path) -> list[Path]:
    """Returns the subfolders and the ZIP files of a folder that contain DICOM files, sorted."""
    with os.scandir(folder) as entries:
        inside = [folder / entry.name for entry in entries if not entry.name.startswith(".")]
    return sorted(path for path in inside if is_series(path) and holds_dicom(path, below=True, skipped=KNOWN_ENDINGS))


def _label_places(folder: Path) -> list[Path]:
    """Returns the DICOM files of a folder, and its subfolders that contain DICOM files, sorted."""
    with os.scandir(folder) as entries:
        inside = [folder / entry.name for entry in entries if not entry.name.startswith(".")]
    files = {path for path in inside if path.suffix.lower() == ".dcm" and path.is_file()}
    return sorted(files | {path for path in inside if path.is_dir() and holds_dicom(path, below=True)})


def paired(images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Item, ...]:
    """Returns one item for each picture.

    Args:
        images: the pictures by stem.
        masks: the masks by the stem of their picture. An item without a mask gets None.
    """
    return tuple(Item(name, image, masks.get(name)) for name, image in images.items())


def paired_splits(
    images: Mapping[str, Mapping[str, Path]], masks: Mapping[str, Mapping[str, Path]]
) -> tuple[dict[str, tuple[Item, ...]], tuple[Path, ...]]:
    """Returns the items of each split of ``images``, and the masks in these splits that have no picture.

    Args:
        images: the pictures of each split by stem.
        masks: the masks of each of these splits by the stem of their picture.
    """
    splits = {name: paired(images[name], masks[name]) for name in images}
    orphans = (path for name in images for stem, path in masks[name].items() if stem not in images[name])
    return splits, tuple(orphans)


def without_ending(files: Mapping[str, Path], ending: str) -> dict[str, Path]:
    """Returns the files whose stem ends in ``ending``, by the stem without this ending.

    Args:
        files: the files by stem.
        ending: last characters of the stem, such as "_0000".
    """
    return {stem.removesuffix(ending): path for stem, path in files.items() if stem.endswith(ending)}


def commonest_ending(kinds: Mapping[str, Mapping[str, Mapping[str, Path]]], folder: Path) -> tuple[str, str]:
    """Returns the ending of the kind of masks with the most files; the first such kind if several have the same number.

    Args:
        kinds: masks by the ending of their names, then by split, then by the stem of their picture.
        folder: folder of the masks, for messages.

    Returns:
        The ending, and a sentence that states which masks are read.

    Raises:
        AtrousError: there is no mask of any kind.
    """
    counts = {ending: sum(map(len, splits.values())) for ending, splits in kinds.items()}
    chosen = max(counts, key=lambda ending: counts[ending])  # the first of equal counts
    if not counts[chosen]:
        raise AtrousError(f"{folder}: there are no masks; their names end in {' or '.join(f'{e}.png' for e in kinds)}.")
    note = f"The masks *{chosen}.png are read. `atrous predict --raw` will write their values."
    others = [ending for ending in kinds if ending != chosen and counts[ending]]
    return chosen, note + "".join(
        f" To read *{ending}.png, move the masks *{chosen}.png to another folder." for ending in others
    )


def withheld_split_note(split: str, pictures: Path) -> str:
    """Returns a sentence that states that a split is left out because its masks are not published.

    Args:
        split: name of the split.
        pictures: the folder, list or glob pattern of its pictures.
    """
    return (
        f"There is no split '{split}', because there are no masks for {pictures}. Benchmarks do not publish the masks "
        "of test pictures. `atrous predict` predicts masks for these pictures; with --raw, these masks have the "
        "values of the dataset's masks."
    )
