"""Selects the channels of a picture that a model takes, and finds the pixels that have data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from atrous.checked_arguments import as_dict, attribute_of
from atrous.data.file_headers import Note, notes_on
from atrous.data.file_of_picture import file_of_picture
from atrous.data.formats.decoder_errors import TooLarge
from atrous.data.formats.pillow import pixels_of_picture
from atrous.data.pictures import read_picture
from atrous.data.pixels import PictureKind, StoredPixels, fill_missing
from atrous.data.rasters.band_names import bands_to_read
from atrous.data.remote.transfer import as_path, local_path
from atrous.data.sources.joined import joined
from atrous.data.sources.scene_files import as_input, read_input, standardised
from atrous.data.sources.source import Pixels
from atrous.data.volumes.slices import is_volume, slice_place
from atrous.errors import AtrousError, shown, unknown_name
from atrous.inference.data_array import is_data_array, pixels_of_data_array
from atrous.inference.value_range import medians_of, nearest_medians
from atrous.input_spec import Input, check_takes_pictures, spacing_in_words
from atrous.models.info import Preprocessing
from atrous.models.picture_checks import check_valid
from atrous.paths import Place, shown_place

if TYPE_CHECKING:
    from atrous.data.sources.source import Source, Window


@dataclass(frozen=True, eq=False)
class Found:
    """A picture that was read.

    Attributes:
        shown: H×W×C picture with all its bands, for display.
        image: H×W×C picture for the model; if it is from a file, it has only the channels that the model takes.
        valid: H×W booleans, False for pixels without data; None if all pixels have data.
        name: name of the file for messages; "" for no name.
        plane: plane of a slice: "axial", "coronal" or "sagittal"; "" for a picture.
        array: the `xarray.DataArray` of the picture; None if the picture is in another form.
    """

    shown: np.ndarray
    image: np.ndarray
    valid: np.ndarray | None
    name: str = ""
    plane: str = ""
    array: Any = None


def found_in(stored: StoredPixels, one: Input, name: str = "") -> Found:
    """Selects the channels for one input of a model from a file's pixels.

    Args:
        stored: pixels of the file, as read.
        one: input of the model.
        name: name of the file; "" for no name.

    Raises:
        AtrousError: the file's bands cannot be mapped to the channels of the input, or the model takes volumes.
    """
    check_takes_pictures(one)
    chosen = stored.choosing(bands_to_read(stored.names, one.bands, one.wavelengths, stored.channels))
    values, valid, _ = standardised(Pixels(*chosen.for_model(one.channels, one.mean, one.missing)), one)
    return Found(stored.values, values, valid, name)


def found_together(parts: Sequence[Found], inputs: Sequence[Input]) -> Found:
    """Joins the inputs of a scene into one picture; each input gets the value range that the model was trained on.

    Args:
        parts: one picture per input.
        inputs: inputs of the model, in the same order.

    Raises:
        AtrousError: the inputs differ in size, or the dtype of an input differs from that of the training.
    """
    if len(parts) == 1:
        return parts[0]
    values, valid, _ = joined([Pixels(part.image, part.valid) for part in parts], inputs)
    return replace(parts[0], image=values, valid=valid)


def parts_of(scene: Any, inputs: Sequence[Input]) -> list[Any]:
    """Splits a scene into the values of its inputs.

    Args:
        scene: dict of pictures by the names of the inputs; or, for a model with one input, the picture itself.
        inputs: inputs of the model; the result has the same order.

    Raises:
        AtrousError: an input is missing or unknown.
    """
    names = [one.name for one in inputs]
    form = "{" + ", ".join(f'"{name}": …' for name in names) + "}"
    if (parts := as_dict(scene, "the picture")) is None:
        if len(inputs) > 1:
            raise AtrousError(f"the model takes {' and '.join(names)}: give a dict, segmenter({form}).")
        return [scene]
    for name in parts:
        if name not in names:
            raise unknown_name("input of this model", name, names)
    if missing := [name for name in names if name not in parts]:
        raise AtrousError(f"the model takes {' and '.join(names)}, but the scene has no {' and no '.join(missing)}.")
    return [parts[name] for name in names]


def doubts_of_files(kinds: Mapping[Path, PictureKind], preprocessing: Preprocessing) -> Iterator[Note]:
    """Yields notes on pages and bands of files that the model does not read, and on files with inverted grey values.

    Args:
        kinds: kind of each picture, from the headers of the files.
        preprocessing: preprocessing of the model.
    """
    if len(kinds) == 1:
        for path, kind in kinds.items():
            yield from doubts_of_file(path, kind, preprocessing)
        return
    yield from notes_on(kinds, _channels_by_position(preprocessing), preprocessing.image.pages)


def doubts_of_file(name: str | Path, kind: PictureKind, preprocessing: Preprocessing) -> Iterator[Note]:
    """Yields the notes of `doubts_of_files` on one file; each note begins with the name of the file.

    Args:
        name: name of the picture in the notes.
        kind: kind of the picture, from its header.
        preprocessing: preprocessing of the model.
    """
    for note in notes_on({Path(name): kind}, _channels_by_position(preprocessing), preprocessing.image.pages):
        yield note._replace(message=f"{name}: {note.message}")


def _channels_by_position(preprocessing: Preprocessing) -> int | None:
    """Returns the number of channels that are the first bands of a file; None if bands are found by name."""
    image = preprocessing.image
    return None if image.bands or image.wavelengths else image.channels


def doubts_of(name: str | Path, pixels: StoredPixels, preprocessing: Preprocessing) -> Iterator[Note]:
    """Yields the notes of `doubts_of_file` on pixels that were read, and a note if their alpha may be a channel.

    Args:
        name: name of the picture in the notes.
        pixels: pixels as read.
        preprocessing: preprocessing of the model.
    """
    yield from doubts_of_file(name, pixels.kind, preprocessing)
    if preprocessing.image.channels != pixels.values.shape[2] and pixels.alpha_may_be_a_channel:
        yield doubt_of_alpha(name)


def doubt_of_alpha(name: str | Path) -> Note:
    """Returns the note on a picture whose alpha band has many values between zero and the maximum.

    Args:
        name: name of the picture.
    """
    return Note(
        "doubtful_alpha",
        f"{name}: its last band is marked as alpha but has many values between zero and the maximum, as near infrared "
        "would have (GDAL marks the fourth of four uint8 bands as alpha by default). The band is read as alpha: it is "
        "not a channel, and pixels where it is 0 have no data. To use the band as a channel, train a model whose "
        "model.in_channels is the number of all bands.",
        (Path(name),),
    )


def found_in_array(values: np.ndarray, one: Input) -> Found:
    """Prepares an H×W×C array for an input of a model; pixels with a NaN or infinite value count as missing data.

    Args:
        values: array of uint8, uint16 or float32.
        one: input of the model for the array.
    """
    found = _with_finite(values)
    image, valid, _ = as_input(Pixels(found.image, found.valid), one)
    return replace(found, image=image, valid=valid)


def found_in_memory(picture: Any, one: Input) -> Found:
    """Prepares a PIL image or an array for an input of a model.

    Args:
        picture: PIL image, DataArray of xarray, or an array as for `as_array`.
        one: input of the model for the picture.
    """
    check_takes_pictures(one)
    if isinstance(picture, Image.Image):
        return found_in(pixels_of_picture(picture), one)
    if is_data_array(picture):
        return replace(found_in(pixels_of_data_array(picture), one), array=picture)
    return found_in_array(as_array(picture), one)


def found_in_slice(place: Place, one: Input) -> Found:
    """Reads a slice of a volume, with its neighbours, for an input of a model.

    Args:
        place: path of the slice, such as ``scan.nii.gz/axial/0012``.
        one: input of the model.

    Raises:
        AtrousError: the volume is damaged or at a URL, has no such slice, or has another number of contrasts; or the
            model resamples volumes.
    """
    check_volumes_are_here([place])
    if one.spacing is not None:
        raise AtrousError(
            f"{shown_place(place)}: the model resamples volumes to voxels of "
            f"{spacing_in_words(one.spacing)}, so it segments whole volumes and no single slices of a file. Give the "
            "volume."
        )
    values, valid, _ = read_input(Path(place), one)
    one_slice = slice_place(Path(place))
    plane = "" if one_slice is None else one_slice.plane
    return Found(middle_slice(values, one), values, valid, shown_place(place), plane)


def middle_slice(values: np.ndarray, one: Input) -> np.ndarray:
    """Returns the contrasts of a slice without its neighbours.

    Args:
        values: H×W×C slice and its neighbours, as `read_slice` returns them.
        one: input of the model.
    """
    contrasts = values.shape[2] // one.slices
    middle = one.slices // 2 * contrasts
    return values[:, :, middle : middle + contrasts]


def check_volumes_are_here(places: Iterable[Place]) -> None:
    """Checks that no volume or slice is at a URL.

    Args:
        places: pictures, volumes and slices.

    Raises:
        AtrousError: a volume or slice is at a URL of another machine.
    """
    for place in places:
        if local_path(place) is None and is_volume(file_of_picture(as_path(place))):
            raise AtrousError(
                f"{shown_place(place)}: volumes at URLs are not read. Download the file, and give its path."
            )


def _with_finite(values: np.ndarray) -> Found:
    finite = np.asarray(np.isfinite(values).all(axis=2)) if values.dtype.kind == "f" else None
    if finite is None or finite.all():
        return Found(values, values, None)
    return Found(values, np.where(finite[..., None], values, np.float32(0)), finite)


def with_valid(found: Found, valid: np.ndarray) -> Found:
    """Returns a copy of a picture in which pixels with a False `valid` count as missing data, too.

    Args:
        found: picture that was read.
        valid: H×W booleans, False for pixels without data.

    Raises:
        AtrousError: `valid` is not an array of booleans of the picture's size.
    """
    check_valid(valid, found.image.shape[:2])
    return replace(found, valid=valid if found.valid is None else valid & found.valid)


@dataclass(eq=False)
class PreparedSource:
    """A source whose windows are prepared for the model; pixels without data get the training mean.

    Args:
        source: picture as stored.
        prepare: function that converts an H×W×C window, as it was read, to the channels and value range of the model.
        preprocessing: preprocessing of the model.

    Attributes:
        largest: largest value read so far of each dtype other than the model's.
        medians: medians of the channels in the window of float32 that is nearest to the training, from `medians_of`; ()
            if there is none.
        doubtful_alpha: whether a window had an alpha band that looks like a channel and that the model does not take.
    """

    source: Source
    prepare: Callable[[np.ndarray], np.ndarray]
    preprocessing: Preprocessing
    largest: dict[str, float] = field(default_factory=dict)
    medians: tuple[float, ...] = ()
    doubtful_alpha: bool = False

    def __post_init__(self) -> None:
        check_takes_pictures(self.preprocessing.image)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the whole picture, as stored."""
        return self.source.shape

    @property
    def geometry(self) -> Any:
        """The position of the picture on Earth, as the source gives it."""
        return self.source.geometry

    def read(self, window: Window) -> Pixels:
        """Reads a window, and converts it to the channels and value range of the model."""
        read, valid, doubtful = self.source.read(window)
        self.doubtful_alpha = self.doubtful_alpha or doubtful
        if read.size and read.dtype.name != self.preprocessing.dtype:
            name = read.dtype.name
            self.largest[name] = max(self.largest.get(name, -math.inf), float(read.max()))
        elif read.dtype == np.float32 and read.shape[2] == self.preprocessing.channels:
            self.medians = nearest_medians(self.medians, medians_of(read, valid), self.preprocessing)
        return Pixels(fill_missing(self.prepare(read), valid, self.preprocessing.mean), valid, doubtful)


def in_axes(picture: Any, axes: str) -> Any:
    """Converts arrays and torch tensors to the axes H×W×C, also in a list, an iterator or a dict.

    Args:
        picture: one picture or several, as in a call of `Segmenter`.
        axes: order of the axes: the letters H, W and C, or only H and W.

    Raises:
        AtrousError: `axes` has other letters, or the picture is not an array or tensor with that number of axes.
    """
    order = axes.upper()
    if sorted(order) not in (["H", "W"], ["C", "H", "W"]):
        raise AtrousError(
            f"axes must be the letters C, H and W, or H and W, in the order of the picture's axes, such as 'CHW'; "
            f"got {axes!r}."
        )
    if isinstance(picture, list | tuple):
        return [in_axes(one, axes) for one in picture]
    if isinstance(picture, Iterator):
        return (in_axes(one, axes) for one in picture)
    if (parts := as_dict(picture, "the picture")) is not None:
        return {name: in_axes(one, axes) for name, one in parts.items()}
    if callable(attribute_of(picture, "detach")):
        picture = _array_of(picture)
    if not isinstance(picture, np.ndarray):
        raise AtrousError(f"axes are only for arrays and tensors, got {shown(picture)}.")
    if picture.ndim != len(order):
        batch = " Give each picture of a batch by itself." if picture.ndim == len(order) + 1 else ""
        raise AtrousError(f"axes={axes!r} names {len(order)} axes, but the picture has shape {picture.shape}.{batch}")
    return picture.transpose([order.index(letter) for letter in "HWC" if letter in order])


