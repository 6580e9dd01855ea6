"""Explains a prediction for one picture: computes every map that the page of `atrous explain` shows, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from atrous.checked_arguments import checked
from atrous.crf import DenseCRF
from atrous.errors import AtrousError, shown
from atrous.explaining.activations import WatchedNetwork
from atrous.explaining.contributions import parts_for_class
from atrous.explaining.grad_cam import grad_cam
from atrous.explaining.receptive_field import effective_field, field_radii
from atrous.explaining.uncertainty import entropy, margin
from atrous.models import SegmentationModel
from atrous.models.crf_colors import check_crf_fits, compared_by_crf
from atrous.models.layers import class_probabilities, resize
from atrous.models.model_checks import check_model
from atrous.models.picture_checks import check_picture, check_valid

#: Largest number of pixels of a picture. The outputs of all layers stay in memory for the gradients: two or three
#: gigabytes at this size.
MOST_PIXELS = 2_500_000
#: Mask value of pixels without data.
NO_DATA = 255


@dataclass(frozen=True, eq=False)
class PartSeen:
    """The output of one part of the network, and its contribution to the score of a class.

    Args:
        name: name of the part, such as "rate 12".
        group: "pyramid", "decoder" or "sides", see `activations.parts_of`.
        energy: H×W, ≥ 0: root mean square of the part's features over the channels.
        contribution: H×W: first-order contribution to the class's mean logit. The mean is over the region of the class,
            see `WatchedNetwork.region`.
        share: sum of the contribution over all low-resolution positions, in logits: the part's first-order share of
            this mean logit.
    """

    name: str
    group: str
    energy: NDArray[np.float32]
    contribution: NDArray[np.float32]
    share: float


@dataclass(frozen=True, eq=False)
class ClassSeen:
    """The explanation of one class.

    Args:
        index: the class, 0 to K − 1.
        pixels: number of pixels of the class in the mask.
        probability: H×W, 0–1: probability of the class.
        grad_cam: H×W, 0–1: Grad-CAM map, divided by its maximum.
        parts: contribution of each part of the network.
    """

    index: int
    pixels: int
    probability: NDArray[np.float32]
    grad_cam: NDArray[np.float32]
    parts: list[PartSeen]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The explanation of one picture; all maps have the size of the picture.

    Args:
        mask: H×W class indices, before any CRF.
        entropy: H×W, 0–1: normalised entropy of the probabilities.
        margin: H×W, 0–1: probability of the most probable class minus that of the second most probable class.
        classes: explanation of each chosen class.
        reach: H×W, ≥ 0: effective receptive field of the highest score at the middle position.
        reach_at: (row, column) of the centre of the middle position, in pixels.
        radii: radii in pixels within which 50 % and 95 % of the effective receptive field lie.
        refined: H×W class indices after the CRF; None without a CRF.
        refined_entropy: H×W, 0–1: normalised entropy after the CRF; None without a CRF.
    """

    mask: NDArray[np.uint8]
    entropy: NDArray[np.float32]
    margin: NDArray[np.float32]
    classes: list[ClassSeen]
    reach: NDArray[np.float32]
    reach_at: tuple[float, float]
    radii: list[float]
    refined: NDArray[np.uint8] | None = None
    refined_entropy: NDArray[np.float32] | None = None


