"""Gaussian filtering in any number of dimensions; the time is linear in the number of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atrous.checked_arguments import checked
from atrous.crf.permutohedral_torch import TorchLattice
from atrous.errors import AtrousError, shown

#: Largest absolute value of features, in standard deviations; up to this value, float32 can distinguish near points.
FARTHEST = 1e5


class Lattice:
    """A permutohedral lattice over points; it filters any number of values at these points.

    Source: Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (2010). Features of
    float32 on the CPU are filtered by compiled loops, other features by plain torch.

    Args:
        features: N×d, N and d ≥ 1, in units of the Gaussian's standard deviation, −1e5 to 1e5.

    Attributes:
        count: number of points N.

    Raises:
        AtrousError: the shape is wrong, there are no points, or a value is not finite or out of range.
    """

    def __init__(self, features: Tensor) -> None:
        _check_tensor("features", features)
        if features.ndim != 2 or not features.numel():
            raise AtrousError(f"features must be N×d with N, d ≥ 1, got {tuple(features.shape)}.")
        if not features.isfinite().all():
            raise AtrousError("features contain NaN or infinity.")
        check_range(features)
        self.count = len(features)
        self._compiled: Any = None
        self._plain: TorchLattice | None = None
        if features.device.type == "cpu" and features.dtype == torch.float32:
            from atrous.crf.permutohedral_cpu import CpuLattice
            from atrous.crf.threads import like_torch

            with like_torch():
                self._compiled = CpuLattice.over(features.detach().numpy())
        else:
            self._plain = TorchLattice.over(features.detach())

    def filter(self, values: Tensor) -> Tensor:
        """Filters values by the Gaussian.

        The result at point i is approximately c · Σ over points j of exp(−|f_i − f_j|² / 2) · values_j. The factor c is
        the same for all points.

        Args:
            values: N×L; gradients flow into them.

        Returns:
            N×L.

        Raises:
            AtrousError: the values are not an N×L tensor of floats.
        """
        _check_tensor("values", values)
        if values.ndim != 2 or len(values) != self.count:
            raise AtrousError(f"values must be {self.count}×L, one row for each point, got {tuple(values.shape)}.")
        result: Any = _Filter.apply(values, self)
        return result

    def apply(self, values: Tensor, *, reverse: bool) -> Tensor:
        """Applies the filter, or its transpose, without gradients.

        Args:
            values: N×L.
            reverse: whether to apply the transpose.

        Returns:
            N×L.
        """
        if self._plain is not None:
            return self._plain.filter(values, reverse=reverse)
        from atrous.crf.row_sums import from_panels, panels, to_panels
        from atrous.crf.threads import like_torch

        if not values.shape[1]:
            return values.clone()
        layout = panels(values.shape[1])
        with like_torch():
            result = self._compiled.filter(to_panels(values.float().numpy(), layout), layout, reverse=reverse)
        return torch.from_numpy(from_panels(result, layout, values.shape[1])).to(values.dtype)


def check_range(features: Tensor) -> None:
    """Checks that features are small enough; with larger features, rounding would put points outside their simplex.

    Args:
        features: tensor of any shape, in standard deviations.

    Raises:
        AtrousError: a value is NaN or larger than `FARTHEST` in absolute value.
    """
    low, high = features.aminmax()
    reach = torch.maximum(-low, high).item()
    if not reach <= FARTHEST:
        raise AtrousError(
            f"features reach {reach:.3g} standard deviations from 0, and beyond {FARTHEST:g} near points cannot be "
            "distinguished. Give larger standard deviations (bilateral_xy, bilateral_rgb of a CRF), or subtract an "
            "offset."
        )


@checked
def permutohedral_filter(features: Tensor, values: Tensor) -> Tensor:
    """Filters values by a Gaussian over the distance between their features; see `Lattice`.

    Args:
        features: N×d, in units of the Gaussian's standard deviation, −1e5 to 1e5; no gradient flows into them.
        values: N×L; gradients flow into them.

    Returns:
        N×L.

    Raises:
        AtrousError: as for `Lattice` and `Lattice.filter`.
    """
    return Lattice(features).filter(values)


def _check_tensor(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.is_meta:
        raise AtrousError(f"{name} must be a tensor of floats, got {shown(tensor)}.")


class _Filter(torch.autograd.Function):
    """The filter as an autograd function. The filter is linear, so its gradient is the transposed filter."""

    @staticmethod
    def forward(ctx, values, lattice):
        ctx.lattice = lattice
        return lattice.apply(values.detach(), reverse=False)

    @staticmethod
    def backward(ctx, *grad_outputs):
        return ctx.lattice.apply(grad_outputs[0].contiguous(), reverse=True), None
