"""The boundary-only argmax against resizing everything first, and the banded one that GPUs take."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from atrous.inference import torch_engine
from atrous.inference.resize_argmax import resize_argmax
from atrous.inference.torch_engine import banded_argmax

side = st.integers(1, 45)


def boundary_only(scores: torch.Tensor, size, align_corners=False) -> torch.Tensor:
    """N×K×h×w → N×H×W, as `banded_argmax` has it."""
    rows = scores.permute(0, 2, 3, 1).numpy()
    return torch.stack([torch.from_numpy(resize_argmax(one, size, align_corners)) for one in rows])


BOTH = pytest.mark.parametrize("function", [boundary_only, banded_argmax])


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return 5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def smooth(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Scores with areas of one class, as trained networks give them."""
    return F.interpolate(seeded(1, classes, 3, 4, seed=seed), (height, width), mode="bicubic")


def assert_equal_but_at_ties(mask, scores, size, align_corners) -> None:
    full = F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=align_corners)
    if full.shape[1] == 1:
        expected, gap = (full[:, 0] > 0), full[:, 0].abs()
    else:
        best = full.topk(2, dim=1)
        expected, gap = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
    assert mask.dtype == torch.uint8
    assert mask.shape == (len(scores), *size)
    assert not ((mask != expected) & (gap > 1e-5 * full.abs().max())).any()


@given(low=st.tuples(side, side), size=st.tuples(side, side), classes=st.integers(1, 6), align_corners=st.booleans())
def test_equal_to_resizing_everything_first(low, size, classes, align_corners):
    scores = seeded(2, classes, *low)
    assert_equal_but_at_ties(boundary_only(scores, size, align_corners), scores, size, align_corners)
    assert_equal_but_at_ties(banded_argmax(scores, size, align_corners), scores, size, align_corners)


@given(
    low=st.tuples(side, side),
    size=st.tuples(st.integers(40, 200), st.integers(40, 200)),
    classes=st.integers(2, 21),
    align_corners=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equal_on_areas_of_one_class(low, size, classes, align_corners, seed):
    scores = smooth(classes, *low, seed)
    assert_equal_but_at_ties(boundary_only(scores, size, align_corners), scores, size, align_corners)


@pytest.mark.parametrize("band_bytes", [1, 3000])
def test_bands_change_nothing(band_bytes, monkeypatch):
    scores = seeded(2, 5, 17, 23)
    whole = banded_argmax(scores, (67, 90))
    monkeypatch.setattr(torch_engine, "BAND_BYTES", band_bytes)
    assert torch.equal(banded_argmax(scores, (67, 90)), whole)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_real_size(align_corners):
    scores = smooth(21, 128, 128, 3)
    assert_equal_but_at_ties(boundary_only(scores, (512, 512), align_corners), scores, (512, 512), align_corners)


def test_a_class_that_wins_only_inside_a_cell_is_found():
    scores = torch.tensor([[[10.0, 0.0]], [[0.0, 10.0]], [[6.0, 6.0]]])[None]  # K×1×2: the third wins between
    mask = boundary_only(scores, (1, 9), True)
    assert mask[0, 0].tolist() == [0, 0, 0, 0, 2, 1, 1, 1, 1]
    assert_equal_but_at_ties(mask, scores, (1, 9), True)


@BOTH
def test_one_logit_separates_two_classes_at_zero(function):
    scores = torch.tensor([[[[-1.0, 2.0], [0.0, 0.5]]]])
    assert function(scores, (2, 2)).tolist() == [[[0, 1], [0, 1]]]


@BOTH
def test_the_first_of_equal_classes_wins(function):
    assert not function(torch.zeros(1, 4, 3, 3), (7, 9)).any()


@BOTH
def test_the_highest_class_index_fits(function):
    scores = torch.zeros(1, 255, 2, 2)
    scores[:, 254] = 1
    assert (function(scores, (5, 5)) == 254).all()


def test_any_strides():
    scores = np.random.default_rng(0).normal(0, 1, (5, 9, 11)).astype(np.float32)
    turned = scores.transpose(1, 2, 0)
    assert np.array_equal(resize_argmax(turned, (31, 33)), resize_argmax(turned.copy(), (31, 33)))
