"""The folders of a model's further inputs in a dataset, such as depth, and the meaning of the values in their files.

A further input is an input besides the pictures. The inputs are listed in the dataset's inputs.yaml, or the user gives
their folders as NAME=FOLDER. Example of an inputs.yaml:

    inputs:
      image: {bands: [red, green, blue, nir], colors: 3}
      depth: {folder: depth, unit: m, missing: [0], normalize: window, window: [0.3, 10]}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.pixels import UNDECLARED_MISSING
from atrous.data.remote.transfer import local_path
from atrous.data.text_files import read_text_file
from atrous.errors import AtrousError, counted, shown, unknown_name
from atrous.input_spec import IMAGE, Input, Spacing, Window, check_input_name, check_slices, is_per_contrast
from atrous.json_yaml import parse_yaml
from atrous.paths import is_url, shown_place

INPUTS_FILE = "inputs.yaml"
#: Value of `InputFiles.window` for a window that is measured over the labelled voxels of the training volumes.
ToMeasure: TypeAlias = Literal["foreground"]
FOREGROUND: ToMeasure = "foreground"
#: Endings of a picture's name that may be missing in the name of the input's file: a_depth.png belongs to a_rgb.png.
PICTURE_WORDS = ("_rgb", "_color", "_colour", "_image", "_img", "-rgb", "-color", "-image")


@dataclass(frozen=True)
class InputFiles:
    """The folder of the files of one input, and the meaning of their values.

    Attributes:
        name: name of the input, such as "image" or "depth".
        folder: folder of the files of the input; "" for the pictures. A relative folder is searched in four places, in
            this order: beside the folder of the pictures; in the dataset's folder; inside the folder of the pictures;
            in the working directory.
        bands: names of the channels; () if they have no names.
        wavelengths: wavelength of each channel in nanometres; () if unknown.
        unit: unit of the values, such as "m"; "" if unknown.
        missing: values that mean "no data", in addition to the nodata values that the files declare; None if
            inputs.yaml lists none. See `missing_values`.
        colors: number of leading channels that are colours of a photograph: 0, 1 or 3; None to derive it from the
            number of channels.
        normalize: "fixed", "window" or "per_image"; see `atrous.input_spec.Input`. None for "fixed", or for "per_image"
            if the pictures are slices of volumes.
        window: (lowest, highest) value in raw units, to which "window" clips; None for no clipping. For volumes also
            "foreground": the values are percentiles 0.5 and 99.5 of the labelled voxels of the training split, which
            training measures. For volumes also a tuple with one window per contrast (channel of the volume); in this
            tuple, None stands for a contrast that is normalised by its own mean and standard deviation in each volume.
        slices: for volumes, the number of neighbouring slices that are the channels of one picture: odd, 1 or more.
        planes: for volumes, the planes of the slices: "axial", "coronal" or "sagittal"; () for axial slices.
        spacing: for volumes, the voxel sides in millimetres to which they are resampled, as in
            `atrous.input_spec.Input`; None for no resampling. inputs.yaml has no such field.
    """

    name: str
    folder: str = ""
    bands: tuple[str, ...] = ()
    wavelengths: tuple[float, ...] = ()
    unit: str = ""
    missing: tuple[float, ...] | None = None
    colors: int | None = None
    normalize: str | None = None
    window: Window | ToMeasure | tuple[Window | ToMeasure | None, ...] | None = None
    slices: int = 1
    planes: tuple[str, ...] = ()
    spacing: Spacing | None = None

    @property
    def missing_values(self) -> tuple[float, ...]:
        """Values that mean "no data" in pictures: those of inputs.yaml and `UNDECLARED_MISSING`.

        If the list in inputs.yaml is empty, only the values that the files declare mean "no data". In volumes, the
        values of `UNDECLARED_MISSING` are measurements.
        """
        given = self.missing or ()
        return given if self.planes or self.missing == () else tuple(dict.fromkeys((*given, *UNDECLARED_MISSING)))

    @property
    def measures_window(self) -> bool:
        """Whether training measures the window of at least one contrast."""
        return FOREGROUND in (self.window if is_per_contrast(self.window) else (self.window,))  # pyright: ignore[reportOperatorIssue]

    def windows_of(self, contrasts: int) -> tuple[Window | ToMeasure | None, ...]:
        """Returns the window of each contrast, None for a contrast that is not clipped.

        Args:
            contrasts: number of contrasts or channels of the files, ≥ 1.

        Raises:
            AtrousError: the windows are given per contrast, and their number differs from the number of contrasts.
        """
        if not is_per_contrast(self.window):
            return (self.window,) * contrasts  # pyright: ignore[reportReturnType]
        windows: Any = self.window
        if len(windows) != contrasts:
            raise AtrousError(
                f"the files have {counted(contrasts, 'contrast')}, but the normalisation is given for "
                f"{len(windows)}. Correct the window in {INPUTS_FILE}, or the channel names in dataset.json."
            )
        return windows

    def keeps_scale(self, contrasts: int) -> tuple[bool, ...]:
        """Returns, for each contrast, whether all files are scaled by the same factor.

        The result is False for a contrast that is divided by the standard deviation of each file.

        Args:
            contrasts: number of contrasts of a volume, ≥ 1.
        """
        if self.normalize != "window" or (is_per_contrast(self.window) and len(self.window or ()) != contrasts):
            return (self.normalize in (None, "fixed"),) * contrasts
        return tuple(window is not None for window in self.windows_of(contrasts))


#: The inputs of a dataset without an inputs.yaml: the pictures alone.
PICTURES_ALONE = (InputFiles(IMAGE),)


def read_input_files(root: Path, pictures: InputFiles = PICTURES_ALONE[0]) -> tuple[InputFiles, ...]:
    """Reads the inputs.yaml of a dataset; without such a file, the pictures are the only input.

    Args:
        root: the dataset's folder.
        pictures: input of the pictures; its normalisation is used if the inputs.yaml gives none for the pictures.

    Returns:
        The inputs, the pictures first.

    Raises:
        AtrousError: the file is not a valid inputs.yaml.
    """
    path = root / INPUTS_FILE
    if not path.exists():
        return (pictures,)
    record = parse_yaml(read_text_file(path), str(path))
    entries = record.get("inputs") if isinstance(record, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise AtrousError(
            f"{path}: the key 'inputs' is needed, a mapping from each input's name to its fields, got {shown(record)}."
        )
    found = tuple(_entry(path, name, value) for name, value in entries.items())
    image = next((one for one in found if one.name == IMAGE), pictures)
    if image.normalize is None:
        image = replace(image, normalize=pictures.normalize, window=pictures.window)
    return (image, *(one for one in found if one.name != IMAGE))


def _entry(path: Path, name: Any, value: Any) -> InputFiles:
    """Reads one input of the file."""
    try:
        check_input_name(name)
        record = {"folder": value} if isinstance(value, str) else value
        if not isinstance(record, Mapping):
            raise AtrousError(f"the input needs fields such as {{folder: {name}}}, got {shown(value)}.")
        allowed = [field.name for field in fields(InputFiles) if field.name not in ("name", "spacing")]
        for field in record:
            if field not in allowed:
                raise unknown_name("field", field, allowed)
        given: dict[str, Any] = {field: _tuples(entry) for field, entry in record.items()}
        if name == IMAGE and given.get("normalize") == "window" and given.get("window") is None:
            given["window"] = FOREGROUND
        entry = InputFiles(name, **given)
        _check_values(entry)
        if not isinstance(entry.folder, str) or (name != IMAGE and not entry.folder):
            raise AtrousError(f"the input needs a 'folder', a text such as {name}/, got {shown(entry.folder)}.")
        return entry
    except AtrousError as error:
        raise AtrousError(f"{path}: {name}: {error}") from error


def _check_values(entry: InputFiles) -> None:
    """Checks the fields of an input before its files are read, when its number of channels is not yet known."""
    channels = 1
    for values in (entry.bands, entry.wavelengths):
        channels = len(values) if isinstance(values, tuple) and values else channels
    colors = entry.colors or 0
    channels = max(channels, colors) if isinstance(colors, int) else channels
    check_slices(entry.slices, entry.planes)
    window: Any = entry.window
    each = window if is_per_contrast(window) else (window,)
    if is_per_contrast(window) and not any(each):
        raise AtrousError(f"window must have a window for at least one contrast, got {shown(window)}.")
    for one in each:
        if isinstance(one, str) and (one != FOREGROUND or entry.name != IMAGE):
            raise AtrousError(f"window must be [LOW, HIGH] or, for volumes, {FOREGROUND}, got {shown(one)}.")
        own = one is None and is_per_contrast(window) and entry.normalize == "window"
        Input(
            (0.0,) * channels,
            (1.0,) * channels,
            dtype="float32",
            bands=entry.bands,
            wavelengths=entry.wavelengths,
            unit=entry.unit,
            missing=() if entry.missing is None else entry.missing,
            colors=colors,
            normalize="per_image" if own else entry.normalize or "fixed",  # pyright: ignore[reportArgumentType]
            window=(0.0, 1.0) if one == FOREGROUND else one,
        )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def input_folders(words: Sequence[str]) -> dict[str, str]:
    """Parses texts of the form NAME=FOLDER; returns the folder of each further input by its name.

    Args:
        words: texts of the form NAME=FOLDER.

    Raises:
        AtrousError: a text has another form; a name is invalid, is given twice or is "image"; or a folder is a URL that
            is not a local path.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not folder:
            raise AtrousError(f"an input must have the form NAME=FOLDER, such as depth=depth/, got {word!r}.")
        check_input_name(name)
        place = local_path(folder) if is_url(folder) else folder
        if place is None:
            raise AtrousError(
                f"the input {name!r} is at {shown_place(folder)}, but only pictures are fetched from URLs: copy the "
                "folder to this machine first."
            )
        if name in found or name == IMAGE:
            pictures = " (the pictures are this input)" if name == IMAGE else ""
            raise AtrousError(f"the input {name!r} is given twice{pictures}; give each input once.")
        found[name] = str(place)
    return found


