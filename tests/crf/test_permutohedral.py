"""The filter against the exact Gaussian, the reference's own filter, and what any linear symmetric filter owes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from exact import gaussian, reference_filter
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

import atrous
from atrous.crf.permutohedral import FARTHEST, Lattice
from atrous.crf.permutohedral_cpu import TILE, CpuLattice, in_tiles
from atrous.crf.permutohedral_torch import TorchLattice
from atrous.crf.row_sums import from_panels, padded, panels, to_panels
from atrous.errors import AtrousError

CLOUDS = st.tuples(st.integers(1, 60), st.integers(1, 8), st.floats(0.01, 30), st.integers(0, 1000))


def cloud(count: int, dims: int, extent: float = 1.5, seed: int = 0) -> torch.Tensor:
    """N×d random features."""
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)) * extent


def values_for(features: torch.Tensor, columns: int = 3) -> torch.Tensor:
    """N×L random values within (−0.8, 0.8)."""
    generator = torch.Generator().manual_seed(7)
    return (torch.rand(len(features), columns, generator=generator) - 0.5) * 1.6


def normalised(features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    lattice = Lattice(features)
    return lattice.filter(values) / lattice.filter(torch.ones(len(features), 1))


def mean_of(features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """What `normalised` approximates."""
    kernel = gaussian(features)
    return kernel @ values.double() / kernel.sum(1, keepdim=True)


# How near it is


#: Mean error of the weighted mean of values within (−0.8, 0.8), which the lattice's own approximation makes: it grows
#: where points are sparse, which a fixed number of them is in many dimensions.
ERRORS = {1: 0.005, 2: 0.01, 3: 0.02, 4: 0.05, 5: 0.12, 6: 0.2, 7: 0.2, 8: 0.2}


@pytest.mark.parametrize("dims", ERRORS)
def test_weighted_means_are_near_the_exact_gaussians(dims):
    features = cloud(400, dims)
    values = values_for(features, 1)
    exact = mean_of(features, values)
    error = (normalised(features, values) - exact).abs()
    assert exact.std() > 0.01  # not vacuous
    assert error.mean() < ERRORS[dims]


@pytest.mark.parametrize("dims", range(1, 9))
def test_it_is_the_references_filter(dims):
    features = cloud(400, dims)
    values = values_for(features, 1)
    ours, theirs = Lattice(features).filter(values)[:, 0].double(), reference_filter(features, values[:, 0])
    exact = (gaussian(features) @ values.double())[:, 0]
    assert (ours - theirs).norm() < 1e-4 * exact.norm()
    assert (ours - exact).norm() < (theirs - exact).norm() * 1.001


def test_on_a_picture_it_is_near_the_exact_bilateral_filter():
    image = torch.from_numpy(data.astronaut()[100:140, 180:228].astype(np.float32))
    places = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(48.0), indexing="ij"), -1)
    features = torch.cat([places.reshape(-1, 2) / 20, image.reshape(-1, 3) / 20], 1)
    values = image.reshape(-1, 3) / 255
    exact = mean_of(features, values)
    error = (normalised(features, values) - exact).abs()
    assert error.mean() < 0.01
    assert error.mean() < 0.2 * (values - exact).abs().mean()


# What it owes as a linear, symmetric filter


@given(CLOUDS)
def test_the_gradient_is_the_transposed_filter(drawn):
    count, dims, extent, seed = drawn
    features = cloud(count, dims, extent, seed)
    here, there = values_for(features, 5), values_for(features, 5).flip(0)
    lattice = Lattice(features)
    forward = (lattice.filter(here) * there).sum()
    backward = (lattice.apply(there, reverse=True) * here).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-3, atol=1e-4)


@given(CLOUDS, st.floats(-3, 3), st.floats(-3, 3))
def test_it_is_linear(drawn, first, second):
    count, dims, extent, seed = drawn
    features = cloud(count, dims, extent, seed)
    one, other = values_for(features, 2), values_for(features, 2).flip(0)
    lattice = Lattice(features)
    together = lattice.filter(first * one + second * other)
    torch.testing.assert_close(
        together, first * lattice.filter(one) + second * lattice.filter(other), rtol=1e-3, atol=1e-4
    )


@given(CLOUDS, st.floats(-100, 100))
def test_a_constant_stays_after_normalising(drawn, constant):
    count, dims, extent, seed = drawn
    features = cloud(count, dims, extent, seed)
    filtered = normalised(features, torch.full((count, 1), constant))
    torch.testing.assert_close(filtered, torch.full((count, 1), constant), rtol=1e-4, atol=1e-5)


@given(CLOUDS)
def test_a_weighted_mean_stays_within_the_values(drawn):
    count, dims, extent, seed = drawn
    features = cloud(count, dims, extent, seed)
    values = values_for(features)
    filtered = normalised(features, values)
    assert (filtered <= values.amax(0) + 1e-4).all()
    assert (filtered >= values.amin(0) - 1e-4).all()


@given(CLOUDS)
def test_the_order_of_points_does_not_matter(drawn):
    count, dims, extent, seed = drawn
    features = cloud(count, dims, extent, seed)
    values, order = values_for(features), torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    expected = Lattice(features).filter(values)[order]
    torch.testing.assert_close(Lattice(features[order]).filter(values[order]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 3, 4, 5, 16, 21, 37])
def test_any_number_of_columns_at_once_or_alone(columns):
    features = cloud(200, 5)
    values = values_for(features, columns)
    lattice = Lattice(features)
    alone = torch.cat([lattice.filter(values[:, [column]]) for column in range(columns)], 1)
    torch.testing.assert_close(lattice.filter(values), alone, rtol=1e-5, atol=1e-6)


def test_far_apart_points_do_not_mix():
    features = torch.tensor([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]])
    filtered = normalised(features, torch.eye(3))
    torch.testing.assert_close(filtered, torch.eye(3))


def test_points_in_one_place_share_their_mean():
    features = torch.full((50, 3), 0.4)
    values = values_for(features)
    torch.testing.assert_close(normalised(features, values), values.mean(0).expand(50, 3), rtol=1e-4, atol=1e-5)


# Compiled and plain are one


@given(CLOUDS)
def test_compiled_is_plain_torch(drawn):
    count, dims, extent, seed = drawn
    features = cloud(count, dims, extent, seed)
    values = values_for(features)
    compiled = Lattice(features)
    for reverse in (False, True):
        plain = TorchLattice.over(features).filter(values, reverse=reverse)
        torch.testing.assert_close(compiled.apply(values, reverse=reverse), plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        compiled.filter(values).double(), Lattice(features.double()).filter(values.double()), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("dims", [1, 2, 5, 8])
def test_gradcheck(dims):
    features = cloud(12, dims).double()
    values = values_for(features, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: atrous.permutohedral_filter(features, v), values)


def test_gradients_flow_through_the_compiled_one():
    features = cloud(50, 4)
    compiled, plain = (values_for(features).to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64))
    for values in (compiled, plain):
        (atrous.permutohedral_filter(features.to(values.dtype), values) ** 3).sum().backward()
    torch.testing.assert_close(compiled.grad.double(), plain.grad, rtol=1e-3, atol=1e-4)


THREADS = """
import numba, numpy, sys, torch
from atrous.crf import DenseCRF, Lattice

