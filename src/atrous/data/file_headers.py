"""Reads the headers of picture files, and reports the bands and pages that are not read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from atrous.data.file_of_picture import word_of_picture
from atrous.data.pictures import read_kind
from atrous.data.pixels import PictureKind
from atrous.errors import AtrousError


class Note(NamedTuple):
    """A note for the user about several files.

    Attributes:
        kind: a short name, such as "several_pages".
        message: the note as a sentence.
        paths: the files.
    """

    kind: str
    message: str
    paths: tuple[Path, ...]


def kinds_of(paths: Iterable[Path], pages: str = "first") -> dict[Path, PictureKind]:
    """Reads the headers of pictures; files that cannot be read are left out of the result.

    Args:
        paths: picture files.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
    """
    paths = list(paths)

    def kind_or_none(path: Path) -> PictureKind | None:
        try:
            return read_kind(path, pages)
        except AtrousError:  # the error is reported when the whole file is read
            return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        kinds = list(pool.map(kind_or_none, paths))
    return {path: kind for path, kind in zip(paths, kinds, strict=True) if kind is not None}


def notes_on(kinds: Mapping[Path, PictureKind], channels: int | None, pages: str = "first") -> Iterator[Note]:
    """Yields notes on pages and channels that are not read, and on files whose grey values have opposite meanings.

    Args:
        kinds: kind of each picture, by path.
        channels: number of channels C of the model; None for all bands except alpha.
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
    """
    yield from notes_on_pages({path: (kind.pages, kind.stacks) for path, kind in kinds.items()}, "picture", pages)
    if channels is not None:
        dropping = {path: kind for path, kind in kinds.items() if _drops(kind, channels)}
        if dropping:
            most = max(kind.channels for kind in dropping.values())
            word = word_of_picture(next(iter(dropping)))
            counts = ", ".join(
                f"{_counted(count, word)} with {given}"
                for given, count in sorted(Counter(kind.channels for kind in dropping.values()).items())
            )
            read = "the first 3, as grey," if channels == 1 and most == 4 else f"the first {channels}"
            yield Note(
                "dropped_channels",
                f"The model takes {channels} channel{'' if channels == 1 else 's'}, and these {word}s have more "
                f"({counts}): {read} are read, and the others are not. A model trained with `--model.in_channels "
                f"{most}` takes all {most}.",
                tuple(dropping),
            )
    yield from notes_on_white_is_zero({path: kind.white_is_zero for path, kind in _grey(kinds).items()}, "picture")


def _grey(kinds: Mapping[Path, PictureKind]) -> dict[Path, PictureKind]:
    """Returns the pictures with one channel, with or without alpha."""
    return {path: kind for path, kind in kinds.items() if kind.channels == 1 and kind.bands <= 2}


def _drops(kind: PictureKind, channels: int) -> bool:
    return kind.channels > channels and channels != kind.bands and (kind.channels, channels) != (3, 1)


def notes_on_pages(files: Mapping[Path, tuple[int, bool]], what: str, pages: str = "first") -> Iterator[Note]:
    """Yields notes on files with several pages or frames, of which only the first is read.

    Args:
        files: for each file, its number of pages or frames, and whether it is a TIFF.
        what: type of the files: "picture" or "mask".
        pages: pages of a TIFF to read, "first" or "channels"; see `read_picture`.
    """
    for tiff in (True, False):
        several = {path: count for path, (count, stacks) in files.items() if count > 1 and stacks is tiff}
        if not several or (tiff and pages == "channels"):
            continue
        counts = sorted(set(several.values()))
        word = "page" if tiff else "frame"
        number = f"{counts[0]} {word}s each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} {word}s each"
        have = "has" if len(several) == 1 else "have"
        number = number.removesuffix(" each") if len(several) == 1 else number
        cure = "; `--data.pages channels` in train reads the bands of all pages" if tiff and what == "picture" else ""
        yield Note(
            "several_pages" if tiff else "several_frames",
            f"{_counted(len(several), what)} {have} {number}; {word} 1 is read{cure}.",
            tuple(several),
        )


def notes_on_white_is_zero(files: Mapping[Path, bool | None], what: str) -> Iterator[Note]:
    """Yields a note if 0 is white in some grey files and black in others.

    Args:
        files: for each grey file, whether it states that 0 is white; None if it states neither white nor black (0 then
            counts as black).
        what: type of the files: "picture" or "mask".
    """
    white = [path for path, is_white in files.items() if is_white]
    if white and len(white) < len(files):
        black = next(path for path, is_white in files.items() if not is_white)
        yield Note(
            "mixed_white_is_zero",
            f"In {_counted(len(white), what)} of {len(files)}, 0 is white (WhiteIsZero). In others, such as "
            f"{black.name}, 0 is black. The stored numbers are read unchanged, so the same shade may have different "
            "numbers: convert all files to the same photometric interpretation.",
            tuple(white),
        )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
