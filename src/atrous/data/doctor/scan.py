"""Reads every picture and mask of a dataset once, and returns only the facts that the checks need."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from atrous.data.class_colors import Color, packed_colors, unpacked_color
from atrous.data.dataset import Item, stored_mask
from atrous.data.doctor.antialiased_edges import EdgeCounts, count_edges
from atrous.data.doctor.geographic_footprints import Footprint, footprint_of
from atrous.data.doctor.taken_channels import TakenChannels
from atrous.data.doctor.volume_facts import VolumeFacts
from atrous.data.file_of_picture import file_of_picture
from atrous.data.formats.palettes import as_colors
from atrous.data.mask_value_map import UNKNOWN, ClassTable, Raw
from atrous.data.pictures import StoredMask, exif_orientation, stored_lossily
from atrous.data.pixels import PictureKind, StoredPixels, fill_missing
from atrous.data.rasters.scene_windows import window_place
from atrous.data.value_counts import value_counts
from atrous.errors import AtrousError

#: All bands of the files except alpha.
ALL_CHANNELS = TakenChannels()
_THUMBNAIL = 16  # side in pixels
_PLACES = 5  # largest number of values per mask whose place is stored
# largest number of values stored per mask; a colour JPEG may have 10⁵ values, but a table has at most 255 classes
_VALUES = 1024
_READERS = 16  # largest number of threads, so that 128 cores do not decode 128 large pictures at once


@dataclass(frozen=True)
class PictureFacts:
    """The facts about a picture or a volume; for a volume, pixels are voxels, and channels are contrasts.

    Attributes:
        size: (H, W) in pixels, or (X, Y, Z) in voxels.
        channels: number of channels, without an alpha band.
        bands: number of bands, with an alpha band.
        dtype: the name of its dtype.
        void: share of its pixels without data (nodata, transparent, NaN or infinite), 0–1.
        doubtful_alpha: whether it has an alpha band that may be an ordinary channel, but is not read as a channel.
        digest: a hash of its pixels.
        thumbnail: 256 numbers (4096 for a volume) of mean 0 and length 1, so that the dot product of two thumbnails is
            their correlation; all 0 if the picture is blank.
        contrast: the thumbnail's root mean square before it was scaled to length 1, in grey levels. For other types
            than uint8, a grey level is 1/255 of the thumbnail's range.
        footprint: the ground that it shows; None if its file has no geographic position.
    """

    size: tuple[int, ...]
    channels: int
    bands: int
    dtype: str
    void: float
    doubtful_alpha: bool
    digest: bytes
    thumbnail: np.ndarray
    contrast: float
    footprint: Footprint | None = None

    @property
    def kind(self) -> PictureKind:
        """The channels and the type of the picture, as they are also read from a file header."""
        return PictureKind(self.channels, self.dtype, self.bands)


@dataclass(frozen=True)
class MaskFacts:
    """The facts about a mask; for a mask of a volume, pixels are voxels.

    Attributes:
        size: (H, W) in pixels, or (X, Y, Z) in voxels.
        in_color: whether its pixels are (red, green, blue). False for a grey mask stored as RGB, unless the class
            table lists colours.
        lossy: whether the file was compressed lossily.
        values: the raw values found, sorted; the 1024 most frequent if there are more.
        counts: the number of pixels of each value.
        seen: the number of pixels of each value, counted only where the picture has data; training ignores the other
            pixels.
        distinct: the number of different values in the file, without ``nodata``.
        labels: for each value, its class index, `IGNORE_INDEX` or `UNKNOWN`; None without a class table, or if only one
            of mask and table has colours.
        unknown: the number of pixels whose value no class lists.
        places: first (x, y) of each of the most frequent values that no class lists; in volumes (x, y, axial slice),
            in windows of scenes (x, y) in the scene.
        inside: as in `EdgeCounts`; equal to ``counts`` if the mask was not searched for blends.
        between: as in `EdgeCounts`; 0 if the mask was not searched for blends.
        between_places: as in `EdgeCounts`, by value; in volumes (x, y, axial slice).
        palette: the colour of each value if the file has a palette, else None.
        nodata: the value that the file declares as "no data", if this value occurs in the mask and no class lists it;
            else None. ``values`` does not contain this value.
        pages: number of pages or frames in the file; only the first is read.
        stacks: whether the file is a TIFF, whose pages may be stacked as channels.
        white_is_zero: whether the file declares that 0 is white; None if the file declares neither that 0 is white nor
            that 0 is black.
    """

    size: tuple[int, ...]
    in_color: bool
    lossy: bool
    values: tuple[Raw, ...]
    counts: np.ndarray
    seen: np.ndarray
    distinct: int
    labels: np.ndarray | None
    unknown: int
    places: Mapping[Raw, tuple[int, ...]]
    inside: np.ndarray
    between: np.ndarray
    between_places: Mapping[Raw, tuple[int, ...]]
    palette: Mapping[int, Color] | None
    nodata: int | None
    pages: int
    stacks: bool
    white_is_zero: bool | None


@dataclass(frozen=True)
class Pair:
    """An item with the facts about its files.

    Attributes:
        item: the item.
        picture: the facts about its picture; None if the file is missing or unreadable.
        mask: the facts about its mask; None if there is no mask or its file is unreadable.
        problems: errors of unreadable files, each with the name of its file.
        turned: the picture's EXIF orientation, 2 to 8, if it turns the picture and the mask has a different
            orientation; else 0.
        volume: further facts of a volume; None for a picture.
    """

    item: Item
    picture: PictureFacts | None
    mask: MaskFacts | None
    problems: tuple[str, ...]
    turned: int = 0
    volume: VolumeFacts | None = None


def survey(
    items: list[Item],
    classes: ClassTable | None,
    progress: Callable[[int, int], None] | None = None,
    pages: str = "first",
    taken: TakenChannels = ALL_CHANNELS,
) -> list[Pair]:
    """Reads all pictures and their masks, with several threads.

    Args:
        items: the items to read.
        classes: the table that maps values to labels, or None.
        progress: called after each item with the number of items read and the total.
        pages: as in `read_pixels`.
        taken: channels that a model takes. They decide which pixels hold data.

    Returns:
        One pair per item, in their order. Damaged files raise no error, but become `Pair.problems`.
    """
    return read_all(items, lambda item: _read_pair(item, classes, pages, taken), progress, _READERS)


def read_all(
    items: list[Item], read: Callable[[Item], Pair], progress: Callable[[int, int], None] | None, most_readers: int
) -> list[Pair]:
    """Reads all items with a function, with several threads.

    Args:
        items: the items to read.
        read: function that reads one item; an error that it raises ends the examination.
        progress: as in `survey`.
        most_readers: largest number of threads, ≥ 1; there are never more than cores.
    """
    pairs: list[Pair] = []
    # Threads are enough: decoding releases the interpreter lock.
    readers = ThreadPoolExecutor(max_workers=min(most_readers, os.cpu_count() or 1))
    try:
        for pair in readers.map(read, items):
            pairs.append(pair)
            if progress:
                progress(len(pairs), len(items))
    finally:
        readers.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the other items
    return pairs


def _read_pair(item: Item, classes: ClassTable | None, pages: str, taken: TakenChannels) -> Pair:
    picture, mask, valid, problems = None, None, None, []
    if file_of_picture(item.image).exists():
        try:
            picture, valid = _describe_picture(taken.read(item.image, pages), taken)
            picture = replace(picture, footprint=footprint_of(item.image))
        except Exception as error:  # an error of a decoder, or no memory: one file must not end the examination
            problems.append(file_error(item.image, error))
    if item.mask is not None:
        try:
            stored = stored_mask(item.mask, item.image, classes)
            if stored.palette and stored.values.ndim == 2 and classes is not None and classes.color_coded:
                stored = stored._replace(values=as_colors(stored.values, stored.palette), palette=None)
            mask = _in_scene(describe_mask(stored, stored_lossily(item.mask), classes, valid), item.mask)
        except Exception as error:
            problems.append(file_error(item.mask, error))
    turned = _turned(item) if picture and mask and item.mask else 0
    return Pair(item, picture, mask, tuple(problems), turned)


def _in_scene(mask: MaskFacts, path: Path) -> MaskFacts:
    """Returns the facts about a mask with positions in the whole scene, for a window of a scene."""
    if (place := window_place(path)) is None:
        return mask
    left, top = place.window.left, place.window.top

    def moved(places: Mapping[Raw, tuple[int, ...]]) -> dict[Raw, tuple[int, ...]]:
        return {value: (x + left, y + top) for value, (x, y, *_) in places.items()}

    return replace(mask, places=moved(mask.places), between_places=moved(mask.between_places))


def _turned(item: Item) -> int:
    """Returns `Pair.turned` of an item."""
    try:
        orientation = exif_orientation(item.image)
        alike = orientation == 1 or (item.mask is not None and exif_orientation(item.mask) == orientation)
    except Exception:  # if the tag cannot be read, the picture is not turned
        return 0
    return orientation if not alike and 2 <= orientation <= 8 else 0


def file_error(path: Path, error: Exception) -> str:
    """Returns a message with the path of a file that cannot be read, and the reason.

    Args:
        path: the file.
        error: the error that its reader raised.
    """
    return str(error) if isinstance(error, AtrousError) else f"{path}: cannot be read ({type(error).__name__}: {error})"


def _describe_picture(pixels: StoredPixels, taken: TakenChannels) -> tuple[PictureFacts, np.ndarray | None]:
    """Returns the facts, and H×W booleans, True where the picture has data; None instead if it has data everywhere."""
    image, valid = taken.values(pixels)
    height, width = image.shape[:2]
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
    known = image[:, :, :3] if valid is None else _without_void(image[:, :, :3], valid)
    thumbnail = cv2.resize(known, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    thumbnail = thumbnail.reshape(_THUMBNAIL, _THUMBNAIL, -1).mean(axis=2, dtype=np.float32)
    level = 1.0 if image.dtype == np.uint8 else float(np.ptp(thumbnail)) / 255
    # Remove slow changes of brightness, such as a vignette or a sky: they make different pictures look alike.
    thumbnail -= cv2.GaussianBlur(thumbnail, (0, 0), _THUMBNAIL / 8)
    thumbnail -= thumbnail.mean()
    length = float(np.linalg.norm(thumbnail))
    flat = not np.isfinite(length) or length < 1e-6
    thumbnail = np.zeros_like(thumbnail) if flat else thumbnail / length
    contrast = 0.0 if flat else length / (_THUMBNAIL * level)
    void = 0.0 if valid is None else 1 - float(valid.mean())
    bands = pixels.values.shape[2]
    doubtful = taken.converted(pixels) != bands and pixels.alpha_may_be_a_channel
    facts = PictureFacts(
        (height, width), pixels.channels, bands, image.dtype.name, void, doubtful, digest, thumbnail.ravel(), contrast
    )
    return facts, valid


def _without_void(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Returns a picture with its mean where it has no data, so that equal borders do not make pictures similar."""
    return fill_missing(image, valid, image[valid].mean(axis=0)) if valid.any() else image


