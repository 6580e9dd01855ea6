"""Files of further inputs beside the pictures of a dataset, such as depth: where they are, and what their values mean.

A dataset says so in its inputs.yaml, or the user does, as NAME=FOLDER:

    inputs:
      image: {bands: [red, green, blue, nir], colors: 3}
      depth: {folder: depth, unit: m, missing: [0], normalize: window, window: [0.3, 10]}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.remote.transfer import local_path
from atrous.data.text_files import read_text_file
from atrous.errors import AtrousError, shown, unknown_name
from atrous.input_spec import IMAGE, Input, check_input_name
from atrous.json_yaml import parse_yaml
from atrous.paths import is_url, shown_place

INPUTS_FILE = "inputs.yaml"
#: Words at the end of a picture's name in whose place a further input has its own name: a_rgb.png and a_depth.png.
PICTURE_WORDS = ("_rgb", "_color", "_colour", "_image", "_img", "-rgb", "-color", "-image")


@dataclass(frozen=True)
class InputFiles:
    """Where the files of one input are, and what is known of their values.

    Attributes:
        name: of the input, such as "image" or "depth".
        folder: of its files: absolute, or beside or in the folder of the pictures, in the dataset's root, or where the
            program runs. "" for the pictures themselves.
        bands: as of `atrous.input_spec.Input`.
        wavelengths: as of `Input`.
        unit: as of `Input`.
        missing: as of `Input`.
        colors: as of `Input`; None where the number of channels tells.
        normalize: as of `Input`.
        window: as of `Input`.
    """

    name: str
    folder: str = ""
    bands: tuple[str, ...] = ()
    wavelengths: tuple[float, ...] = ()
    unit: str = ""
    missing: tuple[float, ...] = ()
    colors: int | None = None
    normalize: str = "fixed"
    window: tuple[float, float] | None = None


#: What a dataset has that says nothing of inputs.
PICTURES_ALONE = (InputFiles(IMAGE),)


def read_input_files(root: Path) -> tuple[InputFiles, ...]:
    """What the inputs.yaml of a dataset says; of a dataset without one, that there are pictures.

    Args:
        root: the dataset's folder.

    Raises:
        AtrousError: the file is no such list.
    """
    path = root / INPUTS_FILE
    if not path.exists():
        return PICTURES_ALONE
    record = parse_yaml(read_text_file(path), str(path))
    entries = record.get("inputs") if isinstance(record, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise AtrousError(f"{path}: 'inputs' with a name and its fields for each is needed, got {shown(record)}.")
    found = tuple(_entry(path, name, value) for name, value in entries.items())
    image = next((one for one in found if one.name == IMAGE), InputFiles(IMAGE))
    return (image, *(one for one in found if one.name != IMAGE))


def _entry(path: Path, name: Any, value: Any) -> InputFiles:
    """One input of the file."""
    try:
        check_input_name(name)
        record = {"folder": value} if isinstance(value, str) else value
        if not isinstance(record, Mapping):
            raise AtrousError(f"fields such as {{folder: {name}}} are needed, got {shown(value)}.")
        allowed = [field.name for field in fields(InputFiles) if field.name != "name"]
        for field in record:
            if field not in allowed:
                raise unknown_name("field", field, allowed)
        given: dict[str, Any] = {
            field: tuple(entry) if isinstance(entry, list) else entry for field, entry in record.items()
        }
        entry = InputFiles(name, **given)
        _check_values(entry)
        if not isinstance(entry.folder, str) or (name != IMAGE and not entry.folder):
            raise AtrousError(f"'folder' is needed, a text such as {name}/, got {shown(entry.folder)}.")
        return entry
    except AtrousError as error:
        raise AtrousError(f"{path}: {name}: {error}") from error


def _check_values(entry: InputFiles) -> None:
    """Refuses what no input can have, before its files tell how many channels there are."""
    channels = 1
    for values in (entry.bands, entry.wavelengths):
        channels = len(values) if isinstance(values, tuple) and values else channels
    colors = entry.colors or 0
    channels = max(channels, colors) if isinstance(colors, int) else channels
    Input(
        (0.0,) * channels,
        (1.0,) * channels,
        dtype="float32",
        bands=entry.bands,
        wavelengths=entry.wavelengths,
        unit=entry.unit,
        missing=entry.missing,
        colors=colors,
        normalize=entry.normalize,  # pyright: ignore[reportArgumentType] (it is checked there)
        window=entry.window,
    )


def input_folders(words: Sequence[str]) -> dict[str, str]:
    """The folders of further inputs by name.

    Args:
        words: each NAME=FOLDER.

    Raises:
        AtrousError: another form, or a name twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not folder:
            raise AtrousError(f"an input is given as NAME=FOLDER, such as depth=depth/, got {word!r}.")
        check_input_name(name)
        place = local_path(folder) if is_url(folder) else folder
        if place is None:
            raise AtrousError(
                f"the input {name!r} is at {shown_place(folder)}, and pictures alone are fetched from URLs: copy the "
                "folder to this machine first."
            )
        if name in found or name == IMAGE:
            raise AtrousError(f"the input {name!r} is given twice{' (pictures are it)' if name == IMAGE else ''}.")
        found[name] = str(place)
    return found


