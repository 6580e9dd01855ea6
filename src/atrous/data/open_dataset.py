"""Opens a folder as a dataset: finds its layout, the files of further inputs, and the groups of its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from atrous.checked_arguments import checked
from atrous.data.annotation_exports import label_export_told
from atrous.data.dataset import Dataset, Item
from atrous.data.input_files import FilesBeside, read_input_files, with_folders
from atrous.data.layouts.known_layouts import LAYOUTS
from atrous.data.layouts.mask_names import single_labels_note
from atrous.data.layouts.pairing import NoPicturesError
from atrous.data.mask_value_map import ClassTable
from atrous.data.skipped_files import passed_over_notes
from atrous.data.splits.groups import find_groups
from atrous.data.splits.random_split import seeded_split
from atrous.data.unread_folders import unread_folder_notes
from atrous.errors import AtrousError, shown, unknown_name


@checked
def open_dataset(
    root: Path | str,
    layout: str | None = None,
    classes: ClassTable | None = None,
    groups: str | None = None,
    *,
    inputs: Mapping[str, str] | None = None,
) -> Dataset:
    """Find the pictures, masks, splits, groups and classes in a folder; no picture is read yet.

    Args:
        root: the dataset's folder.
        layout: folder, split_folders, side_by_side, camvid, voc, cityscapes, ade20k, coco_stuff or nnunet; None to
            guess it, which the dataset's notes then say.
        classes: the class table to use instead of the dataset's own.
        groups: regular expression with one group, searched in the names of pictures: what it finds is their group.
            None for the groups that a groups.csv or the layout tells.
        inputs: folders of further inputs by name, such as {"depth": "depth/"}, beside those of the dataset's
            inputs.yaml; files belong to the picture of the same stem.

    Raises:
        AtrousError: there is no such folder or layout, the folder has no known layout, or it says nothing
            about its classes (``NoClassesError``), or one of its folders may not be read, or its groups.csv or the
            pattern of groups is wrong.
    """
    try:
        return _opened(Path(root), layout, classes, groups, inputs or {})
    except PermissionError as error:
        raise AtrousError(
            f"{error.filename or root}: this folder of the dataset may not be read by you ({error.strerror}). Change "
            "its permissions."
        ) from error


def _with_inputs(dataset: Dataset, folders: Mapping[str, str]) -> Dataset:
    """The dataset, whose items know the files of their further inputs."""
    inputs = with_folders(read_input_files(dataset.root), folders)
    if len(inputs) == 1:
        return replace(dataset, inputs=inputs)
    finders = [FilesBeside(one, dataset.root) for one in inputs[1:]]

    def with_files(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(replace(item, more=tuple(finder.of(item.image) for finder in finders)) for item in items)

    splits = {name: with_files(items) for name, items in dataset.splits.items()}
    return replace(dataset, inputs=inputs, splits=splits, unlisted=with_files(dataset.unlisted))


def _opened(
    root: Path, layout: str | None, classes: ClassTable | None, groups: str | None, inputs: Mapping[str, str]
) -> Dataset:
    if classes is not None and not isinstance(classes, ClassTable):
        raise AtrousError(f"classes must be a ClassTable, such as ClassTable.from_yaml reads, got {shown(classes)}.")
    if not root.is_dir():
        raise AtrousError(f"{root}: no such folder. Give the folder that holds the dataset.")
    if layout is not None and layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    name = layout or next((name for name, known in LAYOUTS.items() if known.looks_like(root)), None)
    if name is None:
        found = ", ".join(sorted(f"{path.name}/" for path in root.iterdir() if path.is_dir())) or "no folders"
        pngs = (path for pattern in ("*.png", "*/*.png") for path in sorted(root.glob(pattern)))
        if told := single_labels_note(pngs) or label_export_told(root):
            raise AtrousError(told)
        marks = ", ".join(f"'{name}' has {known.mark}" for name, known in LAYOUTS.items())
        raise AtrousError(
            f"{root}: no known dataset layout; it holds {found}. {marks}. "
            "Rename the folders, or give the folder one level up or down."
        )
    try:
        dataset = LAYOUTS[name].read(root, classes)
    except NoPicturesError as error:
        if told := label_export_told(root):
            raise AtrousError(told) from error
        raise
    dataset = _with_inputs(_grouped(dataset, groups, root), inputs)
    guessed = () if layout else (f"The folder looks like the layout '{name}'; --layout forces another.",)
    paths = (path for items in dataset.splits.values() for item in items for path in (item.image, item.mask))
    folders = list(dict.fromkeys(path.parent for path in paths if path is not None))
    beside = {path.parent for items in dataset.splits.values() for item in items for path in item.more}
    used = [*folders, *beside, *(path.parent for path in dataset.masks_without_image)]
    notes = (*guessed, *dataset.notes, *passed_over_notes(folders))
    return replace(dataset, notes=(*notes, *unread_folder_notes(root, used, notes)))


def _grouped(dataset: Dataset, pattern: str | None, root: Path) -> Dataset:
    """The dataset with the group of each item; a split that a seed made is made again of the groups that are told."""
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
        told = {name: items for name, items in splits.items() if not any(item.image in own for item in items)}
        parts, note = seeded_split(unlisted)
        if "test" in parts and "test" in told:
            parts["train"] += parts["test"]
        splits = {**parts, **told}
        _, before = seeded_split(dataset.unlisted)
        notes = tuple(note if said == before else said for said in notes)
    return replace(dataset, splits=splits, notes=notes, unlisted=unlisted, groups_from=groups.source)
