"""Checks pictures that are turned by their EXIF tag: their masks may have been drawn on the stored, unturned pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from atrous.data.class_colors import packed_colors
from atrous.data.dataset import Dataset, Item
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.scan import Pair
from atrous.data.formats.exif_orientation import upright
from atrous.data.pictures import read_pixels, read_raw_mask
from atrous.errors import AtrousError

# a mask clearly fits a version of the picture if the contrast at its edges is larger in it by more than this factor
_CLEARLY = 1.3
#: If more pictures than this are turned, at least this number and fewer than twice this number are judged, at equal
#: distances.
MOST_JUDGED = 100
_INVERSE = {6: 8, 8: 6}  # the two quarter turns undo each other; each other orientation undoes itself


@dataclass(frozen=True)
class TurnedPair:
    """A picture turned by its EXIF tag, and whether its mask fits the upright picture or the stored pixels.

    Attributes:
        item: the picture and its mask.
        orientation: value of the EXIF tag, 2 to 8.
        fits: "upright" or "stored" if the mask clearly fits this version of the picture; "unknown" if it clearly fits
            neither.
        words: the verdict as a sentence, with the measured values.
    """

    item: Item
    orientation: int
    fits: str
    words: str


@dataclass(frozen=True)
class TurnedPairs:
    """The pictures of a dataset that are turned by their EXIF tag.

    Attributes:
        count: number of pictures that an EXIF tag turns, and whose mask has a different tag or none.
        judged: number of these pictures that were compared with their masks.
        doubtful: judged pictures whose masks do not clearly fit the upright picture. Masks that fit the stored pixels
            come first. Empty if no mask fits the stored pixels, and at least half of the masks clearly fit the upright
            picture.
    """

    count: int
    judged: int
    doubtful: tuple[TurnedPair, ...]


def judge_turned(pairs: list[Pair]) -> TurnedPairs:
    """Judges whether the masks of turned pictures fit the upright pictures.

    Masks must be drawn on the upright picture. A mask clearly fits one version, upright or stored, if the picture has
    clearly more contrast along the edges of the mask in this version.

    Args:
        pairs: the items of a dataset, each once. Masks of another size than their picture are left out.
    """
    turned = [
        pair
        for pair in pairs
        if pair.turned and pair.picture and pair.mask and pair.picture.size == pair.mask.size and pair.item.mask
    ]
    judged = turned[:: max(1, len(turned) // MOST_JUDGED)]
    verdicts = [TurnedPair(pair.item, pair.turned, *_verdict(pair)) for pair in judged]
    stored = [verdict for verdict in verdicts if verdict.fits == "stored"]
    unknown = [verdict for verdict in verdicts if verdict.fits == "unknown"]
    if not stored and 2 * len(unknown) <= len(
        judged
    ):  # a few masks that are symmetric fit both versions, so they are no evidence
        return TurnedPairs(len(turned), len(judged), ())
    return TurnedPairs(len(turned), len(judged), (*stored, *unknown))


def find_turned(dataset: Dataset, turned: TurnedPairs) -> list[Finding]:
    """Returns a warning of pictures turned by their EXIF tag, unless their masks clearly fit the upright pictures.

    Args:
        dataset: the dataset.
        turned: the result of `judge_turned` on the dataset.
    """
    if not turned.doubtful:
        return []
    stored = sum(pair.fits == "stored" for pair in turned.doubtful)
    return [
        Finding(
            "turned_by_exif",
            "Pictures are turned by their EXIF tag, as viewers show them. Masks without a tag must be drawn on the "
            "upright picture, but programs that ignore the tag draw masks on the stored pixels. Check whether the "
            f"masks fit: `atrous doctor {dataset.root} --pictures DIR` draws their outlines over both versions. If the "
            "masks do not fit, turn the masks, or save the pictures upright and without the tag. "
            f"{turned.judged} of {turned.count} turned pictures were judged: the masks of {stored} fit the stored "
            f"pixels; for {len(turned.doubtful) - stored}, it is unclear which version their masks fit.",
            turned.count,
            tuple(
                f"{shown(dataset, pair.item.image)}: orientation {pair.orientation}; {pair.words}"
                for pair in turned.doubtful[:SHOWN]
            ),
        )
    ]


def as_stored(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an upright picture back to the orientation in which its file stores it.

    Args:
        picture: H×W or H×W×C, upright.
        orientation: value of the file's EXIF tag, 2 to 8.

    Returns:
        A view of the array; H and W are exchanged for orientations 5 to 8.
    """
    return upright(picture, _INVERSE.get(orientation, orientation))


def _verdict(pair: Pair) -> tuple[str, str]:
    """Returns the version that a mask fits ("upright", "stored" or "unknown"), and a sentence about it."""
    try:
        (picture, _), mask = read_pixels(pair.item.image).for_model(), read_raw_mask(pair.item.mask or "")
    except AtrousError:
        return "unknown", "its mask cannot be compared"
    stored = as_stored(picture, pair.turned)
    contrast = _contrast_along_edges(picture, mask)
    if stored.shape[:2] != mask.shape[:2]:
        return "upright", "its mask has the size of the upright picture"
    contrast_stored = _contrast_along_edges(stored, mask)
    measured = f"(contrast along its edges {contrast:.2f} upright, {contrast_stored:.2f} stored; by chance about 1)"
    if contrast > _CLEARLY * contrast_stored:
        return "upright", f"its mask fits the upright picture {measured}"
    if contrast_stored > _CLEARLY * contrast:
        return "stored", f"its mask fits the stored pixels, not the upright picture {measured}"
    return "unknown", f"it is unclear which version its mask fits {measured}"


def _contrast_along_edges(picture: np.ndarray, mask: np.ndarray) -> float:
    """Returns the picture's mean gradient along the mask's edges, divided by its mean gradient everywhere."""
    grey = np.ascontiguousarray(picture[:, :, :3].mean(axis=2, dtype=np.float32))
    gradient = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    edges = mask_edges(mask)
    if not edges.any() or not gradient.mean() > 0:
        return 1.0
    return float(gradient[edges].mean() / gradient.mean())


def mask_edges(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels on both sides of each change of value in a mask.

    Args:
        mask: H×W of any integer type, or H×W×3 colours.

    Returns:
        H×W booleans, True where a pixel differs from one of its four neighbours.
    """
    flat = mask if mask.ndim == 2 else packed_colors(mask)
    edges = np.zeros(flat.shape, bool)
    across, down = flat[:, 1:] != flat[:, :-1], flat[1:] != flat[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges
