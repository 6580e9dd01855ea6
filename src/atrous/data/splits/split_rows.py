"""Rows of split lists, in one form for all file formats, and functions that match their names with pictures."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.splits.split_names import SPELLINGS
from atrous.data.volumes.slices import volume_stem

_IMAGE_WORDS = """
image images img image_path image_name image_file image_id img_path img_name imagepath imagename file filename
file_name filepath file_path name path picture id stem
"""
IMAGE_HEADS = frozenset(_IMAGE_WORDS.split())
_MASK_WORDS = """
mask masks label label_path label_name mask_path mask_name mask_file maskpath annotation annotation_path ann
segmentation seg seg_map seg_path gt
"""
MASK_HEADS = frozenset(_MASK_WORDS.split())
# columns with these headers may contain classes, folds or counts instead of masks
_DOUBTFUL_MASK_HEADS = frozenset(["label", "annotation", "ann", "segmentation", "seg", "gt"])
SPLIT_HEADS = frozenset(["split", "splits", "subset", "set", "partition", "phase", "usage", "stage"])
VAL_HEADS = frozenset(["is_valid", "is_val", "is_validation"])  # a column of fastai: true means val, false means train
SPLIT_WORDS = "|".join(spelling for spellings in SPELLINGS.values() for spelling in spellings if spelling != "tr")
SPLIT_NAME = re.compile(rf"(trainval|{SPLIT_WORDS})", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """The entry of one picture in a list.

    Attributes:
        image: the picture's name, as written: a stem, a file name or a path.
        mask: the mask's name, as written, or None.
        split: the split of the picture, as written; None if the name of the list file is the split.
        fold: the part of the file that contains the row, if several parts define the same splits differently; else
            None.
    """

    image: str
    mask: str | None = None
    split: str | None = None
    fold: str | None = None


def stem_of(written: str, known: Mapping[str, object]) -> str:
    """Returns the stem of the picture to which a name in a list refers.

    The whole name is tried first, then the text before the first comma, semicolon or tab, then the first word. Each of
    them may be a stem, a file name or a path. If none of them matches a picture, the stem of the first word is
    returned.

    Args:
        written: the name as written in the list.
        known: the pictures by stem.
    """
    written = written.replace("\\", "/")
    if written not in known:
        written = re.sub(r"""^(['"])(.*)\1$""", r"\2", written)
    field, first = re.split(r"[,;\t]", written)[0].strip(), re.split(r"[,;\s]", written.strip())[0]
    guesses = (guess for name in (written, field, first) for guess in (name, volume_stem(Path(name)), Path(name).name))
    spelled = (spelling for guess in guesses for spelling in _spellings(guess))
    return next((spelling for spelling in spelled if spelling in known), volume_stem(Path(first)))


def _spellings(name: str) -> tuple[str, ...]:
    """Returns the spellings of a name on file systems: composed (NFC), decomposed (NFD), or decoded by the locale."""
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    if name.isascii():
        return (name,)
    return (*forms, *(os.fsdecode(form.encode("utf-8", errors="surrogateescape")) for form in forms))


def split_of_validity(cell: str | None) -> str | None:
    """Returns the split for a cell of a column such as ``is_valid``: "val" for true, "train" for false, else None.

    Args:
        cell: the content of the cell, in upper or lower case, such as "true", "0" or "yes".
    """
    lowered = (cell or "").lower()
    if lowered not in ("true", "false", "1", "0", "1.0", "0.0", "yes", "no"):
        return None
    return "val" if lowered in ("true", "1", "1.0", "yes") else "train"


def is_mask_column(head: str, cells: Iterable[str | None]) -> bool:
    """Returns whether a column contains names of masks.

    A column contains masks if all cells are names of picture files. If its header can only mean masks, it also contains
    masks if no cell is a number.

    Args:
        head: the header of the column, in lower case.
        cells: the cells of the column, without the header.
    """
    cells = list(cells)
    if all(map(names_file, cells)):
        return True
    return head not in _DOUBTFUL_MASK_HEADS and not any(cell and cell.replace(".", "").isdigit() for cell in cells)


def names_file(cell: str | None) -> bool:
    """Returns whether a text ends with the suffix of a picture or mask file."""
    return Path(cell or "").suffix.lower() in PICTURE_SUFFIXES
