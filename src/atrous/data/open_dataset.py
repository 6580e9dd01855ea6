"""Opens a folder as a dataset: finds its layout, the files of further inputs, and the groups of its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from atrous.checked_arguments import checked
from atrous.data.annotation_exports import label_export_told
from atrous.data.dataset import Dataset, Item
from atrous.data.input_files import INPUTS_FILE, FilesBeside, InputFiles, read_input_files, with_folders
from atrous.data.layouts.known_layouts import LAYOUTS
from atrous.data.layouts.mask_names import single_labels_note
from atrous.data.layouts.pairing import NoPicturesError
from atrous.data.mask_value_map import ClassTable
from atrous.data.raster_items import with_windows
from atrous.data.skipped_files import passed_over_notes
from atrous.data.splits.groups import find_groups
from atrous.data.splits.random_split import seeded_split
from atrous.data.unread_folders import unread_folder_notes
from atrous.data.volume_items import with_slices
from atrous.data.volumes.slices import is_volume_place
from atrous.errors import AtrousError, shown, unknown_name
from atrous.input_spec import check_slices, checked_spacing


@checked
def open_dataset(
    root: Path | str,
    layout: str | None = None,
    classes: ClassTable | None = None,
    groups: str | None = None,
    *,
    inputs: Mapping[str, str] | None = None,
    planes: Sequence[str] = (),
    slices: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    window: int | None = None,
) -> Dataset:
    """Finds the pictures, masks, splits, groups and classes in a folder, without reading a picture.

    Args:
        root: the dataset's folder.
        layout: name of the layout: folder, split_folders, side_by_side, camvid, voc, cityscapes, ade20k, coco_stuff,
            nnunet or rasters. None to guess the layout; the notes of the dataset then contain its name.
        classes: the class table to use instead of the dataset's own.
        groups: regular expression with one pair of brackets, searched in the file names of the pictures. The text in
            the brackets is the group of the picture. None to take the groups from groups.csv or from the layout.
        inputs: folders of further inputs by name, such as {"depth": "depth/"}, in addition to the inputs in the
            dataset's inputs.yaml. Each file belongs to the picture with the same file name without suffix.
        planes: for a dataset of volumes, the planes whose slices are read as pictures: "axial", "coronal" or
            "sagittal". () to take the planes from inputs.yaml, or axial if inputs.yaml has none.
        slices: for a dataset of volumes, the number of neighbouring slices that are read as the channels of one
            picture: odd, 1 or more. None to take the number from inputs.yaml, or 1 if inputs.yaml has none.
        spacing: for a dataset of volumes, the voxel sides to which volumes are resampled, along right, anterior and
            superior, > 0, in millimetres; the slices are then slices of the resampled volumes. None for no resampling.
        window: for a dataset of the layout rasters, scenes are read in windows of at most this height and width, ≥ 1,
            in pixels; None for 512.

    Raises:
        AtrousError: there is no such folder or layout; the folder has no known layout; nothing defines its classes
            (``NoClassesError``); the user has no permission to read one of its folders; or groups.csv, inputs.yaml or
            an argument is invalid.
    """
    check_slices(1 if slices is None else slices, planes)
    sides = checked_spacing(spacing)
    whole = open_whole(root, layout, classes, groups, inputs=inputs)
    return with_windows(with_slices(whole, tuple(planes), slices, sides), window)


def open_whole(
    root: Path | str,
    layout: str | None = None,
    classes: ClassTable | None = None,
    groups: str | None = None,
    *,
    inputs: Mapping[str, str] | None = None,
) -> Dataset:
    """Opens a dataset as `open_dataset` does, but items are whole volumes and whole scenes.

    Args:
        root: as for `open_dataset`.
        layout: as for `open_dataset`.
        classes: as for `open_dataset`.
        groups: as for `open_dataset`.
        inputs: as for `open_dataset`.

    Raises:
        AtrousError: as for `open_dataset`; no volume is read, so damaged volumes raise nothing.
    """
    try:
        return _opened(Path(root), layout, classes, groups, inputs or {})
    except PermissionError as error:
        raise AtrousError(
            f"{error.filename or root}: you have no permission to read this folder of the dataset ({error.strerror}). "
            "Change its permissions."
        ) from error


def _with_inputs(dataset: Dataset, folders: Mapping[str, str]) -> Dataset:
    """Returns the dataset with the files of the further inputs in each item."""
    inputs = with_folders(read_input_files(dataset.root, dataset.inputs[0]), folders)
    _check_window(dataset, inputs[0])
    if len(inputs) == 1:
        return replace(dataset, inputs=inputs)
    finders = [FilesBeside(one, dataset.root) for one in inputs[1:]]

    def with_files(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(replace(item, more=tuple(finder.of(item.image) for finder in finders)) for item in items)

    splits = {name: with_files(items) for name, items in dataset.splits.items()}
    return replace(dataset, inputs=inputs, splits=splits, unlisted=with_files(dataset.unlisted))


def _check_window(dataset: Dataset, image: InputFiles) -> None:
    """Raises AtrousError if the window of pictures is "foreground", which can be measured only over voxels."""
    items = (item for part in dataset.splits.values() for item in part)
    if image.measures_window and not any(is_volume_place(item.image) for item in items):
        raise AtrousError(
            f"{dataset.root / INPUTS_FILE}: {image.name}: the window is measured only for volumes: give "
            "window: [LOW, HIGH]."
        )


def _opened(
    root: Path, layout: str | None, classes: ClassTable | None, groups: str | None, inputs: Mapping[str, str]
) -> Dataset:
    if classes is not None and not isinstance(classes, ClassTable):
        raise AtrousError(f"classes must be a ClassTable, for example from ClassTable.from_yaml, got {shown(classes)}.")
    if not root.is_dir():
        raise AtrousError(f"{root}: no such folder. Give the folder that contains the dataset.")
    if layout is not None and layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    name = layout or next((name for name, known in LAYOUTS.items() if known.looks_like(root)), None)
    if name is None:
        found = ", ".join(sorted(f"{path.name}/" for path in root.iterdir() if path.is_dir())) or "no folders"
        pngs = (path for pattern in ("*.png", "*/*.png") for path in sorted(root.glob(pattern)))
        if message := single_labels_note(pngs) or label_export_told(root):
            raise AtrousError(message)
        marks = ", ".join(f"'{name}' has {known.mark}" for name, known in LAYOUTS.items())
        raise AtrousError(
            f"{root}: no known dataset layout; the folder contains {found}. Known layouts: {marks}. "
            "Rename the folders, or give the folder one level above or below."
        )
    try:
        dataset = LAYOUTS[name].read(root, classes)
    except NoPicturesError as error:
        if message := label_export_told(root):
            raise AtrousError(message) from error
        raise
    dataset = _with_inputs(_grouped(dataset, groups, root), inputs)
    guessed = () if layout else (f"The folder looks like the layout '{name}'; --layout chooses another layout.",)
    items = [item for part in dataset.splits.values() for item in part]
    paths = dict.fromkeys(path for item in items for path in (item.image, item.mask) if path is not None)
    folders = list(dict.fromkeys(path.parent for path in paths))
    beside = {path.parent for item in items for path in item.more}
    used = [*folders, *beside, *(path.parent for path in dataset.masks_without_image)]
    notes = (*guessed, *dataset.notes, *passed_over_notes(folders, {*paths, *dataset.masks_without_image}))
    return replace(dataset, notes=(*notes, *unread_folder_notes(root, used, notes)))


def _grouped(dataset: Dataset, pattern: str | None, root: Path) -> Dataset:
    """Returns the dataset with the group of each item.

    If groups.csv or a pattern defines the groups, a random split is made again, so that it keeps groups together.
    """
    there = {item.image: item.name for items in dataset.splits.values() for item in items if not item.listed}
    groups = find_groups(there, dataset.root, dataset.layout, pattern, above=root)
    notes = (*dataset.notes, *groups.notes)
    if not groups.source:
        return replace(dataset, notes=notes)

    def with_groups(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(replace(item, group=groups.of.get(item.image)) for item in items)

    splits = {name: with_groups(items) for name, items in dataset.splits.items()}
    unlisted = with_groups(dataset.unlisted)
    if unlisted and groups.source != "layout":
        own = {item.image for item in unlisted}
        listed = {name: items for name, items in splits.items() if not any(item.image in own for item in items)}
        parts, note = seeded_split(unlisted)
        if "test" in parts and "test" in listed:
            parts["train"] += parts["test"]
        splits = {**parts, **listed}
        _, before = seeded_split(dataset.unlisted)
        notes = tuple(note if old == before else old for old in notes)
    return replace(dataset, splits=splits, notes=notes, unlisted=unlisted, groups_from=groups.source)