rng = numpy.random.default_rng(0)
image = rng.integers(0, 256, (67, 83, 3), dtype="uint8")
probabilities = rng.dirichlet([0.5] * 6, (67, 83)).transpose(2, 0, 1).astype("float32")
features = torch.from_numpy(rng.normal(0, 2, (5000, 4)).astype("float32"))
values = torch.from_numpy(rng.normal(0, 1, (5000, 21)).astype("float32"))
results = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    results.append((Lattice(features).filter(values).numpy(), DenseCRF()(image, probabilities)))
    assert torch.get_num_threads() == threads, "torch's own"
    assert numba.get_num_threads() == 3, "numba's own"
assert results[0][0].std() > 0
for filtered, refined in results[1:]:
    assert numpy.array_equal(filtered, results[0][0]), "filter"
    assert numpy.array_equal(refined, results[0][1]), "crf"
"""


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_order_in_which_vertices_are_numbered_changes_no_bit():
    features = cloud(3000, 3).numpy()
    values = to_panels(np.random.default_rng(0).normal(0, 1, (3000, 5)).astype(np.float32), panels(5))
    plain = CpuLattice.over(features)
    order = np.random.default_rng(1).permutation(3000).astype(np.int32)
    assert np.array_equal(CpuLattice.over(features, order).filter(values, panels(5)), plain.filter(values, panels(5)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (65, 130), (7, 300)])
def test_tiles_hold_every_pixel_once(height, width):
    order = in_tiles(height, width)
    assert np.array_equal(np.sort(order), np.arange(height * width))
    first = order[: min(height, TILE) * min(width, TILE)]
    assert (first % width).max() < TILE and (first // width).max() < TILE


@pytest.mark.parametrize("columns", [1, 4, 5, 8, 9, 16, 17, 21, 40])
def test_panels_hold_what_was_put_in(columns):
    layout = panels(columns)
    assert columns <= padded(layout) < columns + 8
    matrix = np.random.default_rng(0).normal(0, 1, (11, columns)).astype(np.float32)
    assert np.array_equal(from_panels(to_panels(matrix, layout), layout, columns), matrix)


@pytest.mark.slow
def test_it_runs_where_nothing_compiled_may_be_kept():
    code = (
        "import numba.core.caching as caching; caching.CacheImpl._locator_classes = []\n"
        "import torch, atrous; print(atrous.permutohedral_filter(torch.zeros(3, 2), torch.ones(3, 1)).std().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0.0\n"), done.stderr


# What it refuses


@pytest.mark.parametrize(
    ("features", "values", "message"),
    [
        (torch.zeros(5), torch.zeros(5, 1), r"features must be N×d"),
        (torch.zeros(0, 2), torch.zeros(0, 1), r"features must be N×d with N, d ≥ 1, got \(0, 2\)"),
        (torch.zeros(5, 0), torch.zeros(5, 1), r"features must be N×d"),
        (torch.full((5, 2), torch.nan), torch.zeros(5, 1), "NaN"),
        (torch.full((5, 2), torch.inf), torch.zeros(5, 1), "infinity"),
        (torch.full((5, 2), 2 * FARTHEST), torch.zeros(5, 1), r"features reach 2e\+05 standard deviations"),
        (torch.zeros(5, 2), torch.zeros(4, 1), r"values must be 5×L, .* got \(4, 1\)"),
        (torch.zeros(5, 2), torch.zeros(5), r"values must be 5×L"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bad_input_is_refused_in_words(features, values, message, dtype):
    with pytest.raises(AtrousError, match=message):
        atrous.permutohedral_filter(features.to(dtype), values.to(dtype))


@given(st.integers(1, 8), st.integers(0, 100))
@settings(max_examples=20)
def test_features_as_far_away_as_allowed_are_safe(dims, seed):
    """Beyond, rounding put points outside their simplex, and results outside their memory."""
    features = (2 * torch.rand(500, dims, generator=torch.Generator().manual_seed(seed)) - 1) * FARTHEST
    filtered = normalised(features, torch.full((500, 1), 2.0))
    torch.testing.assert_close(filtered, torch.full((500, 1), 2.0), rtol=1e-2, atol=1e-2)


def test_no_columns_are_no_result():
    assert atrous.permutohedral_filter(cloud(5, 2), torch.zeros(5, 0)).shape == (5, 0)
