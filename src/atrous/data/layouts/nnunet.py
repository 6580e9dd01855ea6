"""nnU-Net's layout: ``imagesTr/a_0000.png``, ``labelsTr/a.png``, ``dataset.json``; optionally ``imagesTs/ labelsTs/``.

The contrasts of a volume may be one 4-D file, or several files: ``a_0000.nii.gz``, ``a_0001.nii.gz`` … The mask of a
volume may also be a DICOM-SEG or RT-STRUCT: ``labelsTr/a.dcm``, or a folder ``labelsTr/a`` with one file. A mask may
also have the name that 3D Slicer gives it: ``labelsTr/a.seg.nrrd``.

Source: github.com/MIC-DKFZ/nnUNet, ``documentation/dataset_format.md``.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from atrous.data.class_files import named_classes
from atrous.data.dataset import Dataset, Item
from atrous.data.input_files import PICTURES_ALONE
from atrous.data.layouts.nnunet_channels import DATASET_FILE, channel_names, volumes_with_channels
from atrous.data.layouts.pairing import paired, pictures_in, withheld_split_note, without_ending
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.find_split_lists import find_lists
from atrous.data.splits.random_split import seeded_split
from atrous.data.splits.split_lists import listed_splits
from atrous.data.splits.unread_lists import check_no_list_is_unread
from atrous.data.volumes.contrast_files import (
    check_contrasts_exist,
    contrast_file,
    place_of_contrasts,
    stored_files,
)
from atrous.data.volumes.read_volume import volume_shape
from atrous.data.volumes.slices import is_volume, volume_stem
from atrous.errors import AtrousError, counted

_FIRST_CHANNEL = "_0000"
#: End of the stem of masks that 3D Slicer names, such as ``a.seg.nrrd``.
_SLICER_ENDING = ".seg"


def looks_like_nnunet(root: Path) -> bool:
    """Returns whether ``root`` has ``imagesTr/`` and ``labelsTr/``, or ``imagesTs/`` and ``labelsTs/``."""
    return any((root / f"images{part}").is_dir() and (root / f"labels{part}").is_dir() for part in ("Tr", "Ts"))


def read_nnunet(root: Path, classes: ClassTable | None = None) -> Dataset:
    """Opens a dataset of this layout; without split lists, the pictures in ``imagesTr/`` are split at random.

    The random split has a fixed seed. The pictures in ``imagesTs/`` are the split test if ``labelsTs/`` exists.

    Args:
        root: the folder with ``imagesTr/`` and ``labelsTr/``.
        classes: class table to use; None for ``classes.yaml``, else the labels in ``dataset.json``.

    Raises:
        AtrousError: a folder is missing or empty or mixes volumes and pictures, the channels of a picture are in
            several files, a contrast of a volume is missing, or a split list is unusable.
    """
    if not looks_like_nnunet(root):
        raise AtrousError(f"{root}: the layout 'nnunet' needs imagesTr/ and labelsTr/; they are missing.")
    splits: dict[str, tuple[Item, ...]] = {}
    notes: list[str] = []
    orphans: list[Path] = []
    unlisted: tuple[Item, ...] = ()
    for part in ("Tr", "Ts"):
        if not (root / f"images{part}").is_dir():
            continue
        if not (root / f"labels{part}").is_dir():
            notes.append(withheld_split_note("test", root / f"images{part}"))
            continue
        files = pictures_in(root / f"images{part}")
        images = _images(root / f"images{part}", files, root)
        notes += _unused_notes(files, images)
        masks = _masks(root / f"labels{part}", images)
        orphans += [path for stem, path in masks.items() if stem not in images]
        lists, more_notes = find_lists(root, images) if part == "Tr" else ([], ())
        notes += more_notes
        if part == "Ts":
            if "test" in splits:  # if the random split made a split test, the pictures in imagesTs/ replace it
                splits["train"] += splits["test"]
            splits["test"] = paired(images, masks)
        elif lists:
            splits.update(listed_splits(lists, root / f"images{part}", images, masks))
        else:
            check_no_list_is_unread(root, images)
            unlisted = paired(images, masks)
            parts, note = seeded_split(unlisted)
            splits.update(parts)
            notes.append(note)
    first = next(iter(splits.values()))
    table, more_notes = named_classes(root, classes, items=first)
    image, normalisation = PICTURES_ALONE[0], ()
    if any(is_volume(item.image) for item in first):
        image, normalisation = volumes_with_channels(channel_names(root))
    return Dataset(
        root,
        "nnunet",
        table,
        splits,
        (*notes, *more_notes, *normalisation),
        tuple(orphans),
        inputs=(image,),
        unlisted=unlisted,
    )


def _images(folder: Path, files: dict[str, Path], root: Path) -> dict[str, Path]:
    """Returns the pictures by the stem of their mask, which is their own stem without the channel number.

    Raises:
        AtrousError: the folder mixes volumes and pictures, a contrast is missing, or a picture is in several files.
    """
    images = without_ending(files, _FIRST_CHANNEL)
    more = sorted(stem for stem in files if not stem.endswith(_FIRST_CHANNEL) and stem[-5:-3] == "_0")
    if volumes := [file for file in files.values() if is_volume(file)]:
        if pictures := [file for file in files.values() if not is_volume(file)]:
            raise AtrousError(
                f"{folder}: the folder mixes volumes and pictures, such as {volumes[0].name} and {pictures[0].name}. "
                "Move the volumes or the pictures to a dataset of their own."
            )
        return _volumes(folder, files, root) if images or more else files
    if more:
        raise AtrousError(
            f"{folder}: '{files[more[0]].name}' is another channel of a picture. Each picture must be one file: join "
            "its channels into one TIFF."
        )
    return images or files


def _masks(folder: Path, images: dict[str, Path]) -> dict[str, Path]:
    """Returns the masks by the stem of their picture, or by their own stem if no picture matches."""
    found = {}
    files = pictures_in(folder, labels=any(map(is_volume, images.values())))
    for stem, path in files.items():
        plain = stem.removesuffix(_SLICER_ENDING)
        found[plain if plain in images and plain not in files else stem] = path
    return found


def _volumes(folder: Path, files: dict[str, Path], root: Path) -> dict[str, Path]:
    """Returns the volumes by the stem of their mask; for contrasts in several files, the place of the contrasts.

    Raises:
        AtrousError: a contrast is missing, or dataset.json names fewer contrasts than there are.
    """
    numbers: dict[Path, list[int]] = {}
    for stem, file in files.items():
        place = place_of_contrasts(file)
        if place is not None and stem[-4] == "0":
            numbers.setdefault(place, []).append(int(stem[-4:]))
    single = without_ending(files, _FIRST_CHANNEL)
    if not numbers:
        return single or files
    names, most = channel_names(root), 1 + max(map(max, numbers.values()))
    contrasts = len(names) or most
    if (most == contrasts == 1) or _hold_all_contrasts([contrast_file(place, min(n)) for place, n in numbers.items()]):
        return single or files
    for place, found in numbers.items():
        check_contrasts_exist(place, contrasts)
        if max(found) >= contrasts:
            raise AtrousError(
                f"{folder}: {DATASET_FILE} names {counted(contrasts, 'channel')} ({', '.join(names)}), and there is "
                f"{contrast_file(place, max(found)).name}. Correct the names, or remove the file."
            )
    return single if contrasts == 1 else {volume_stem(place): place for place in numbers}


def _hold_all_contrasts(files: list[Path]) -> bool:
    """Returns whether the first file with a readable header is 4-D, so that it holds all contrasts of its volume."""
    for file in files:
        with suppress(AtrousError):  # a damaged volume is reported with its name when it is read
            return volume_shape(file)[1] > 1
    return False


def _unused_notes(files: dict[str, Path], images: dict[str, Path]) -> tuple[str, ...]:
    """Returns a sentence about files that are not used because their names lack the ending of the other names."""
    used = {file for image in images.values() for file in stored_files(image)}
    unused = [file for file in files.values() if file not in used]
    if not unused:
        return ()
    (verb, names), more = (("is", "its name does"), "") if len(unused) == 1 else (("are", "their names do"), ", …")
    return (
        f"{unused[0].parent}: {counted(len(unused), 'file')} ({unused[0].name}{more}) {verb} not used, because {names} "
        f"not end in {_FIRST_CHANNEL}, as those of other files do. Rename such a file, for example to "
        f"{volume_stem(unused[0])}{_FIRST_CHANNEL}{unused[0].name.removeprefix(volume_stem(unused[0]))}.",
    )