def with_folders(known: Sequence[InputFiles], folders: Mapping[str, str]) -> tuple[InputFiles, ...]:
    """Returns the inputs with the user's folders, which replace known folders or add further inputs.

    Args:
        known: the inputs of the dataset, the pictures first.
        folders: the user's folders, by the name of the input.
    """
    changed = tuple(replace(one, folder=folders.get(one.name, one.folder)) for one in known)
    names = {one.name for one in known}
    return (*changed, *(InputFiles(name, folder) for name, folder in folders.items() if name not in names))


class FilesBeside:
    """Finds the file of a further input that belongs to a picture.

    Args:
        files: the input, with the folder of its files.
        root: the dataset's folder; None for pictures outside a dataset. The working directory is then searched first.
    """

    def __init__(self, files: InputFiles, root: Path | None) -> None:
        self._files, self._root = files, root
        self._stems: dict[Path, dict[str, Path]] = {}

    def of(self, picture: Path) -> Path:
        """Returns the path of the input's file for a picture; if there is no such file, the path does not exist.

        The stem of the file is the stem of the picture, alone or followed by ``_NAME`` or ``-NAME``, where NAME is the
        name of the input. If the picture's stem has an ending such as ``_rgb``, this ending may be missing in the stem
        of the file.

        Args:
            picture: the path of a picture.

        Raises:
            AtrousError: two files of one folder have the same name without suffix.
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
    """Finds the files of all inputs of a model, from the paths of the pictures.

    A scene is one picture with the files of its further inputs.

    Args:
        names: names of the model's inputs, the pictures first.
        folders: folders of further inputs, by name of the input. The default is a folder with the name of the input.

    Raises:
        AtrousError: a folder is given for an input that the model does not have.
    """

    def __init__(self, names: Sequence[str], folders: Mapping[str, str]) -> None:
        for name in folders:
            if name not in names[1:]:
                further = ", ".join(names[1:])
                takes = f"besides pictures it takes {further}" if further else "it takes pictures alone"
                raise AtrousError(f"the model has no input {name!r}; {takes}.")
        self._names = tuple(names)
        self._finders = [FilesBeside(InputFiles(name, folders.get(name, name)), None) for name in names[1:]]

    def further(self, picture: Path) -> tuple[Path, ...]:
        """Returns the paths of a scene's further inputs; if a file is missing, its path does not exist.

        Args:
            picture: path of the scene's picture.
        """
        return tuple(finder.of(picture) for finder in self._finders)

    def of(self, picture: Path) -> dict[str, Path]:
        """Returns the files of a scene by input, the picture first.

        Args:
            picture: path of the scene's picture.

        Raises:
            AtrousError: an input has no file.
        """
        found = dict(zip(self._names, (picture, *self.further(picture)), strict=True))
        for name, path in list(found.items())[1:]:
            if not path.exists():
                raise AtrousError(
                    f"{picture}: its {name} is missing: there is no {path}. Give the folder: --input {name}=FOLDER. "
                    f"Each file must have the name of its picture without suffix, alone or followed by _{name}."
                )
        return found


def _stems(picture: str, name: str) -> tuple[str, ...]:
    """Returns the file names without suffix that an input's file may have, the most probable first."""
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
                f"{folder}: '{found[path.stem].name}' and '{path.name}' share the name '{path.stem}', and each "
                "picture needs exactly one file of an input; rename or remove one."
            )
        found[path.stem] = path
    return found
