"""A mask in the forms that people and programs ask for."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from atrous.errors import AtrousError
from atrous.inference.prediction import Prediction
from atrous.serving.polygons import polygons_of

#: What may be asked for, and its media type.
FORMATS = {
    "mask": "image/png",
    "indices": "image/png",
    "overlay": "image/jpeg",
    "areas": "application/json",
    "rle": "application/json",
    "polygons": "application/geo+json",
}
#: Corners of all polygons of an answer: a million take two seconds, 200 MB and 12 MB of text.
MOST_CORNERS = 1_000_000
#: The form that a media type in Accept asks for, the most liked first.
ACCEPTED = {
    "image/png": "mask",
    "application/json": "areas",
    "application/geo+json": "polygons",
    "image/jpeg": "overlay",
}


@dataclass(frozen=True)
class Asked:
    """How a mask is to be answered.

    Args:
        form: a key of `FORMATS`.
        opacity: of an overlay's colours, 0–1.
        legend: names and colours below an overlay.
    """

    form: str = "mask"
    opacity: float = 0.55
    legend: bool = False


def write(prediction: Prediction, asked: Asked) -> bytes:
    """A prediction in the form that was asked for.

    Args:
        prediction: of one picture.
        asked: how.

    Raises:
        AtrousError: it cannot be had so, and how it can.
    """
    if asked.form == "mask":
        return _png(prediction.palette_image())
    if asked.form == "indices":
        return _png(Image.fromarray(prediction.mask))
    if asked.form == "overlay":
        file = io.BytesIO()
        try:
            prediction.overlay(asked.opacity, asked.legend).save(file, "JPEG", quality=90)
        except OSError as error:  # sides beyond 65,500 px
            raise AtrousError(f"the overlay cannot be a JPEG ({error}): ask for the mask.") from error
        return file.getvalue()
    return json.dumps(_polygons(prediction) if asked.form == "polygons" else _classes(prediction, asked.form)).encode()


def form_for(accept: str) -> str | None:
    """The form that an Accept header asks for (RFC 9110 §12.5.1): the mask where it takes anything.

    Args:
        accept: the header's text.

    Returns:
        A key of `FORMATS`, None where it takes nothing that we have.
    """
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        weights[kind] = next((_weight(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
    if not accept.strip():
        return "mask"

    def liked(kind: str) -> float:
        return weights.get(kind, weights.get(f"{kind.partition('/')[0]}/*", weights.get("*/*", 0.0)))

    best = max(ACCEPTED, key=liked)
    return ACCEPTED[best] if liked(best) > 0 else None


def rle_counts(mask: np.ndarray) -> str:
    """A mask's runs as COCO writes them compressed.

    Lengths of the runs column by column, starting with that of False; from the fourth on the difference to the last
    but one; each in groups of five bits, the lowest first (cocodataset/cocoapi, common/maskApi.c, rleToString).

    Args:
        mask: H×W booleans.
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(changes, prepend=0, append=flat.size)
    if flat[0]:
        runs = np.concatenate([[0], runs])
    values = runs.copy()
    values[3:] -= runs[1:-2]
    letters = []
    for value in values.tolist():
        more = True
        while more:
            group, value = value & 0x1F, value >> 5
            more = value != (-1 if group & 0x10 else 0)
            letters.append(chr(48 + (group | (0x20 if more else 0))))
    return "".join(letters)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=3)
    return file.getvalue()


def _classes(prediction: Prediction, form: str) -> dict[str, Any]:
    """The classes in a mask with their areas, and with their runs where these were asked for."""
    height, width = prediction.mask.shape
    entries = []
    for index, entry in _present(prediction):
        if form == "rle":
            entry["rle"] = {"size": [height, width], "counts": rle_counts(prediction.mask == index)}
        entries.append(entry)
    return {"width": width, "height": height, "classes": entries}


def _polygons(prediction: Prediction) -> dict[str, Any]:
    """A GeoJSON feature collection whose coordinates are pixels: x to the right, y down.

    Raises:
        AtrousError: a mask so ragged that its outlines would be much larger than itself.
    """
    height, width = prediction.mask.shape
    features, left = [], MOST_CORNERS
    for index, entry in _present(prediction):
        polygons = polygons_of(prediction.mask == index, left)
        left -= sum(len(ring) - 1 for polygon in polygons for ring in polygon)
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
        features.append({"type": "Feature", "properties": entry, "geometry": geometry})
    return {"type": "FeatureCollection", "width": width, "height": height, "features": features}


def _present(prediction: Prediction) -> list[tuple[int, dict[str, Any]]]:
    info, counts = prediction.info, np.bincount(prediction.mask.ravel(), minlength=256)
    return [
        (
            index,
            {
                "index": index,
                "name": info.classes[index],
                "color": list(info.colors[index]),
                "pixels": count,
                "share": count / prediction.mask.size,
            },
        )
        for index, count in enumerate(counts[: len(info.classes)].tolist())
        if count
    ]