def _array_of(tensor: Any) -> np.ndarray:
    """Converts a tensor to an array of the same type; 16-bit floats become float32."""
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if str(tensor.dtype) in ("torch.bfloat16", "torch.float16") else tensor).numpy()
    except Exception as error:  # a sparse or quantised tensor, a tensor without data, or an object like a tensor
        raise AtrousError(f"give a dense tensor of plain numbers, got {shown(tensor)}.") from error


def as_array(picture: Any) -> np.ndarray:
    """Converts a path, PIL image or array to an H×W×C array of uint8, uint16 or float32.

    Raises:
        AtrousError: the picture has another type, or is an array of another shape or dtype.
    """
    if isinstance(picture, str | Path):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        picture = pixels_of_picture(picture).values
    if not isinstance(picture, np.ndarray):
        hint = ': give the order of the axes, as in segmenter(tensor, axes="CHW")'
        hint = hint if type(picture).__name__ == "Tensor" else ""
        raise AtrousError(f"a picture is a path, a PIL image or an array, got {type(picture).__name__}{hint}.")
    if isinstance(picture, np.ma.MaskedArray):
        raise AtrousError("a picture must not be a masked array: give array.data and, for missing data, valid=~mask.")
    picture = np.asarray(picture, picture.dtype.newbyteorder("="))
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.dtype == np.float64:
        with np.errstate(over="ignore"):  # values that become infinite count as missing data
            picture = picture.astype(np.float32)
    if picture.ndim != 3 or picture.dtype not in (np.uint8, np.uint16, np.float32) or 0 in picture.shape:
        raise AtrousError(
            f"a picture is H×W or H×W×C of uint8, uint16 or float32, got {picture.shape} of {picture.dtype}."
        )
    try:
        return np.ascontiguousarray(picture)  # torch and OpenCV do not accept reversed and some other views
    except MemoryError as error:
        raise TooLarge(f"a picture of {picture.shape} takes more memory than there is.") from error
