"""Matches masks to pictures by their file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.errors import AtrousError

_MASK_WORDS = (
    "masks|mask|labels|label|lbl|lab|segmentation|segmap|seg|groundtruth|ground_truth|gt|annotations|annotation|annot|"
    "manual1|labelids|gtfine_labelids|L|P"
)
_PICTURE_WORDS = "leftimg8bit|images|image|img|rgb|sat|photo|picture|input|training|test|0000"
_MASK_ENDING = re.compile(rf"(?P<stem>.+?)[ _.-](?:{_MASK_WORDS})", re.IGNORECASE)
_MASK_BEGINNING = re.compile(rf"(?:{_MASK_WORDS})[ _.-](?P<stem>.+)", re.IGNORECASE)
_PICTURE_ENDING = re.compile(rf"(?P<stem>.+?)[ _.-](?:{_PICTURE_WORDS})", re.IGNORECASE)
_PICTURE_BEGINNING = re.compile(rf"(?:{_PICTURE_WORDS})[ _.-](?P<stem>.+)", re.IGNORECASE)

_OF_ONE_LABEL = re.compile(r"task-\d+-annotation-\d+-by-.+-tag-(?P<label>.+)-\d+")


def masks_by_picture(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """Matches masks to pictures by their stems.

    The stem of a mask may contain an additional word such as ``_mask``, and the stem of a picture a word such as
    ``_rgb``.

    Args:
        images: the pictures by stem.
        masks: the masks by their own stem.

    Returns:
        All masks; the key is the stem of the picture, or the mask's own stem if no picture matches.

    Raises:
        AtrousError: two masks fit one picture, no mask fits any picture, or each mask file holds only one label.
    """
    if note := single_labels_note(masks.values()):
        raise AtrousError(note)
    bare = {_without_word(stem, _PICTURE_ENDING, _PICTURE_BEGINNING): stem for stem in images}
    if len(bare) < len(images):  # two pictures differ only in a word of `_PICTURE_WORDS`
        bare = {}
    found: dict[str, Path] = {}
    for stem, path in masks.items():
        owner = stem
        if stem not in images and Path(stem).suffix.lower() in PICTURE_SUFFIXES and Path(stem).stem in images:
            owner = Path(stem).stem  # a.jpg.png is the mask of a.jpg
        elif stem not in images:
            plain = _without_word(stem, _MASK_ENDING, _MASK_BEGINNING)
            owner = plain if plain in images else bare.get(plain, bare.get(stem, stem))
        if owner in found:
            raise AtrousError(
                f"'{found[owner].name}' and '{path.name}' in {path.parent} may both be the mask of "
                f"'{images[owner].name}'. Move one of the two masks to another folder."
            )
        found[owner] = path
    if images and masks and not found.keys() & images.keys():
        raise _no_mask_fits(images, masks)
    return found


def single_labels_note(masks: Iterable[Path]) -> str | None:
    """Returns a sentence about masks that Label Studio exported as one file per label; None if there are no such masks.

    Args:
        masks: the mask files.
    """
    first = next((path for path in masks if _OF_ONE_LABEL.fullmatch(path.stem)), None)
    if first is None:
        return None
    label = _OF_ONE_LABEL.sub(r"\g<label>", first.stem)
    return (
        f"{first} holds only the label '{label}', because Label Studio exports one PNG for each label. Join the labels "
        "of each picture into one mask of class numbers. docs/data.md, 'Label Studio', has a script for this."
    )


def is_named_as_mask(stem: str) -> str | None:
    """Returns the stem without its mask word, such as "a" for "a_mask"; None if the stem has no mask word.

    Args:
        stem: name of a file without its suffix.
    """
    plain = _without_word(stem, _MASK_ENDING, _MASK_BEGINNING)
    return plain if plain != stem else None


def _without_word(stem: str, *forms: re.Pattern[str]) -> str:
    """Returns the part of a stem without the word that the first matching pattern finds, or the whole stem."""
    matched = (form.fullmatch(stem) for form in forms)
    return next((match["stem"] for match in matched if match), stem)


def _no_mask_fits(images: Mapping[str, Path], masks: Mapping[str, Path]) -> AtrousError:
    """Returns the error for masks without pictures; if the masks have one ending, with a command that renames them."""
    image, mask = next(iter(images.values())), next(iter(masks.values()))
    note = (
        f"no mask in {mask.parent} has the name of a picture in {image.parent}. The first picture is '{image.name}', "
        f"and the first mask is '{mask.name}'. A mask must have the stem of its picture, or this stem and a word such "
        "as _mask."
    )
    endings = {_ending(stem, images) for stem in masks}
    if len(endings) == 1 and (ending := endings.pop()):
        command = f'cd "{mask.parent}" && for f in *{ending}.*; do mv "$f" "${{f/{ending}./.}}"; done'
        note += f" This command renames the masks: {command}"
    return AtrousError(note)


def _ending(stem: str, images: Mapping[str, Path]) -> str | None:
    """Returns the part of a mask's stem after the longest picture stem that begins it; None if no picture stem does."""
    owners = [name for name in images if stem.startswith(name)]
    return stem[len(max(owners, key=len)) :] if owners else None
