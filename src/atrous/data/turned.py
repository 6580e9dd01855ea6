"""Pictures that their EXIF tag turns, whose masks may have been drawn on the unturned pixels."""

from __future__ import annotations

import cv2
import numpy as np

from atrous.data.dataset import Dataset
from atrous.data.findings import SHOWN, Finding, shown
from atrous.data.orientation import upright
from atrous.data.pictures import read_picture, read_raw_mask
from atrous.data.survey import Pair
from atrous.errors import AtrousError

_CLEARLY = 1.3  # times better, from which a mask counts as drawn on one of the two
#: Turned pictures that are judged at most, evenly chosen (up to twice as many where they do not divide).
MOST_JUDGED = 100
_INVERSE = {6: 8, 8: 6}  # a quarter left undoes one right; every other orientation undoes itself


def find_turned(dataset: Dataset, pairs: list[Pair]) -> list[Finding]:
    """Warn of pictures turned by their tag, unless their masks clearly fit them as they are shown.

    Masks must be drawn on the upright picture. Which of the two a mask fits is judged by the contrast of the picture
    along the edges of the mask.

    Args:
        dataset: the dataset.
        pairs: its items, each once; masks of other sizes are told elsewhere.
    """
    turned = [
        pair
        for pair in pairs
        if pair.turned and pair.picture and pair.mask and pair.picture.size == pair.mask.size and pair.item.mask
    ]
    judged = turned[:: max(1, len(turned) // MOST_JUDGED)]
    verdicts = [(pair, *_verdict(pair)) for pair in judged]
    stored = [(pair, words) for pair, verdict, words in verdicts if verdict == "stored"]
    doubtful = [(pair, words) for pair, verdict, words in verdicts if verdict == "unknown"]
    if not stored and 2 * len(doubtful) <= len(judged):  # a symmetric mask among clear ones says nothing
        return []
    wrong = stored + doubtful
    return [
        Finding(
            "turned_by_exif",
            "Pictures are turned by their EXIF tag, as viewers show them, and masks without one must be drawn on the "
            "upright picture. Programs that ignore the tag draw on the stored pixels: look whether the masks fit. If "
            "they do not, turn the masks, or save the pictures upright and without the tag. Of "
            f"{len(turned)} turned pictures {len(judged)} were judged: the masks of {len(stored)} fit the stored "
            f"pixels, those of {len(doubtful)} neither clearly.",
            len(turned),
            tuple(
                f"{shown(dataset, pair.item.image)}: orientation {pair.turned}; {words}"
                for pair, words in wrong[:SHOWN]
            ),
        )
    ]


def _verdict(pair: Pair) -> tuple[str, str]:
    """What a mask fits: "upright", "stored" or "unknown", and that in words."""
    try:
        picture, mask = read_picture(pair.item.image), read_raw_mask(pair.item.mask or "")
    except AtrousError:
        return "unknown", "its mask cannot be compared"
    stored = upright(picture, _INVERSE.get(pair.turned, pair.turned))
    as_shown = _contrast_along_edges(picture, mask)
    if stored.shape[:2] != mask.shape[:2]:
        return "upright", "its mask has the size of the upright picture"
    as_stored = _contrast_along_edges(stored, mask)
    measured = f"(contrast along its edges {as_shown:.2f} upright, {as_stored:.2f} stored; 1 is by chance)"
    if as_shown > _CLEARLY * as_stored:
        return "upright", f"its mask fits the upright picture {measured}"
    if as_stored > _CLEARLY * as_shown:
        return "stored", f"its mask fits the stored pixels, not the upright picture {measured}"
    return "unknown", f"which of the two its mask fits cannot be told {measured}"


def _contrast_along_edges(picture: np.ndarray, mask: np.ndarray) -> float:
    """The picture's mean gradient along the mask's edges, relative to that of the whole picture."""
    grey = np.ascontiguousarray(picture[:, :, :3].mean(axis=2, dtype=np.float32))
    gradient = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    flat = mask if mask.ndim == 2 else mask.astype(np.int64) @ np.array([1 << 32, 1 << 16, 1])
    edges = np.zeros(flat.shape, bool)
    edges[:, 1:] |= flat[:, 1:] != flat[:, :-1]
    edges[1:] |= flat[1:] != flat[:-1]
    if not edges.any() or not gradient.mean() > 0:
        return 1.0
    return float(gradient[edges].mean() / gradient.mean())