def describe_mask(stored: StoredMask, lossy: bool, classes: ClassTable | None, valid: np.ndarray | None) -> MaskFacts:
    """Returns the facts about a mask.

    Args:
        stored: the mask, H×W or H×W×3.
        lossy: whether its file was compressed lossily.
        classes: the table that maps values to labels, or None.
        valid: H×W booleans, True where the picture has data; None if it has data everywhere. Booleans of another size
            than the mask have no effect.
    """
    raw_mask, palette, nodata = stored.values, stored.palette, stored.nodata
    size = raw_mask.shape[:2]
    color_coded = classes is not None and classes.color_coded
    grey_as_rgb = raw_mask.ndim == 3 and (raw_mask == raw_mask[:, :, :1]).all()
    if grey_as_rgb and not color_coded:
        raw_mask = raw_mask[:, :, 0]
    in_color = raw_mask.ndim == 3
    codes = packed_colors(raw_mask) if in_color else raw_mask
    found, counts = _histogram(codes)
    labels, void = None, np.zeros(len(found), bool)
    if classes is not None and in_color == color_coded:
        shape = (1, -1, 3) if in_color else (1, -1)
        raw = np.array([unpacked_color(int(code)) for code in found]) if in_color else found
        labels = classes.look_up(raw.reshape(shape))[0]
    if nodata is not None and not in_color and (nodata != 0 or labels is not None):  # see `StoredMask.nodata`
        void = (found == nodata) & (True if labels is None else labels == UNKNOWN)
    seen = counts
    if valid is not None and valid.shape == codes.shape:
        seen = np.zeros_like(counts)
        there, pixels = _histogram(codes[valid])
        seen[np.searchsorted(found, there)] = pixels
    distinct = len(found) - int(void.sum())
    unknown = 0 if labels is None else int(counts[(labels == UNKNOWN) & ~void].sum())
    edges = _edges(raw_mask, codes, found) if _may_be_blended(distinct, unknown, lossy, classes) else None
    kept = np.flatnonzero(~void)
    if distinct > _VALUES:
        kept = np.sort(kept[np.argsort(-counts[kept], kind="stable")[:_VALUES]])
    found, counts, seen, labels = found[kept], counts[kept], seen[kept], None if labels is None else labels[kept]
    values = tuple(unpacked_color(int(code)) if in_color else int(code) for code in found)
    strays = np.flatnonzero(labels == UNKNOWN) if labels is not None else np.array([], dtype=int)
    places = {}
    for index in strays[np.argsort(-counts[strays], kind="stable")][:_PLACES]:
        y, x = divmod(int(np.argmax(codes == found[index])), size[1])
        places[values[index]] = (x, y)
    inside, between = (edges.inside[kept], edges.between[kept]) if edges else (counts, np.zeros_like(counts))
    at = {int(index): value for index, value in zip(kept, values, strict=True)}
    between_places = {at[index]: place for index, place in (edges.places if edges else {}).items() if index in at}
    colors = None
    if palette and not in_color:
        colors = {int(v): palette[int(v)] for v in values if isinstance(v, int) and 0 <= v < len(palette)}
    return MaskFacts(
        size,
        in_color,
        lossy,
        values,
        counts,
        seen,
        distinct,
        labels,
        unknown,
        places,
        inside,
        between,
        between_places,
        colors,
        nodata if void.any() else None,
        stored.pages,
        stored.stacks,
        stored.white_is_zero,
    )


