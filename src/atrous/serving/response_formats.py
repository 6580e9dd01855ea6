"""Encodes a mask in the response formats, and chooses the format from the Accept header."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from atrous.data.value_counts import value_counts
from atrous.errors import AtrousError
from atrous.inference.prediction import Prediction
from atrous.serving.polygons import polygons_of

#: Response formats and their media types.
FORMATS = {
    "mask": "image/png",
    "indices": "image/png",
    "overlay": "image/jpeg",
    "areas": "application/json",
    "rle": "application/json",
    "polygons": "application/geo+json",
    "nifti": "application/gzip",
    "dicom-seg": "application/dicom",
    "view": "application/gzip",
}
#: The response formats of a model of volumes; all other formats are for models of pictures.
VOLUME_FORMS = ("nifti", "dicom-seg", "view")
#: Largest number of corners of all polygons of a response: a million corners take two seconds, 200 MB of memory and
#: 12 MB of text.
MOST_CORNERS = 1_000_000
#: Media types in Accept and the response format of each, for pictures; of several equal matches, the first is used.
ACCEPTED = {
    "image/png": "mask",
    "application/json": "areas",
    "application/geo+json": "polygons",
    "image/jpeg": "overlay",
}
#: Media types in Accept and the response format of each, for volumes.
VOLUME_ACCEPTED = {"application/gzip": "nifti", "application/dicom": "dicom-seg"}


@dataclass(frozen=True)
class ResponseOptions:
    """Format of a response.

    Args:
        form: response format, a key of `FORMATS`.
        opacity: opacity of the colours of an overlay, 0–1.
        legend: whether an overlay has class names and colours below it.
    """

    form: str = "mask"
    opacity: float = 0.55
    legend: bool = False


def write(prediction: Prediction, options: ResponseOptions) -> bytes:
    """Encodes a prediction in the requested format.

    Args:
        prediction: mask of one picture.
        options: format of the response.

    Raises:
        AtrousError: the format cannot store this mask; the message names a format that can.
    """
    if options.form == "mask":
        return _png(prediction.palette_image())
    if options.form == "indices":
        return _png(Image.fromarray(prediction.mask))
    if options.form == "overlay":
        file = io.BytesIO()
        try:
            prediction.overlay(options.opacity, options.legend).save(file, "JPEG", quality=90)
        except OSError as error:  # a side of a JPEG may have at most 65,500 px
            raise AtrousError(f"the overlay cannot be a JPEG ({error}): use format=mask.") from error
        return file.getvalue()
    record = _polygons(prediction) if options.form == "polygons" else _classes(prediction, options.form)
    return json.dumps(record).encode()


def form_for(accept: str, accepted: Mapping[str, str] = ACCEPTED) -> str | None:
    """Returns the response format that an Accept header prefers (RFC 9110 §12.5.1).

    If the header accepts every type, the result is the first format of `accepted`: "mask" for pictures.

    Args:
        accept: value of the header; "" if the request has none.
        accepted: `ACCEPTED` for pictures, `VOLUME_ACCEPTED` for volumes.

    Returns:
        A key of `FORMATS`, or None if the header accepts none of the formats.
    """
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        weights[kind] = next((_weight(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
    if not accept.strip():
        return next(iter(accepted.values()))

    def quality(kind: str) -> float:
        return weights.get(kind, weights.get(f"{kind.partition('/')[0]}/*", weights.get("*/*", 0.0)))

    best = max(accepted, key=quality)
    return accepted[best] if quality(best) > 0 else None


def rle_counts(mask: np.ndarray) -> str:
    """Returns the run-length encoding of a mask, in COCO's compressed form.

    The encoding contains the lengths of the runs of False and True in turn, column by column; the first run is of False
    and may be empty. From the fourth run on, it contains the difference between the length of the run and the length
    two runs before. Each number is written in groups of five bits, the lowest first (cocodataset/cocoapi,
    common/maskApi.c, rleToString).

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
    """Returns the classes in a mask with their areas and, for the format rle, their run-length encodings."""
    height, width = prediction.mask.shape
    entries = []
    for index, entry in _present(prediction):
        if form == "rle":
            entry["rle"] = {"size": [height, width], "counts": rle_counts(prediction.mask == index)}
        entries.append(entry)
    return {"width": width, "height": height, "classes": entries}


def _polygons(prediction: Prediction) -> dict[str, Any]:
    """Returns a GeoJSON feature collection with coordinates in pixels: x to the right, y down.

    Raises:
        AtrousError: the outlines have more than `MOST_CORNERS` corners.
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
    """Returns, for each class in the mask, its index and the fields that all JSON formats have."""
    info, counts = prediction.info, value_counts(prediction.mask)
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
