"""Case ids of a dataset: its volumes, masks, groups and folders get names that do not identify a patient."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from traceback import extract_tb
from typing import Any

from atrous.data.dataset import Item
from atrous.data.file_of_picture import file_of_picture
from atrous.data.volumes.slices import slice_place, volume_name
from atrous.errors import AtrousError, OutOfMemory, no_encoding
from atrous.inference.case_ids import (
    Form,
    case_ids_of,
    forms_of,
    key_of,
    may_be_ordinary,
    with_forms,
    write_case_ids,
)
from atrous.memory_errors import is_out_of_memory
from atrous.paths import Place


@dataclass(frozen=True)
class DatasetCaseIds:
    """The ids of the volumes of a dataset; without volumes, all names are kept.

    Args:
        volumes: id of each volume by its place.
        masks: for the place of each mask, a text that names the mask by the id of its volume.
        groups: for each group, such as a patient, the id of its first volume.
        others: further names, such as those of folders with volumes of one group, each with its replacement.
    """

    volumes: Mapping[Path, str] = field(default_factory=dict)
    masks: Mapping[Path, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)

    def item(self, item: Item) -> Item:
        """Returns an item whose name and group are ids; its paths are unchanged.

        Args:
            item: item of the dataset.
        """
        if not self.volumes:
            return item
        name, place = self.volumes[file_of_picture(item.image)], slice_place(item.image)
        if place is not None:
            name = f"{name}_{place.plane}_{place.index:04d}"
        return replace(item, name=name, group=None if item.group is None else self.groups[item.group])

    def without_names(self, text: str) -> str:
        """Returns a text in which ids stand for the names of volumes, masks, groups and folders.

        Args:
            text: message about the dataset.
        """
        if not self.volumes:
            return text
        return with_forms(text, self._forms)

    @cached_property
    def _forms(self) -> list[Form]:
        ids: dict[Place, str] = {**self.volumes, **self.masks}
        return forms_of(ids, {**self.others, **self.groups})

    @contextmanager
    def named(self) -> Iterator[None]:
        """Replaces names by ids in the message of every error.

        Raises:
            OutOfMemory: memory ran out; errors of allocators, such as MemoryError, are raised unchanged.
            AtrousError: for every other error. The message of an unexpected error, such as KeyError, may contain any
                part of a name, so it is not shown. Instead, the files and lines of the traceback are shown.
        """
        try:
            yield
        except Exception as error:
            if not self.volumes or (not isinstance(error, AtrousError | OSError) and is_out_of_memory(error)):
                raise  # messages of allocators contain no names
            if isinstance(error, AtrousError | OSError | UnicodeError):
                said = no_encoding(error) if isinstance(error, UnicodeError) else error
                no_memory = isinstance(error, OutOfMemory) or getattr(error, "errno", None) == errno.ENOMEM
                raise (OutOfMemory if no_memory else AtrousError)(self.without_names(str(said))) from None
            lines = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
            raise AtrousError(
                f"an unexpected {type(error).__name__}, whose message may name patients. The command without "
                f"--case-ids shows it. The traceback is {', '.join(lines)}."
            ) from None

    def check_path(self, path: Path, words: str) -> None:
        """Checks that a path that is written into results contains no name of a volume or of a group.

        Args:
            path: the path.
            words: description of the path for the message.

        Raises:
            AtrousError: the path contains such a name.
        """
        if self.in_path(str(path)):
            raise AtrousError(
                f"the path of {words} contains the name of a volume or of a group, and the results contain this path: "
                "rename its folder, or leave --case-ids out."
            )

    def in_path(self, path: str) -> bool:
        """Returns whether a path or other text contains the name of a volume or of a group; case is ignored.

        Names that may be ordinary words or numbers, such as ``scan`` or ``1``, must be a whole part of the path, with
        or without its suffix.

        Args:
            path: the path.
        """
        text = path.casefold()
        parts = {one for part in re.split(r"[/\\]", text) for one in (part, Path(part).stem, part.partition(".")[0])}
        names = (*map(volume_name, self.volumes), *self.groups)
        return any(name.casefold() in (parts if may_be_ordinary(name) else text) for name in names if name)

    def in_results(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns results of `atrous evaluate` in which ids stand for the paths of volumes and masks.

        Args:
            results: results whose items have the names of `item`.
        """
        if not self.volumes:
            return results
        pictures = [{**entry, "image": entry["name"], "mask": entry["name"]} for entry in results["per_image"]]
        found = {**results, "per_image": pictures}
        if "volumes" in results:
            cases = [
                {**case, **dict.fromkeys(("volume", "mask"), self.volumes[Path(case["volume"])])}
                for case in results["volumes"]["cases"]
            ]
            found["volumes"] = {**results["volumes"], "cases": cases}
        return found


@contextmanager
def without_reasons(root: Path, *, private: bool = True) -> Iterator[None]:
    """Replaces the reason why a dataset cannot be read by a general message, because the reason may name patients.

    Args:
        root: folder of the dataset.
        private: False to keep all reasons.

    Raises:
        AtrousError: the dataset cannot be read. If there is no such folder or memory ran out, the reason is kept.
    """
    try:
        yield
    except (AtrousError, OSError) as error:
        if not private or isinstance(error, OutOfMemory) or not root.is_dir():
            raise
        raise AtrousError(
            f"{root}: the data set cannot be read. The reason may name patients, so only a command without --case-ids "
            f"shows it, such as `atrous doctor {root}`. `atrous doctor {root} --case-ids TABLE.csv` names unfit "
            "volumes by their ids."
        ) from None


def dataset_case_ids(table: Path, items: Sequence[Item], root: Path, *, write: bool = True) -> DatasetCaseIds:
    """Returns the ids of a dataset's volumes: those of the table, to which new ids are added.

    Args:
        table: the table, created if missing; see `write_case_ids`.
        items: slices of volumes, or whole volumes.
        root: folder of the dataset.
        write: False to leave the table unchanged.

    Raises:
        AtrousError: the table is not a table of case ids or cannot be written, or an item is not of a volume.
    """
    files: dict[Path, list[Item]] = {}
    for item in items:
        files.setdefault(file_of_picture(item.image), []).append(item)
    ids = case_ids_of(table, list(files))
    if write:
        write_case_ids(table, ids)
    by_key = {key_of(Path(place)): one for place, one in ids.items()}
    volumes = {file: by_key[key_of(file)] for file in files}
    masks: dict[Path, str] = {}
    groups: dict[str, str] = {}
    others: dict[str, str] = {}
    folders: dict[Path, set[str]] = {}
    for file, (first, *_) in files.items():
        place, new = slice_place(first.image), volumes[file]
        name = first.name if place is None else first.name.removesuffix(f"_{place.plane}_{place.index:04d}")
        others[name] = new
        group = name if first.group is None else first.group
        groups[group] = min(groups.get(group, new), new)
        mask = None if first.mask is None else file_of_picture(first.mask)
        if mask is not None:
            masks[mask] = f"the mask of {new}"
        for one in (file, *([] if mask is None else [mask])):
            for folder in one.parents:
                if folder != root and folder.is_relative_to(root):
                    folders.setdefault(folder, set()).add(group)
    for folder, inside in folders.items():
        if len(inside) == 1:
            new = f"a folder of {groups[inside.pop()]}"
            others |= {str(folder): new, str(folder.resolve()): new, folder.name: new}
    return DatasetCaseIds(volumes, masks, groups, others)
