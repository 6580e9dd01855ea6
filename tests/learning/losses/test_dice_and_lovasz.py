import pytest
import torch
from tests.learning.losses.test_pixel import case
from torch.nn import functional as F

from atrous.learning.losses import pixel
from atrous.learning.losses.combined import loss_for
from atrous.learning.losses.dice import Tversky
from atrous.learning.losses.lovasz import LovaszSoftmax
from atrous.learning.losses.pixel import CrossEntropy, hard_pixels, near_boundary
from atrous.learning.recipe_sections import Loss


def likelihoods(scores, labels, align_corners=False):
    """P×K probabilities and P truths of the labelled pixels, from full-size scores."""
    full = F.interpolate(scores, size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    if scores.shape[1] == 1:
        full = torch.cat([torch.zeros_like(full), full], 1)
    known = labels != 255
    return full.softmax(1).permute(0, 2, 3, 1)[known], labels[known].long()


def slow_tversky(scores, labels, alpha, beta, weights=None, align_corners=False):
    likely, truth = likelihoods(scores, labels, align_corners)
    total, share = 0.0, 0.0
    for index in range(1 if scores.shape[1] == 1 else 0, likely.shape[1]):
        inside, p = (truth == index).float(), likely[:, index]
        if not inside.any():
            continue
        hit, over, missed = (p * inside).sum(), (p * (1 - inside)).sum(), ((1 - p) * inside).sum()
        weight = 1.0 if weights is None else weights[index]
        total = total + weight * (1 - (hit + 1) / (hit + alpha * over + beta * missed + 1))
        share += weight
    return total / share


def slow_lovasz(scores, labels, align_corners=False):
    """By its definition: errors in falling order, each times the increase of 1 − IoU when it joins the wrong set."""
    likely, truth = likelihoods(scores, labels, align_corners)
    values = []
    for index in range(1 if scores.shape[1] == 1 else 0, likely.shape[1]):
        inside = truth == index
        if not inside.any():
            continue
        errors = torch.where(inside, 1 - likely[:, index], likely[:, index])
        wrong, before, value = torch.zeros_like(inside), 0.0, 0.0
        for number in errors.argsort(descending=True):
            wrong[number] = True
            predicted = inside ^ wrong
            now = 1 - (predicted & inside).sum().item() / (predicted | inside).sum().item()
            value = value + errors[number] * (now - before)
            before = now
        values.append(value)
    return sum(values) / len(values)


def assert_same(ours, theirs, scores):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    mine, other = (torch.autograd.grad(3 * loss, scores, retain_graph=True)[0] for loss in (ours, theirs))
    assert other.abs().max() > 1e-5  # the test can fail
    torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("band_bytes", [1, 5000, pixel.BAND_BYTES])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7)])
def test_tversky_in_bands_equals_the_slow_one(monkeypatch, band_bytes, align_corners, classes, alpha, beta):
    monkeypatch.setattr(pixel, "BAND_BYTES", band_bytes)
    scores, labels = case(classes=classes)
    ours = Tversky(alpha, beta)(scores, labels, align_corners)
    assert_same(ours, slow_tversky(scores, labels, alpha, beta, None, align_corners), scores)


def test_tversky_weighs_the_classes_that_are_there():
    scores, labels = case(classes=4)
    labels[labels == 2] = 255
    weights = [1.0, 0.5, 100.0, 3.0]
    assert_same(Tversky(class_weights=weights)(scores, labels), slow_tversky(scores, labels, 0.5, 0.5, weights), scores)


@pytest.mark.parametrize("classes", [1, 3])
def test_lovasz_equals_its_definition(classes):
    scores, labels = case(size=(9, 11), low=(4, 5), classes=classes)
    assert_same(LovaszSoftmax()(scores, labels), slow_lovasz(scores, labels), scores)


def test_lovasz_of_certain_masks_is_one_minus_their_iou():
    generator = torch.Generator().manual_seed(3)
    labels, mask = (torch.randint(0, 4, (2, 20, 20), generator=generator) for _ in range(2))
    scores = 1e4 * F.one_hot(mask, 4).permute(0, 3, 1, 2).float()
    ious = [((mask == c) & (labels == c)).sum() / ((mask == c) | (labels == c)).sum() for c in range(4)]
    assert LovaszSoftmax()(scores, labels.byte()).item() == pytest.approx(1 - sum(ious).item() / 4, abs=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize(
    "loss",
    [
        Tversky(), LovaszSoftmax(), CrossEntropy(focal=2.0), CrossEntropy(hardest=0.2), CrossEntropy(boundary=3.0),
        Tversky(class_weights=[1.0, 2, 3, 4]), LovaszSoftmax([1.0, 2, 3, 4]),
    ],
)  # fmt: skip
def test_nothing_labelled_costs_nothing(loss, classes):
    if classes == 1 and getattr(loss, "class_weights", None) is not None:
        loss = type(loss)(class_weights=[1.0, 2.0])
    scores, labels = case(classes=classes)
    value = loss(scores, torch.full_like(labels, 255))
    value.backward()
    assert value.item() == 0 and value.dtype == torch.float32
    assert scores.grad is not None and not scores.grad.any()


@pytest.mark.parametrize("loss", [Tversky(), LovaszSoftmax(), CrossEntropy(focal=2.0, hardest=0.3, boundary=1.0)])
def test_gradients_fit_the_scores(loss):
    scores, labels = case()
    half = scores.detach().bfloat16().requires_grad_()
    loss(half, labels).backward()
    expected = torch.autograd.grad(loss(scores, labels), scores)[0]
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), expected, atol=2e-3, rtol=0.1)
    assert not loss(scores.detach(), labels).requires_grad


