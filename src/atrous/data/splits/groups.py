"""Groups of pictures that come from one source, such as a patient, scene, clip or recording.

The groups come from ``groups.csv`` in the dataset's folder, else from a name pattern that the user gives, else from the
layout. Pictures of one group resemble each other. Therefore, confidence intervals are computed over groups. If the
groups come from ``groups.csv`` or from a pattern, a random split keeps each group together. Groups from the layout do
not change a random split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atrous.data.splits.split_names import SPELLINGS
from atrous.data.splits.split_rows import IMAGE_HEADS, stem_of
from atrous.data.text_files import decodings, table_of
from atrous.data.volumes.slices import is_volume_place
from atrous.errors import AtrousError, counted

GROUPS_FILE = "groups.csv"
_TABLES = frozenset({".csv", ".tsv"})
#: File formats in which users may store a table of groups, but which are not read.
_UNREAD = frozenset({".txt", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".xlsx", ".xls", ".ods", ".parquet", ".pkl"})
_GROUP_WORDS = """
group patient subject case person donor animal scene sequence seq clip video recording session site location place slide
flight drive track run study series volume scan stack specimen cluster
"""
_GROUP_HEAD = re.compile(rf"({'|'.join(_GROUP_WORDS.split())})s?([ _-]?(id|ids|name|no|nr|number|key|index))?")
_EXAMPLE = r"^(.+)_\d+$"

#: For each layout: a pattern for the names of its pictures, with the group in brackets, and the kind of group.
_LAYOUTS = {
    "cityscapes": (re.compile(r"(.+_\d{6})_\d{6}_leftImg8bit"), "city and sequence"),
    "camvid": (re.compile(r"(\d{4}[A-Z\d]{2}|Seq\d{2}VD)_f?\d+.*"), "recording"),
    "nnunet": (re.compile(r"(.+)"), "case"),
}


@dataclass(frozen=True)
class Groups:
    """The group of each picture, and the source of the groups.

    Attributes:
        of: the group of each picture by the picture's path; None for a picture that is in no group.
        source: "file" for a groups.csv, "pattern" for the user's pattern, "layout" for the names or folders of the
            layout, "" if no group is known.
        notes: sentences for the user.
    """

    of: Mapping[Path, str | None]
    source: Literal["file", "pattern", "layout", ""] = ""
    notes: tuple[str, ...] = ()


def find_groups(
    pictures: Mapping[Path, str], root: Path, layout: str = "", pattern: str | None = None, above: Path | None = None
) -> Groups:
    """Returns the groups of a dataset's pictures: from ``groups.csv``, else from the pattern, else from the layout.

    Args:
        pictures: the name of each picture (file name without suffix) by its path.
        root: the dataset's folder.
        layout: the name of the dataset's layout. For "cityscapes", "camvid" and "nnunet", the groups come from the file
            names. For any other value, such as "", the folder of a picture is its group, if there are more folders
            than splits.
        pattern: a regular expression with one pair of brackets, searched in each name; the text in the brackets is the
            group. None to use no pattern.
        above: a folder above ``root`` that is also searched for ``groups.csv``; None to search ``root`` only.

    Raises:
        AtrousError: the pattern or the groups.csv is invalid, or gives no group for a picture.
    """
    table, unread = _files({root, above or root})
    given = None if pattern is None else compiled_pattern(pattern)
    notes = tuple(
        f"{path} is not read: write the groups as {GROUPS_FILE} with the columns picture and group." for path in unread
    )
    if table is not None:
        of, more = _from_file(table, pictures, root)
        if pattern is not None:
            more = (*more, f"The pattern of groups '{pattern}' is not used, because {table.name} defines the groups.")
        return Groups(of, "file", (_stated(of, table.name), *more))
    if given is not None:
        of = _by_pattern(given, pictures)
        return Groups(of, "pattern", (_stated(of, f"the pattern '{pattern}'"), *notes))
    of, what = _by_layout(pictures, root, layout)
    said = (f"{_stated(of, what)} Use {GROUPS_FILE} or --groups to change them.",) if of else ()
    return Groups(of, "layout" if of else "", (*said, *notes))


def compiled_pattern(pattern: str) -> re.Pattern[str]:
    """Compiles a pattern of groups.

    Args:
        pattern: a regular expression with one pair of brackets, around the part of the name that pictures of one
            patient, scene or recording share.

    Raises:
        AtrousError: the pattern is not a regular expression, or it does not have exactly one capturing group.
    """
    advice = (
        "Put the part of the name that pictures of one patient, scene or recording share in one pair of brackets, "
        f"as in '{_EXAMPLE}'."
    )
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise AtrousError(f"groups is '{pattern}', which is not a regular expression: {error}. {advice}") from error
    if compiled.groups != 1:
        raise AtrousError(
            f"groups is '{pattern}', which has {compiled.groups} groups in brackets; it needs one. {advice} "
            "Write brackets that mark no group as (?:…)."
        )
    return compiled


def _stated(of: Mapping[Path, str | None], source: str) -> str:
    named = {group for group in of.values() if group is not None}
    alone = sum(group is None for group in of.values())
    noun = "volume" if any(map(is_volume_place, of)) else "picture"
    more = f", and {counted(alone, noun)} in no group" if alone else ""
    grouped = f"{counted(len(of) - alone, noun)} in {counted(len(named), 'group')}"
    return f"Groups of {noun}s, from {source}: {grouped}{more}."


def _by_pattern(pattern: re.Pattern[str], pictures: Mapping[Path, str]) -> dict[Path, str | None]:
    found = {path: pattern.search(name) for path, name in pictures.items()}
    if missed := sorted(pictures[path] for path, match in found.items() if not (match and match[1])):
        raise AtrousError(
            f"groups is '{pattern.pattern}', which finds no group in {len(missed)} of "
            f"{counted(len(pictures), 'name')}, such as '{missed[0]}'. The pattern must match every name, "
            f"without suffix. Correct it, or write a {GROUPS_FILE} with the columns picture and group."
        )
    return {path: match[1] for path, match in found.items() if match}


def _by_layout(pictures: Mapping[Path, str], root: Path, layout: str) -> tuple[dict[Path, str | None], str]:
    """Returns the groups from the file names or folders of the pictures, and their source as text for a note.

    Without groups, the dict is empty.
    """
    if layout in _LAYOUTS:
        names, what = _LAYOUTS[layout]
        matches = {path: names.fullmatch(name) for path, name in pictures.items()}
        of = {path: match[1] for path, match in matches.items() if match} if all(matches.values()) else {}
        return of, f"the file names ({what})"
    folders = {path: _folder(path, root) for path in pictures}
    of_split = {path: path.parent for path in pictures}
    # folders such as train/ and images/ are splits or kinds of files, and not scenes
    several = len(set(of_split.values())) > len({_split_of(path, root) for path in pictures})
    return (dict(folders) if several else {}), "the folders"


def _folder(path: Path, root: Path) -> str:
    """Returns the folder of a picture in the dataset, without the folder of its split: "images/scene_1"."""
    parts = _inside(path, root).parent.parts
    return "/".join(part for part in parts if not _is_split(part)) or "."


def _split_of(path: Path, root: Path) -> str:
    return "/".join(part for part in _inside(path, root).parent.parts if _is_split(part))


def _is_split(part: str) -> bool:
    words = set(re.split(r"[^a-z]+", part.lower()))
    return any(words.intersection(spellings) for spellings in SPELLINGS.values())


def _inside(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _files(folders: Iterable[Path]) -> tuple[Path | None, list[Path]]:
    """Returns the table of groups in the folders, or None, and the files ``groups.*`` that are not read.

    Raises:
        AtrousError: there are two tables.
    """
    files = sorted(path for folder in folders for path in folder.iterdir())
    named = [path for path in files if path.stem.lower() == "groups" and path.is_file()]
    tables = [path for path in named if path.suffix.lower() in _TABLES]
    if len(tables) > 1:
        raise AtrousError(f"{tables[0]} and {tables[1]} both define the groups of pictures. Remove or rename one.")
    unread = [path for path in named if path.suffix.lower() in _UNREAD]
    return (tables[0], []) if tables else (None, unread)


def _from_file(path: Path, pictures: Mapping[Path, str], root: Path) -> tuple[dict[Path, str | None], tuple[str, ...]]:
    """Reads the groups from a table; also returns a note if the table contains names that match no picture.

    Raises:
        AtrousError: the table is unreadable, contradicts itself or gives no group for a picture.
    """
    index = _index(pictures, root)
    readings = [_rows(path, _cells(path, text), index) for text in decodings(path)]
    # if several encodings fit, the encoding in which most names match pictures is used
    rows = max(readings, key=lambda rows: sum(stem_of(name, index) in index for name, _ in rows))
    groups: dict[Path, str | None] = {}
    strange = []
    for name, group in rows:
        found = index.get(stem_of(name, index), ())
        if len(found) > 1:
            raise AtrousError(
                f"{path}: '{name}' matches {counted(len(found), 'picture')}: {found[0]} and {found[1]}. Write "
                f"paths relative to the dataset's folder instead, such as '{_inside(found[0], root).as_posix()}'."
            )
        if not found:
            strange.append(name)
            continue
        if groups.setdefault(found[0], group) != group:
            raise AtrousError(
                f"{path}: '{name}' is in the groups '{groups[found[0]]}' and '{group}'. A picture can be in "
                "only one group: remove one of the lines."
            )
    missing = sorted(name for picture, name in pictures.items() if picture not in groups)
    if missing:
        example = f"It names '{strange[0]}', which is not a picture of this dataset. " if strange else ""
        raise AtrousError(
            f"{path}: it gives no group for {len(missing)} of {counted(len(pictures), 'picture')}, such as "
            f"'{missing[0]}'. {example}Add a line 'picture,group' for each, with an empty group for a picture "
            "that is in no group. Write names with or without suffix."
        )
    names = f"{path.name} names {counted(len(strange), 'picture')} that the dataset does not have, such as"
    return groups, (f"{names} '{strange[0]}'.",) if strange else ()


def _index(pictures: Mapping[Path, str], root: Path) -> dict[str, list[Path]]:
    """Returns the pictures by name and by every end of their path, such as "scene_1/a.png" or "a"."""
    index: dict[str, list[Path]] = {}
    for path, name in pictures.items():
        parts = _inside(path, root).parts
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        for key in {name, *tails, *(tail.removesuffix(path.suffix) for tail in tails)}:
            index.setdefault(key, []).append(path)
    return index


def _cells(path: Path, text: str) -> list[list[str]]:
    """Returns the cells of each line; without delimiters, the last word of a line is its second cell."""
    table = table_of(path, text)
    if all(len(cells) == 1 for cells in table):
        return [cells[0].rsplit(maxsplit=1) for cells in table]
    return table


def _rows(path: Path, table: list[list[str]], index: Mapping[str, object]) -> list[tuple[str, str | None]]:
    """Returns the picture and the group in each line of a table; a header and comments are left out."""
    table = [cells for cells in table if not cells[0].startswith("#") or stem_of(cells[0], index) in index]
    width = max(map(len, table), default=0)
    if width < 2:
        raise AtrousError(
            f"{path}: it {'has one column' if table else 'is empty'}; it needs the columns picture and group. Write "
            "'picture,group' as its first line and a line for each picture, or remove the file."
        )
    head = [cell.lower() for cell in table[0]] + [""] * (width - len(table[0]))
    known = Counter(
        column for cells in table for column, cell in enumerate(cells) if cell and stem_of(cell, index) in index
    )
    picture = max(range(width), key=lambda column: (known[column], head[column] in IMAGE_HEADS, -column))
    others = [column for column in range(width) if column != picture]
    groups = [column for column in others if head[column] in ("group", "groups")]
    groups = groups or [column for column in others if _GROUP_HEAD.fullmatch(head[column])]
    is_head = bool(groups) or head[picture] in IMAGE_HEADS
    if stem_of(table[0][picture] if picture < len(table[0]) else "", index) in index:
        is_head, groups = False, []
    groups = groups or others[: 1 if width == 2 else 0]
    if len(groups) != 1:
        raise AtrousError(
            f"{path}: its columns are '{', '.join(table[0])}', and it is unclear which of them is the group. "
            "Name the columns picture and group in the first line."
        )
    rows = ((_cell(cells, picture), _cell(cells, groups[0])) for cells in (table[1:] if is_head else table))
    return [(name, group) for name, group in rows if name]


def _cell(cells: list[str], column: int) -> str | None:
    return cells[column] or None if column < len(cells) else None