def _may_be_blended(distinct: int, unknown: int, lossy: bool, classes: ClassTable | None) -> bool:
    """Returns whether to search for blends: if the file is not lossy, has four values or more, and some in no class."""
    return 4 <= distinct <= 1 << 16 and not lossy and bool(unknown or classes is None)


def _edges(raw_mask: np.ndarray, codes: np.ndarray, found: np.ndarray) -> EdgeCounts:
    """Returns the counts of a mask by the index of each value in ``found``."""
    indices = np.searchsorted(found, codes)
    pixels = raw_mask if raw_mask.ndim == 3 and raw_mask.dtype.itemsize <= 2 else indices.astype(np.uint16)
    return count_edges(np.ascontiguousarray(pixels), indices, len(found), _PLACES)


def _histogram(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted values of an H×W array, and the number of pixels of each."""
    if codes.dtype != np.uint8:
        return np.unique(codes, return_counts=True)
    pixels = value_counts(codes)  # ten times faster than sorting
    found = np.flatnonzero(pixels)
    return found, pixels[found]


def masks_of(pairs: Iterable[Pair]) -> Iterator[tuple[Pair, MaskFacts]]:
    """Returns the pairs whose mask could be read, each with the facts about the mask.

    Args:
        pairs: items with the facts about their files.
    """
    return ((pair, pair.mask) for pair in pairs if pair.mask is not None)