@pytest.mark.parametrize("band_bytes", [1, pixel.BAND_BYTES])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 3.0, 0.1]])
def test_focal_is_the_papers(monkeypatch, band_bytes, weights):
    monkeypatch.setattr(pixel, "BAND_BYTES", band_bytes)
    scores, labels = case()
    likely, truth = likelihoods(scores, labels)
    own = likely.gather(1, truth[:, None])[:, 0]
    each = torch.ones_like(own) if weights is None else torch.tensor(weights)[truth]
    expected = -(each * (1 - own) ** 2 * own.log()).sum() / each.sum()
    assert_same(CrossEntropy(weights, focal=2.0)(scores, labels), expected, scores)
    torch.testing.assert_close(CrossEntropy(weights, focal=1e-9)(scores, labels), CrossEntropy(weights)(scores, labels))


def test_focal_of_one_logit():
    scores, labels = case(classes=1)
    likely, truth = likelihoods(scores, labels)
    own = likely.gather(1, truth[:, None])[:, 0]
    assert_same(CrossEntropy(focal=2.0)(scores, labels), -((1 - own) ** 2 * own.log()).mean(), scores)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("focal", [1e-9, 0.25, 0.5, 1.0, 2.0])
def test_focal_has_a_finite_gradient_where_a_pixel_costs_nothing(focal, smoothing, classes):
    labels = torch.randint(0, max(classes, 2), (2, 9, 11), generator=torch.Generator().manual_seed(5)).byte()
    labels[0, :2] = 255
    truth = torch.where(labels == 255, 0, labels).long()
    certain = F.one_hot(truth, max(classes, 2)).permute(0, 3, 1, 2).float()
    certain = certain[:, 1:] * 2 - 1 if classes == 1 else certain
    for size in (1e4, 60.0, 17.0, 8.0):  # from a likelihood that is exactly 1 to one just below
        scores = (size * certain).requires_grad_()
        value = CrossEntropy(focal=focal, label_smoothing=smoothing)(scores, labels)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(scores.grad).all()
        if not smoothing:
            assert value.item() <= CrossEntropy()(scores, labels).item() + 1e-7


@pytest.mark.parametrize("share", [0.05, 0.9, 1.0])
def test_hard_pixels_are_the_unlikely_and_at_least_a_share(share):
    scores, labels = case()
    scores = 3 * scores.detach()
    scores[:1] *= 0  # every class as likely: hard
    likely, truth = likelihoods(scores, labels)
    own = likely.gather(1, truth[:, None])[:, 0]
    kept = hard_pixels(scores, labels, share)
    assert not kept[labels == 255].any()
    chosen = kept[labels != 255]
    assert chosen[own < 0.69].all()
    assert chosen.sum() == max(round(share * len(own)), (own <= 0.7).sum())
    assert own[chosen].max() <= own[~chosen].min() if (~chosen).any() else True
    expected = -own[chosen].log().mean()
    torch.testing.assert_close(CrossEntropy(hardest=share)(scores, labels), expected, atol=1e-5, rtol=1e-5)


def test_pixels_beside_another_class():
    labels = torch.zeros(1, 7, 12, dtype=torch.uint8)
    labels[..., 6:] = 1
    labels[..., 11] = 255
    expected = torch.zeros(7, 12, dtype=torch.bool)
    expected[:, 4:8] = True
    assert torch.equal(near_boundary(labels)[0], expected)
    assert not near_boundary(torch.full_like(labels, 255)).any()
    scores = torch.randn(1, 3, 7, 12)
    each = F.cross_entropy(scores, labels.long(), ignore_index=255, reduction="none")
    counted = torch.where(expected, 4.0, 1.0) * (labels != 255)
    torch.testing.assert_close(CrossEntropy(boundary=3.0)(scores, labels), (each * counted).sum() / counted.sum())


def test_a_recipe_sums_its_terms():
    scores, labels = case(classes=3)
    pixels = [500, 300, 200]
    recipe = Loss(cross_entropy=0.5, dice=2.0, lovasz=0.25, tversky=1.0, focal=1.0)
    parts = [
        0.5 * CrossEntropy(focal=1.0)(scores, labels),
        2.0 * Tversky()(scores, labels),
        0.25 * LovaszSoftmax()(scores, labels),
        Tversky(0.3, 0.7)(scores, labels),
    ]
    torch.testing.assert_close(loss_for(recipe, pixels)(scores, labels), sum(parts))
    assert len(loss_for(Loss(), pixels).losses) == 1