def with_folders(known: Sequence[InputFiles], folders: Mapping[str, str]) -> tuple[InputFiles, ...]:
    """What is known of inputs, with folders that the user gave for them or for others.

    Args:
        known: of the dataset, the pictures first.
        folders: by the name of the input.
    """
    changed = tuple(replace(one, folder=folders.get(one.name, one.folder)) for one in known)
    names = {one.name for one in known}
    return (*changed, *(InputFiles(name, folder) for name, folder in folders.items() if name not in names))


class FilesBeside:
    """Finds the file of a further input that belongs to a picture.

    Args:
        files: where the input's files are.
        root: of the dataset; None for pictures of none, whose folder is looked for where the program runs first.
    """

    def __init__(self, files: InputFiles, root: Path | None) -> None:
        self._files, self._root = files, root
        self._stems: dict[Path, dict[str, Path]] = {}

    def of(self, picture: Path) -> Path:
        """The file, by the picture's stem; a path that does not exist where there is none.

        Args:
            picture: the path of a picture.

        Raises:
            AtrousError: two files have that stem.
        """
        folder, root = Path(self._files.folder), self._root
        here = Path()
        own = [picture.parent.parent, picture.parent]
        bases = [here] if folder.is_absolute() else [here, *own] if root is None else [own[0], root, own[1], here]
        folders = [place / folder for place in bases]
        stems = _stems(picture.stem, self._files.name)
        for place in dict.fromkeys(folders):
            for stem in stems:
                if (found := self._by_stem(place).get(stem)) is not None and found != picture:
                    return found
        place = next((place for place in folders if place.is_dir()), folders[0])
        return place / f"{picture.stem}{picture.suffix}"

    def _by_stem(self, folder: Path) -> dict[str, Path]:
        if folder not in self._stems:
            self._stems[folder] = _pictures_by_stem(folder)
        return self._stems[folder]


class SceneFiles:
    """Finds the files of the scenes that a model takes, from the paths of their pictures.

    Args:
        names: of the model's inputs, the pictures first.
        folders: of further inputs, by name; of one without a folder a folder of its own name is looked for.

    Raises:
        AtrousError: a folder for an input that the model does not take.
    """

    def __init__(self, names: Sequence[str], folders: Mapping[str, str]) -> None:
        for name in folders:
            if name not in names[1:]:
                further = ", ".join(names[1:]) or "pictures alone"
                raise AtrousError(f"the model has no input {name!r}; beside pictures it takes {further}.")
        self._names = tuple(names)
        self._finders = [FilesBeside(InputFiles(name, folders.get(name, name)), None) for name in names[1:]]

    def further(self, picture: Path) -> tuple[Path, ...]:
        """The files of a scene's further inputs; paths that do not exist where there are none.

        Args:
            picture: its path.
        """
        return tuple(finder.of(picture) for finder in self._finders)

    def of(self, picture: Path) -> dict[str, Path]:
        """The files of a scene by input, the picture first.

        Args:
            picture: its path.

        Raises:
            AtrousError: an input has no file.
        """
        found = dict(zip(self._names, (picture, *self.further(picture)), strict=True))
        for name, path in list(found.items())[1:]:
            if not path.exists():
                raise AtrousError(
                    f"{picture}: there is no {name} of it, {path}. Say where it is: --input {name}=FOLDER; a file has "
                    f"the stem of its picture, or that and _{name}."
                )
        return found


def _stems(picture: str, name: str) -> tuple[str, ...]:
    """The stems that the file of an input may have, the likeliest first."""
    bare = next((picture.removesuffix(word) for word in PICTURE_WORDS if picture.lower().endswith(word)), picture)
    return tuple(
        dict.fromkeys(f"{stem}{ending}" for stem in (picture, bare) for ending in ("", f"_{name}", f"-{name}"))
    )


def _pictures_by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    for path in (folder / name for name in names):
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        if path.stem in found:
            raise AtrousError(
                f"{folder}: '{found[path.stem].name}' and '{path.name}' share the name '{path.stem}', by which they "
                "are matched to pictures; rename or remove one."
            )
        found[path.stem] = path
    return found
