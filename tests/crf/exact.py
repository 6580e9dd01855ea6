"""Slow and exact versions of what the CRF approximates, and the reference implementation, for comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def gaussian(features: Tensor) -> Tensor:
    """N×N float64 exp(−|f_i − f_j|² / 2)."""
    return torch.exp(-(torch.cdist(features.double(), features.double()) ** 2) / 2)


def mean_field(image: NDArray, probabilities: NDArray, settings: Mapping[str, float], steps: int = 10) -> NDArray:
    """Mean field over every pair of pixels, as arXiv:1210.5644 writes it down, in float64; H×W×C and K×H×W."""
    size = probabilities.shape[1:]
    places = torch.from_numpy(np.indices(size).reshape(2, -1).T.astype(float))
    colors = torch.from_numpy(image.reshape(len(places), -1).astype(float))
    bilateral = torch.cat([places / settings["bilateral_xy"], colors / settings["bilateral_rgb"]], 1)
    kernel = sum(
        weight * _normalised(gaussian(features))
        for weight, features in (
            (settings["bilateral_weight"], bilateral),
            (settings["gaussian_weight"], places / settings["gaussian_xy"]),
        )
    )
    unary = torch.from_numpy(probabilities).double().clamp(min=1e-20).log().flatten(1)
    beliefs = unary.softmax(0)
    for _ in range(steps):
        beliefs = (unary + beliefs @ kernel).softmax(0)
    return beliefs.reshape(probabilities.shape).numpy()


def _normalised(kernel: Tensor) -> Tensor:
    scale = kernel.sum(1) ** -0.5
    return kernel * scale[:, None] * scale


def reference(image: NDArray, probabilities: NDArray, settings: Mapping[str, float], steps: int = 10) -> NDArray:
    """The same by pydensecrf2, Krähenbühl's own code; RGB pictures only."""
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    classes, height, width = probabilities.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    energy = -np.log(probabilities.clip(1e-20)).reshape(classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(energy, np.float32))
    crf.addPairwiseGaussian(sxy=settings["gaussian_xy"], compat=settings["gaussian_weight"])
    crf.addPairwiseBilateral(
        sxy=settings["bilateral_xy"],
        srgb=settings["bilateral_rgb"],
        rgbim=np.ascontiguousarray(image),
        compat=settings["bilateral_weight"],
    )
    return np.array(crf.inference(steps)).reshape(probabilities.shape)


def reference_filter(features: Tensor, values: Tensor) -> Tensor:
    """The reference's unnormalised filter, read from a single mean-field step with a tiny weight.

    Args:
        features: N×d.
        values: N, within (−1, 1): the difference of two classes' probabilities.
    """
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    weight = 1e-2
    beliefs = torch.stack([(1 - values) / 2, (1 + values) / 2])
    energy = np.ascontiguousarray(-beliefs.log().numpy(), np.float32)
    crf = densecrf.DenseCRF(len(features), 2)
    crf.setUnaryEnergy(energy)
    crf.addPairwiseEnergy(
        np.ascontiguousarray(features.T.numpy(), np.float32), weight, normalization=densecrf.NO_NORMALIZATION
    )
    state, *buffers = crf.startInference()
    crf.stepInference(state, *buffers)
    after = np.log(np.array(state, np.float64).reshape(2, -1))
    return torch.from_numpy((after[1] - after[0] - (energy[0] - energy[1])) / weight)


def smooth_probabilities(classes: int, height: int, width: int, *, cell: int = 24, seed: int = 0) -> NDArray:
    """Random K×H×W probabilities that change over about `cell` pixels, as a network's do."""
    generator = torch.Generator().manual_seed(seed)
    low = 5 * torch.randn(1, classes, height // cell + 2, width // cell + 2, generator=generator)
    high = F.interpolate(low, size=(height, width), mode="bicubic", align_corners=False)
    return high[0].softmax(0).numpy()
