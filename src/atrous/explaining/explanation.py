"""One picture explained: every map that a page shows, as plain arrays."""

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
from atrous.explaining.activations import WatchedNetwork, field_radii
from atrous.explaining.uncertainty import entropy, margin
from atrous.models import SegmentationModel
from atrous.models.crf_colors import check_crf_fits, compared_by_crf
from atrous.models.layers import class_probabilities, resize
from atrous.models.model_checks import check_model
from atrous.models.picture_checks import check_picture, check_valid

#: Gradients keep every layer's output: two or three gigabytes at this size.
MOST_PIXELS = 2_500_000
#: What a mask holds where the picture has no data.
NO_DATA = 255


@dataclass(frozen=True, eq=False)
class PartSeen:
    """What a part of the network gives for a picture, and what a class owes to it.

    Args:
        name: such as "rate 12".
        group: "pyramid", "decoder" or "sides".
        energy: H×W, ≥ 0.
        contribution: H×W, to the class's logit, to first order.
        share: of the class's mean logit over its region: the sum of the contribution, in logits.
    """

    name: str
    group: str
    energy: NDArray[np.float32]
    contribution: NDArray[np.float32]
    share: float


@dataclass(frozen=True, eq=False)
class ClassSeen:
    """Why a class is where it is.

    Args:
        index: of the class.
        pixels: how many the mask gives it.
        probability: H×W, 0–1.
        grad_cam: H×W, 0–1.
        parts: of the network.
    """

    index: int
    pixels: int
    probability: NDArray[np.float32]
    grad_cam: NDArray[np.float32]
    parts: list[PartSeen]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Everything said about one picture; all maps have its size.

    Args:
        mask: H×W class indices, of the network alone.
        entropy: H×W, 0–1.
        margin: H×W, 0–1.
        classes: the ones asked for.
        reach: H×W, ≥ 0: the effective receptive field of the cell in the middle of the picture.
        reach_at: (row, column) of that cell's centre, in pixels.
        radii: in pixels, within which half and 95 % of that field lie.
        refined: H×W class indices after the CRF, or None.
        refined_entropy: H×W, 0–1, after the CRF, or None.
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
    """Looks into a network while one picture passes, in float32.

    Args:
        model: put into evaluation mode; its gradients stay as they are.
        image: H×W×C with the model's channels and range.
        valid: H×W booleans, False where there is no data: the masks are 255 there. None for data everywhere.
        classes: indices to explain; by default the largest of the mask.
        most: how many of them.
        crf: shown before and after.

    Raises:
        AtrousError: a picture of more than `MOST_PIXELS`, or one that the model does not take; classes that it has not.
    """
    check_model(model, weights=True)
    image = check_picture(image, model.info.preprocessing.channels)
    height, width = size = image.shape[:2]
    if valid is not None:
        check_valid(valid, size)
    outside = [index for index in classes or () if not 0 <= index < len(model.info.classes)]
    if outside:
        raise AtrousError(f"classes are indices from 0 to {len(model.info.classes) - 1}, got {shown(outside[0])}.")
    if most < 1:
        raise AtrousError(f"most is how many classes are explained, 1 or more, got {most}.")
    if crf is not None and not isinstance(crf, DenseCRF):
        raise AtrousError(f"crf must be an atrous.DenseCRF, got {shown(crf)}.")
    if crf is not None:
        check_crf_fits(model.info.preprocessing)
    if height * width > MOST_PIXELS:
        raise AtrousError(
            f"the picture has {height}×{width} pixels, and explaining keeps every layer's output: "
            f"give a part or a smaller copy, of at most {MOST_PIXELS / 1e6:g} million."
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
    seen = []
    for index in chosen:
        parts = [
            PartSeen(part.name, part.group, full(part.energy), full(part.contribution), float(part.contribution.sum()))
            for part in watched.parts(index)
        ]
        cam = full(watched.grad_cam(index))
        seen.append(ClassSeen(index, int(counts[index]), probabilities[index], cam / max(cam.max(), 1e-12), parts))
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
        mask, entropy(probabilities), margin(probabilities), seen, reach, at, radii, refined, refined_entropy
    )


def _reach(
    watched: WatchedNetwork, size: Sequence[int]
) -> tuple[tuple[float, float], NDArray[np.float32], list[float]]:
    """The receptive field of the middle cell, in the picture's own pixels."""
    rows, columns = watched.scores.shape[-2:]
    seen = watched.receptive_field(rows // 2, columns // 2).cpu()
    height, width = size
    at = ((rows // 2 + 0.5) / rows * height, (columns // 2 + 0.5) / columns * width)
    shrunk = np.asarray(cv2.resize(seen.numpy(), (width, height), interpolation=cv2.INTER_AREA), np.float32)
    return at, shrunk, field_radii(torch.from_numpy(shrunk), at[0] - 0.5, at[1] - 0.5)
