"""The pictures that files, folders and glob patterns name, and what is said of those that are passed over."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich.markup import escape

from atrous.console import console, note
from atrous.data.passed_over import passed_over_notes
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.unread_folders import folders_with_pictures
from atrous.errors import AtrousError, counted
from atrous.outputs import is_our_picture
from atrous.picture_marks import is_marked

#: Subfolders with pictures that are named, because they are not searched.
SUBFOLDERS = 4


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Files, the pictures in folders and what glob patterns match, each once, in order.

    In a folder, pictures that atrous wrote are passed over, even those that somebody changed afterwards: masks may lie
    beside the pictures. Subfolders are not searched; those that hold pictures are named.

    Args:
        paths: files, folders and glob patterns.

    Raises:
        AtrousError: a path that is nothing, or no picture in the end.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            matches = _in_folder(path)
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]  # noqa: PTH207 (absolute patterns)
            if not matches:
                raise AtrousError(f"{path}: no such file or folder, and no file matches it as a pattern.")
        found |= dict.fromkeys(matches)
    below = _pictures_below([Path(path) for path in paths])
    if not found:
        known = ", ".join(sorted(PICTURE_SUFFIXES))
        raise AtrousError(f"no pictures in {', '.join(map(str, paths))}; known are {known}. {below}".rstrip())
    if below:
        note(below)
    return list(found)


def _in_folder(folder: Path) -> list[Path]:
    """The pictures of a folder; says which files are passed over."""
    candidates = sorted(file for file in folder.iterdir() if _is_picture(file))
    marked = [file for file in candidates if is_marked(file)]
    written = [file for file in marked if is_our_picture(file)]
    changed = [file for file in marked if file not in set(written)]
    if written:
        note(f"{counted(len(written), 'picture')} in {folder} passed over: written by atrous")
    if changed:
        shown = changed[0].name if len(changed) == 1 else f"{changed[0].name}, …"
        note(
            f"{counted(len(changed), 'picture')} in {folder} passed over: written by atrous and changed afterwards, so "
            f"probably corrected masks ({shown}); to segment one, give it by its name"
        )
    for sentence in passed_over_notes([folder]):
        console.print(escape(sentence))
    return [file for file in candidates if file not in set(marked)]


def _pictures_below(given: Sequence[Path]) -> str:
    """A sentence that names the subfolders which hold pictures and are not given, or ""."""
    folders = [path for path in given if path.is_dir()]
    known = {folder.resolve() for folder in folders}
    found = (one for folder in folders for one in folders_with_pictures(folder, _is_to_predict))
    below = dict(islice((one for one in found if one[0].resolve() not in known), SUBFOLDERS + 1))
    if not below:
        return ""
    named = ", ".join(f"{folder} ({counted(count, 'picture')})" for folder, count in list(below.items())[:SUBFOLDERS])
    return f"Subfolders are not searched; give those that are meant: {named}{' …' if len(below) > SUBFOLDERS else ''}."


def _is_to_predict(path: Path) -> bool:
    return path.is_file() and not is_marked(path)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
