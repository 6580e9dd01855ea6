"""The fully connected CRF of DeepLabV1 and V2 (arXiv:1210.5644; arXiv:1412.7062 §4.2), with an exact spatial kernel."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.checked_arguments import as_float, check_usable, checked, checked_names
from atrous.crf.permutohedral import Lattice, check_range
from atrous.crf.spatial_gaussian import LEAST, Axis, taps_of
from atrous.errors import AtrousError, shown, unknown_name

Array = TypeVar("Array", np.ndarray, Tensor)

#: Settings by preset name; the comment above each preset names its source.
PRESETS: dict[str, dict[str, float]] = {
    # DeepLab-LargeFOV (V1): CoinCheung/DeepLab-v2-pytorch, utils/crf.py
    "deeplabv1": {
        "bilateral_weight": 4,
        "bilateral_xy": 121,
        "bilateral_rgb": 5,
        "gaussian_weight": 3,
        "gaussian_xy": 3,
    },
    # DeepLabV2 over ResNet-101: kazuto1011/deeplab-pytorch, configs/voc12.yaml
    "deeplabv2": {
        "bilateral_weight": 4,
        "bilateral_xy": 67,
        "bilateral_rgb": 3,
        "gaussian_weight": 3,
        "gaussian_xy": 1,
    },
    # The example in pydensecrf's README
    "pydensecrf": {
        "bilateral_weight": 10,
        "bilateral_xy": 80,
        "bilateral_rgb": 13,
        "gaussian_weight": 3,
        "gaussian_xy": 3,
    },
}

#: Largest sum of both kernel weights for which the compiled loops can compute e^message in float32 without scaling.
HEAVIEST = 40.0
#: Largest weight, extent and compatibility entry, and smallest extent. With these limits, all products are in the range
#: of float32.
LARGEST, SMALLEST = 1e15, 1e-15
#: Largest number of mean-field steps.
MOST_ITERATIONS = 1_000_000
#: Largest allowed difference between the sum of a pixel's probabilities and 1.
SLACK = 1e-2


class DenseCRF(nn.Module):
    """The fully connected CRF: refines a pixel's class probabilities by those of near pixels with similar colours.

    It runs mean-field inference with two kernels between all pairs of pixels: a bilateral kernel over position and
    colour, and a Gaussian kernel over position. Both kernels are normalised symmetrically. The computation is in
    float32, or in float64 if the probabilities are float64.

    Args:
        bilateral_weight: weight w1 of the bilateral kernel, 0 to 1e15.
        bilateral_xy: extent σα of the bilateral kernel in pixels, 1e-15 to 1e15.
        bilateral_rgb: extent σβ of the bilateral kernel in colour, 1e-15 to 1e15, on the scale 0–255. The colours of
            16-bit pictures are divided by 257.
        gaussian_weight: weight w2 of the Gaussian kernel, 0 to 1e15.
        gaussian_xy: extent σγ of the Gaussian kernel in pixels, 1e-15 to 1e15.
        iterations: number of mean-field steps, 0 to 1,000,000; 10 in the papers.
        compatibility: "potts", or a K×K matrix; entry (k, l) is the penalty for class k near class l, at most 1e15 in
            absolute value.
        prune: bound on the change of a probability, 0 to 1e15, used by the compiled loops on the CPU. A class stops
            sending messages once its messages change no pixel's probability by more than this bound, to first order.
            With 0, every class sends messages in every step.
        trainable: whether the weights and the compatibility are trainable parameters (arXiv:1502.03240).

    Raises:
        AtrousError: a value is out of range.
    """

    @checked_names
    def __init__(
        self,
        bilateral_weight: float = 4,
        bilateral_xy: float = 67,
        bilateral_rgb: float = 3,
        gaussian_weight: float = 3,
        gaussian_xy: float = 1,
        iterations: int = 10,
        compatibility: str | Any = "potts",
        prune: float = 5e-5,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        weights = {"bilateral_weight": bilateral_weight, "gaussian_weight": gaussian_weight, "prune": prune}
        extents = {"bilateral_xy": bilateral_xy, "bilateral_rgb": bilateral_rgb, "gaussian_xy": gaussian_xy}
        words = f"0 or more, and finite, at most {LARGEST:g}"
        weights = {name: _within(name, value, 0, words) for name, value in weights.items()}
        words = f"more than 0, and finite, {SMALLEST:g} to {LARGEST:g}"
        extents = {name: _within(name, value, SMALLEST, words) for name, value in extents.items()}
        steps = as_float(iterations, "iterations")
        if steps is None or not 0 <= steps <= MOST_ITERATIONS or not steps.is_integer():
            raise AtrousError(
                f"iterations must be a whole number, 0 or more, and at most {MOST_ITERATIONS:,}, got "
                f"{shown(iterations)}."
            )
        if not isinstance(trainable, bool):
            raise AtrousError(f"trainable must be True or False, got {shown(trainable)}.")
        self.bilateral_xy, self.bilateral_rgb, self.gaussian_xy = extents.values()
        self.iterations, self.prune = int(steps), weights["prune"]
        self._scratch: Any = None
        self.bilateral_weight = nn.Parameter(torch.tensor(weights["bilateral_weight"]), requires_grad=trainable)
        self.gaussian_weight = nn.Parameter(torch.tensor(weights["gaussian_weight"]), requires_grad=trainable)
        self.compatibility: nn.Parameter | None = None
        if not isinstance(compatibility, str):
            try:
                matrix = torch.as_tensor(compatibility, dtype=torch.float32)
                sound = matrix.ndim == 2 and len(matrix) == matrix.shape[1] and bool((matrix.abs() <= LARGEST).all())
            except Exception as error:  # an object's own code may raise any error
                raise AtrousError(f"compatibility must be 'potts' or a K×K matrix: {error}.") from error
            if not sound:
                raise AtrousError(
                    f"compatibility must be 'potts' or a finite K×K matrix with numbers up to {LARGEST:g}, got shape "
                    f"{tuple(matrix.shape)}."
                )
            self.compatibility = nn.Parameter(matrix.clone(), requires_grad=trainable)
        elif compatibility != "potts":
            raise unknown_name("compatibility", compatibility, ["potts"])

    @classmethod
    @checked
    def preset(cls, name: str, **changes: Any) -> DenseCRF:
        """Returns a CRF with the settings of a preset.

        Args:
            name: a key of `PRESETS`.
            changes: settings that replace those of the preset, as arguments of `DenseCRF`.

        Raises:
            AtrousError: the preset or a setting is unknown, or a value is out of range.
        """
        if name not in PRESETS:
            raise unknown_name("CRF preset", name, PRESETS)
        known = inspect.signature(cls).parameters
        for setting in changes:
            if setting not in known:
                raise unknown_name("CRF setting", setting, known)
        settings: Mapping[str, Any] = {**PRESETS[name], **changes}
        return cls(**settings)

    def forward(self, image: Array, probabilities: Array, valid: Array | None = None) -> Array:
        """Returns refined probabilities.

        Args:
            image: picture of H×W×C, C ≥ 1, or a batch of N×H×W×C; uint8, uint16 or float.
            probabilities: K×H×W or N×K×H×W, finite, with a sum of 1 over K; gradients flow into them.
            valid: H×W or N×H×W booleans. Pixels that are False neither send nor receive messages, may contain NaN, and
                keep their probabilities.

        Returns:
            Array or tensor like `probabilities`: the same shape and dtype, and the same device for tensors.

        Raises:
            AtrousError: the shapes do not agree, the probabilities are empty, a value is NaN or infinite, or the
                probabilities are negative or do not sum to 1.
        """
        for name, value in (("image", image), ("probabilities", probabilities), ("valid", valid)):
            check_usable(value, name)
        if not isinstance(probabilities, Tensor):
            return self(image, _tensor(probabilities), valid).detach().numpy()
        probabilities = _tensor(probabilities)
        picture, mask = _tensor(image), None if valid is None else _tensor(valid).to(probabilities.device).bool()
        _check(picture, probabilities, mask)
        if probabilities.ndim == 3:
            return self._refine(picture, probabilities, mask)
        masks = [None] * len(picture) if mask is None else mask
        return torch.stack([self._refine(*one) for one in zip(picture, probabilities, masks, strict=True)])

    def _refine(self, image: Tensor, probabilities: Tensor, valid: Tensor | None) -> Tensor:
        """Refines the probabilities of one picture."""
        classes, height, width = probabilities.shape
        if self.compatibility is not None and len(self.compatibility) != classes:
            raise AtrousError(f"the compatibility is for {len(self.compatibility)} classes, not {classes}.")
        everywhere = valid is None or bool(valid.all())
        given = probabilities
        if valid is not None and not everywhere:
            if not valid.any():
                return probabilities.clone()
            probabilities = probabilities.masked_fill(~valid, 1 / classes)  # also replaces NaN
        dtype = probabilities.dtype if probabilities.dtype == torch.float64 else torch.float32
        features = _features(image, self.bilateral_xy, self.bilateral_rgb, valid).to(probabilities.device, dtype)
        learns = torch.is_grad_enabled() and (
            probabilities.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )
        compiled = (
            everywhere
            and classes > 1
            and not learns
            and self.compatibility is None
            and probabilities.device.type == "cpu"
            and dtype == torch.float32
            and self.bilateral_weight + self.gaussian_weight <= HEAVIEST
        )
        if compiled:
            refined = self._compiled(probabilities, features, (height, width))
        else:
            unary = probabilities.to(dtype).clamp(min=LEAST).log().flatten(1).T  # (H·W)×K
            kept = None if everywhere else valid
            refined = _mean_field(self, unary, features, (height, width), kept).T
        refined = refined.reshape(classes, height, width).to(given.dtype).contiguous()
        return refined if everywhere else torch.where(torch.as_tensor(valid), refined, given)

    def _compiled(self, probabilities: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Runs the steps in compiled loops, without gradients; returns K×(H·W) for K×H×W probabilities."""
        from atrous.crf.buffers import Buffers
        from atrous.crf.mean_field_cpu import infer
        from atrous.crf.permutohedral_cpu import CpuLattice, in_tiles
        from atrous.crf.threads import like_torch

        self._scratch = self._scratch or Buffers()
        planes = probabilities.detach().float().flatten(1).contiguous().numpy()
        with like_torch():
            lattice = CpuLattice.over(features.numpy(), in_tiles(*size))
            lattice.normalise()
            result = infer(
                planes,
                lattice,
                (Axis.of(size[0], self.gaussian_xy), Axis.of(size[1], self.gaussian_xy)),
                bilateral_weight=self.bilateral_weight.item(),
                gaussian_weight=self.gaussian_weight.item(),
                iterations=self.iterations,
                prune=self.prune,
                scratch=self._scratch,
            )
        return torch.from_numpy(result)


def _within(name: str, value: Any, least: float, allowed: str) -> float:
    """Returns a setting as a float; raises an `AtrousError` if it is not within `least` and `LARGEST`."""
    number = as_float(value, name)
    if number is None or not least <= number <= LARGEST:
        raise AtrousError(f"{name} must be {allowed}, got {shown(value)}.")
    return number


def _mean_field(crf: DenseCRF, unary: Tensor, features: Tensor, size: tuple[int, int], valid: Tensor | None) -> Tensor:
    """Runs the steps in plain torch, with gradients; returns (H·W)×K probabilities for (H·W)×K log probabilities."""
    inside = slice(None) if valid is None else valid.flatten().nonzero()[:, 0]
    lattice = Lattice(features[inside].contiguous())
    ones = unary.new_ones(lattice.count, 1)
    bilateral_scale = lattice.filter(ones).clamp(min=LEAST) ** -0.5
    mask = unary.new_ones(size) if valid is None else valid.to(unary)
    kernels = [torch.from_numpy(taps_of(length, crf.gaussian_xy)).to(unary) for length in size]
    gaussian_scale = _smooth(mask[None], kernels).clamp(min=LEAST) ** -0.5 * mask
    beliefs = unary.softmax(1)
    for _ in range(crf.iterations):
        here = beliefs[inside]
        near = crf.bilateral_weight * bilateral_scale * lattice.filter(here * bilateral_scale)
        planes = beliefs.T.reshape(-1, *size) * gaussian_scale
        smooth = (_smooth(planes, kernels) * gaussian_scale).flatten(1).T[inside]
        message = near + crf.gaussian_weight * smooth
        if crf.compatibility is not None:
            message = -message @ crf.compatibility.T.to(message)
        updated = (unary[inside] + message).softmax(1)
        beliefs = updated if isinstance(inside, slice) else beliefs.index_copy(0, inside, updated)
    return beliefs


def _smooth(planes: Tensor, kernels: list[Tensor]) -> Tensor:
    """Returns K×H×W planes convolved along both axes, with zero padding."""
    vertical, horizontal = kernels
    planes = F.conv2d(planes[:, None], vertical[None, None, :, None], padding=(len(vertical) // 2, 0))
    return F.conv2d(planes, horizontal[None, None, None], padding=(0, len(horizontal) // 2))[:, 0]


def _features(image: Tensor, xy: float, rgb: float, valid: Tensor | None) -> Tensor:
    """Returns (H·W)×(2+C) positions and colours, in standard deviations; 0 for pixels that are not valid."""
    height, width, channels = image.shape
    unit = 257.0 if image.dtype == torch.uint16 else 1.0
    colors = image.reshape(-1, channels).to(torch.float32) / (unit * rgb)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
    )
    places = torch.stack([columns, rows], -1).reshape(-1, 2).to(torch.float32) / xy
    features = torch.cat([places, colors], 1)
    if valid is not None:
        features = features.masked_fill(~valid.to(features.device).flatten()[:, None], 0)
    check_range(features)
    return features


def _tensor(array: Any) -> Tensor:
    """Returns an array as a tensor that shares its memory; reversed or read-only arrays, such as PIL's, are copied."""
    if isinstance(array, Tensor):
        if array.is_meta:
            raise AtrousError("a tensor on the device meta has no values: move it to a real device.")
        return array
    try:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except Exception as error:  # PIL images and array-like objects may raise any error
        raise AtrousError(f"an array or tensor of numbers is needed, got {type(array).__name__}: {error}") from error


def _check(image: Tensor, probabilities: Tensor, valid: Tensor | None) -> None:
    """Raises an `AtrousError` for input that cannot be refined."""
    if probabilities.ndim not in (3, 4):
        raise AtrousError(f"probabilities must be K×H×W or N×K×H×W, got {tuple(probabilities.shape)}.")
    if not probabilities.numel():
        raise AtrousError(f"probabilities of {tuple(probabilities.shape)} contain nothing to refine.")
    batch, size = tuple(probabilities.shape[:-3]), tuple(probabilities.shape[-2:])
    if tuple(image.shape[:-1]) != (*batch, *size) or not image.shape[-1:].numel():
        raise AtrousError(
            f"image must be H×W×C for probabilities K×H×W: got {tuple(image.shape)} for {tuple(probabilities.shape)}."
        )
    if valid is not None and tuple(valid.shape) != (*batch, *size):
        raise AtrousError(f"valid must be {(*batch, *size)}, a boolean for each pixel, got {tuple(valid.shape)}.")
    if not probabilities.is_floating_point():
        raise AtrousError(f"probabilities must be of a float type, got {probabilities.dtype}.")
    if valid is not None:
        image = image[valid.to(image.device)]
        probabilities = probabilities.detach().movedim(-3, -1)[valid].T[..., None]  # K×n×1
    if not probabilities.numel():
        return
    worst = (probabilities.detach().sum(-3) - 1).abs().max().item()  # NaN if a probability is NaN
    if not math.isfinite(worst) or (image.is_floating_point() and not image.isfinite().all()):
        raise AtrousError("image or probabilities contain NaN or infinity. Exclude pixels without data with `valid`.")
    if probabilities.min() < 0 or worst > SLACK:
        hint = " Give a one-logit model's probability p as (1 − p, p)." if probabilities.shape[-3] == 1 else ""
        raise AtrousError(
            f"probabilities must be 0 or more and sum to 1 over the classes; a sum is off by {worst:.3g}.{hint} "
            "Convert logits to probabilities by softmax."
        )