@checked
def explain_picture(
    model: SegmentationModel,
    image: NDArray,
    *,
    valid: NDArray[np.bool_] | None = None,
    classes: Sequence[int] | None = None,
    most: int = 4,
    crf: DenseCRF | None = None,
) -> Explanation:
    """Explains a model's prediction for one picture, computed in float32.

    Args:
        model: the model; it is put into evaluation mode, and its parameters' gradients do not change.
        image: H×W×C, with the model's number of channels and value range.
        valid: H×W booleans, False for pixels without data, which are 255 in the masks. None if all pixels have data.
        classes: indices of the classes to explain; by default the classes with the most pixels in the mask.
        most: largest number of classes that are explained if `classes` is None, ≥ 1.
        crf: a CRF whose mask and entropy are added for comparison; None for no CRF.

    Raises:
        AtrousError: the picture has more than `MOST_PIXELS` pixels or does not fit the model; a class does not exist;
            `most` is below 1; or `crf` is not a CRF or does not fit the model.
    """
    check_model(model, weights=True)
    image = check_picture(image, model.info.preprocessing.channels)
    height, width = size = image.shape[:2]
    if valid is not None:
        check_valid(valid, size)
    outside = [index for index in classes or () if not 0 <= index < len(model.info.classes)]
    if outside:
        raise AtrousError(f"classes must be indices from 0 to {len(model.info.classes) - 1}, got {shown(outside[0])}.")
    if most < 1:
        raise AtrousError(f"most, the largest number of explained classes, must be 1 or more, got {most}.")
    if crf is not None and not isinstance(crf, DenseCRF):
        raise AtrousError(f"crf must be an atrous.DenseCRF, got {shown(crf)}.")
    if crf is not None:
        check_crf_fits(model.info.preprocessing)
    if height * width > MOST_PIXELS:
        raise AtrousError(
            f"the picture has {height}×{width} pixels. This is too many, because an explanation stores the output of "
            f"every layer. Give a crop or a smaller copy, with at most {MOST_PIXELS / 1e6:g} million pixels."
        )
    values = image.astype(np.float32) if image.dtype == np.uint16 else image
    device = next(model.parameters()).device
    watched = WatchedNetwork(model, torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None].to(device))
    aligned = model.align_corners

    def full(part: torch.Tensor) -> NDArray[np.float32]:
        return resize(part[None, None].float(), size, aligned)[0, 0].cpu().numpy()

    with torch.no_grad():
        logits = resize(watched.scores[None], size, aligned) / model.info.temperature
        given = class_probabilities(logits)[0]
        probabilities = given.cpu().numpy()
    mask = probabilities.argmax(0).astype(np.uint8)
    if valid is not None:
        mask[~valid] = NO_DATA
    counts = np.bincount(mask.ravel(), minlength=NO_DATA + 1)[: len(probabilities)]
    chosen = list(classes) if classes is not None else [i for i in np.argsort(-counts).tolist() if counts[i]][:most]
    explained = []
    for index in chosen:
        parts = [
            PartSeen(part.name, part.group, full(part.energy), full(part.contribution), float(part.contribution.sum()))
            for part in parts_for_class(watched, index)
        ]
        cam = full(grad_cam(watched, index))
        explained.append(ClassSeen(index, int(counts[index]), probabilities[index], cam / max(cam.max(), 1e-12), parts))
    at, reach, radii = _reach(watched, size)
    refined = refined_entropy = None
    if crf is not None:
        with torch.inference_mode():
            compared = compared_by_crf(image, model.info.preprocessing)
            after = crf(torch.tensor(compared), given, valid).cpu().numpy()
        refined, refined_entropy = after.argmax(0).astype(np.uint8), entropy(after)
        if valid is not None:
            refined[~valid] = NO_DATA
    return Explanation(
        mask, entropy(probabilities), margin(probabilities), explained, reach, at, radii, refined, refined_entropy
    )


def _reach(
    watched: WatchedNetwork, size: Sequence[int]
) -> tuple[tuple[float, float], NDArray[np.float32], list[float]]:
    """Returns the centre of the middle position, the map of its receptive field, and the radii; in pixels."""
    rows, columns = watched.scores.shape[-2:]
    field = effective_field(watched, rows // 2, columns // 2).cpu()
    height, width = size
    at = ((rows // 2 + 0.5) / rows * height, (columns // 2 + 0.5) / columns * width)
    shrunk = np.asarray(cv2.resize(field.numpy(), (width, height), interpolation=cv2.INTER_AREA), np.float32)
    return at, shrunk, field_radii(torch.from_numpy(shrunk), at[0] - 0.5, at[1] - 0.5)
