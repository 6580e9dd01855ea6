import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from atrous.inference import resize_argmax as module
from atrous.inference.resize_argmax import resize_argmax

side = st.integers(1, 45)


def seeded(*shape: int) -> torch.Tensor:
    return 5 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_equal_but_at_ties(scores, size, align_corners) -> None:
    mask = resize_argmax(scores, size, align_corners)
    full = F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=align_corners)
    if full.shape[1] == 1:
        expected, gap = (full[:, 0] > 0), full[:, 0].abs()
    else:
        best = full.topk(2, dim=1)
        expected, gap = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
    assert mask.dtype == torch.uint8
    assert mask.shape == (len(scores), *size)
    assert not ((mask != expected) & (gap > 1e-5 * full.abs().max())).any()


@settings(deadline=None, max_examples=150)
@given(
    low=st.tuples(side, side),
    size=st.tuples(side, side),
    classes=st.integers(1, 6),
    align_corners=st.booleans(),
    band_bytes=st.sampled_from([1, 3000, module.BAND_BYTES]),
)
def test_equal_to_resizing_everything_first(low, size, classes, align_corners, band_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BAND_BYTES", band_bytes)
        assert_equal_but_at_ties(seeded(2, classes, *low), size, align_corners)


def test_a_real_size_needs_several_bands():
    scores = seeded(1, 21, 96, 128)
    assert module.BAND_BYTES < 4 * 21 * 384 * 512
    assert_equal_but_at_ties(scores, (384, 512), False)


def test_one_logit_separates_two_classes_at_zero():
    scores = torch.tensor([[[[-1.0, 2.0], [0.0, 0.5]]]])
    assert resize_argmax(scores, (2, 2)).tolist() == [[[0, 1], [0, 1]]]


def test_the_first_of_equal_classes_wins():
    assert not resize_argmax(torch.zeros(1, 4, 3, 3), (7, 9)).any()


def test_the_highest_class_index_fits():
    scores = torch.zeros(1, 255, 2, 2)
    scores[:, 254] = 1
    assert (resize_argmax(scores, (5, 5)) == 254).all()


def test_bfloat16_scores_are_resized_in_float32():
    scores = seeded(1, 5, 9, 9).bfloat16()
    assert torch.equal(resize_argmax(scores, (31, 33)), resize_argmax(scores.float(), (31, 33)))
