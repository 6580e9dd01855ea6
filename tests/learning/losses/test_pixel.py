import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from atrous.device import with_float64
from atrous.errors import AtrousError
from atrous.learning.losses import pixel
from atrous.learning.losses.class_weights import FORMULAS, class_weights
from atrous.learning.losses.pixel import CrossEntropy


def case(size=(23, 31), low=(6, 8), classes=5, count=2, seed=0):
    """Scores and labels with a tenth ignored."""
    rng = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(count, classes, *low, generator=rng)
    labels = torch.randint(0, max(classes, 2), (count, *size), generator=rng).byte()
    labels[torch.rand(count, *size, generator=rng) < 0.1] = 255
    return scores.requires_grad_(), labels


def plain(scores, labels, weights=None, smoothing=0.0, align_corners=False):
    """Upsample everything, then torch's own loss."""
    full = F.interpolate(scores, size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    weights = None if weights is None else torch.tensor(weights)
    if scores.shape[1] > 1:
        return F.cross_entropy(full, labels.long(), weights, ignore_index=255, label_smoothing=smoothing)
    valid = labels != 255
    truth = labels[valid].float()
    per_pixel = torch.ones_like(truth) if weights is None else weights[truth.long()]
    soft = truth * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(full[:, 0][valid], soft, reduction="none")
    return (each * per_pixel).sum() / per_pixel.sum()


def assert_equal_with_gradient(scores, labels, weights=None, smoothing=0.0, align_corners=False):
    ours = CrossEntropy(weights, smoothing)(scores, labels, align_corners)
    theirs = plain(scores, labels, weights, smoothing, align_corners)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    gradient = torch.autograd.grad(3 * ours, scores)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(3 * theirs, scores)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("band_bytes", [1, 5000, 20_000, pixel.BAND_BYTES])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("classes", "weights"), [(5, None), (5, [1.0, 0.0, 2.5, 7.0, 0.1]), (1, None), (1, [0.3, 2.0])]
)
def test_equal_to_upsampling_first(monkeypatch, band_bytes, align_corners, smoothing, classes, weights):
    monkeypatch.setattr(pixel, "BAND_BYTES", band_bytes)
    assert_equal_with_gradient(*case(classes=classes), weights, smoothing, align_corners)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    low=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    classes=st.integers(1, 6),
    align_corners=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equal_at_every_size(size, low, classes, align_corners, seed):
    scores, labels = case(size, low, classes, 1, seed)
    labels[:, 0, 0] = 0  # at least one pixel counts
    assert_equal_with_gradient(scores, labels, None, 0.0, align_corners)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_labelled_costs_nothing(classes, weighted):
    scores, labels = case(classes=classes)
    weights = [1.0] * max(classes, 2) if weighted else None
    loss = CrossEntropy(weights, 0.1)(scores, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_only_classes_of_no_weight_cost_nothing():
    scores, labels = case(classes=3)
    loss = CrossEntropy([0.0, 1.0, 1.0])(scores, torch.zeros_like(labels))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.isfinite().all()


def test_ignored_pixels_have_no_say():
    scores, labels = case(low=(23, 31))
    CrossEntropy()(scores, labels).backward()
    ignored = (labels == 255)[:, None].expand_as(scores)
    assert not scores.grad[ignored].any()
    assert scores.grad[~ignored].all()


@pytest.mark.parametrize("classes", [1, 5])
def test_bfloat16_scores_are_compared_in_float32(classes):
    scores, labels = case(classes=classes)
    half = scores.detach().bfloat16().requires_grad_()
    loss = CrossEntropy()(half, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain(half.float(), labels), atol=1e-5, rtol=1e-5)
    loss.backward()
    assert half.grad.dtype == torch.bfloat16
    expected = torch.autograd.grad(plain(scores, labels), scores)[0]
    torch.testing.assert_close(half.grad.float(), expected, atol=1e-4, rtol=0.05)


def test_no_gradient_is_made_where_none_is_wanted():
    scores, labels = case()
    with torch.no_grad():
        torch.testing.assert_close(CrossEntropy()(scores, labels), plain(scores, labels), atol=1e-5, rtol=1e-5)
    assert not CrossEntropy()(scores.detach(), labels).requires_grad


def test_wild_scores_stay_finite():
    scores, labels = case()
    loss = CrossEntropy()((1e6 * scores.detach()).requires_grad_(), labels)
    assert loss.isfinite()


@pytest.mark.parametrize("how", FORMULAS)
def test_class_weights_favour_the_rare_and_average_one_over_the_pixels(how):
    pixels = np.array([900_000, 90_000, 9_000, 1_000])
    weights = np.array(class_weights(pixels.tolist(), how))
    assert (np.diff(weights) > 0).all()
    assert (weights * pixels).sum() / pixels.sum() == pytest.approx(1)


def test_class_weights_are_the_papers():
    pixels = [700, 200, 100]
    frequency = np.array(pixels) / 1000
    expected = {
        "inverse_sqrt": frequency**-0.5,
        "median_frequency": 0.2 / frequency,
        "log": 1 / np.log(1.02 + frequency),
    }
    for how, by_hand in expected.items():
        weights = np.array(class_weights(pixels, how))
        np.testing.assert_allclose(weights / weights[0], by_hand / by_hand[0])


@pytest.mark.parametrize("how", FORMULAS)
def test_a_class_that_never_occurs_weighs_as_the_rarest(how):
    weights = class_weights([100, 0, 10], how)
    assert weights[1] == weights[2] > weights[0]
    assert np.isfinite(weights).all()


def test_class_weights_for_nothing():
    assert class_weights([1, 2], "none") is None
    with pytest.raises(AtrousError, match="no labelled pixel"):
        class_weights([0, 0], "log")
    with pytest.raises(AtrousError, match=r"unknown class weighting 'inverse_sqr'\. Did you mean 'inverse_sqrt'"):
        class_weights([1, 2], "inverse_sqr")


def test_weights_of_more_pixels_than_float32_counts_are_summed_exactly():
    labels = torch.zeros(1, 4200, 4200, dtype=torch.uint8)  # 17.6 million, above 2²⁴
    counted = torch.full(labels.shape, 3.0)
    assert pixel._total_weight(labels, counted, None).item() == 3.0 * labels.numel()


def test_pixels_are_counted_where_the_device_has_float64():
    assert with_float64(torch.device("mps")) == torch.device("cpu")  # Apple's GPUs have none
    assert with_float64(torch.device("cuda:1")) == torch.device("cuda:1")


def test_the_mean_over_processes_is_injected():
    """Of two, this one has 3 labelled pixels and the other none: it counts twice, and the mean is that over all."""
    scores, labels = torch.randn(1, 2, 1, 4), torch.tensor([[[0, 1, 1, 255]]], dtype=torch.uint8)
    told = []

    def mean_of(weight):
        told.append(weight.item())
        return weight / 2

    assert CrossEntropy(mean_of=mean_of)(scores, labels) == 2 * CrossEntropy()(scores, labels)
    assert told == [3]
