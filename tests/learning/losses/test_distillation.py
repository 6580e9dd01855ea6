"""The terms of distillation against loops over pixels in float64."""

import numpy as np
import pytest
import torch

from atrous.learning.batch import TEACHER, Batch
from atrous.learning.losses import pixel
from atrous.learning.losses.distillation import ChannelDistillation, SoftLabels

KINDS = [SoftLabels, ChannelDistillation]


def case(classes=3, teachers=None, size=(7, 9), low=(3, 4), other=(2, 5), count=2, seed=0):
    """Scores, those of a teacher of another stride, and labels with a fifth ignored."""
    rng = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(count, classes, *low, generator=rng)
    teacher = 4 * torch.randn(count, teachers or classes, *other, generator=rng)
    labels = torch.randint(0, 2, (count, *size), generator=rng).byte()
    labels[torch.rand(count, *size, generator=rng) < 0.2] = 255
    return scores.requires_grad_(), teacher, labels


def value_of(term, scores, teacher, labels):
    return term({"main": scores}, Batch(torch.zeros(1), {"labels": labels}, {TEACHER: teacher}))


def enlarged(scores, size, align_corners):
    """Bilinear resizing of K×h×w scores, pixel by pixel."""
    found = np.zeros((len(scores), *size))
    for y in range(size[0]):
        for x in range(size[1]):
            places = []
            for position, full, few in ((y, size[0], scores.shape[1]), (x, size[1], scores.shape[2])):
                if align_corners:
                    source = position * (few - 1) / max(full - 1, 1)
                else:
                    source = min(max((position + 0.5) * few / full - 0.5, 0), few - 1)
                first = min(int(source), few - 1)
                places.append((first, min(first + 1, few - 1), source - first))
            (top, bottom, down), (left, right, along) = places
            upper = scores[:, top, left] * (1 - along) + scores[:, top, right] * along
            lower = scores[:, bottom, left] * (1 - along) + scores[:, bottom, right] * along
            found[:, y, x] = upper * (1 - down) + lower * down
    return found


def softmax(values):
    return np.exp(values - values.max()) / np.exp(values - values.max()).sum()


def divergence(p, q):
    return sum(one * np.log(one / other) for one, other in zip(p, q, strict=True))


def plain(kind, scores, teacher, labels, temperature, corners):
    """The definition of each term, by loops."""
    total, pixels, pictures = 0.0, 0, 0
    for own, given, mask in zip(scores, teacher, labels, strict=True):
        maps = [enlarged(one, mask.shape, corner) for one, corner in zip((own, given), corners, strict=True)]
        labelled = [(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x] != 255]
        pixels, pictures = pixels + len(labelled), pictures + bool(labelled)
        if kind is SoftLabels:
            if len(own) == 1:
                maps = [np.concatenate([np.zeros_like(one), one]) for one in maps]
            for y, x in labelled:
                q, p = (softmax(one[:, y, x] / temperature) for one in maps)
                total += divergence(p, q)
        elif labelled:
            for channel in range(len(own)):
                q, p = (softmax(np.array([one[channel, y, x] for y, x in labelled]) / temperature) for one in maps)
                total += divergence(p, q) / len(own)
    return temperature**2 * total / (pixels if kind is SoftLabels else pictures)


def numeric_gradient(function, values, step=1e-4):
    found = np.zeros_like(values)
    for place in np.ndindex(values.shape):
        sides = []
        for sign in (1, -1):
            moved = values.copy()
            moved[place] += sign * step
            sides.append(function(moved))
        found[place] = (sides[0] - sides[1]) / (2 * step)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("classes", "corners", "band_bytes"),
    [(3, (False, False), pixel.BAND_BYTES), (3, (True, False), 1), (2, (False, True), 500), (1, (False, False), 1)],
)
def test_value_and_gradient_are_those_of_the_definition(monkeypatch, kind, classes, corners, band_bytes):
    monkeypatch.setattr(pixel, "BAND_BYTES", band_bytes)
    scores, teacher, labels = case(classes, low=(2, 3), size=(5, 6))
    found = value_of(kind(1.5, 4.0, align_corners=corners), scores, teacher, labels)
    (2 * found).backward()
    given, mask = teacher.double().numpy(), labels.numpy()

    def exact(values):
        return 1.5 * plain(kind, values, given, mask, 4.0, corners)

    values = scores.detach().double().numpy()
    assert found.dtype == torch.float32 and exact(values) > 0.01
    assert found.item() == pytest.approx(exact(values), rel=1e-5)
    np.testing.assert_allclose(scores.grad.numpy(), 2 * numeric_gradient(exact, values), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [1, 4])
def test_a_teacher_equal_to_the_model_costs_nothing(kind, classes):
    scores, _, labels = case(classes, size=(33, 41), low=(9, 11))
    found = value_of(kind(3.0, 4.0), scores, scores.detach().clone(), labels)
    found.backward()
    assert found == 0 and not scores.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_have_no_effect(kind):
    """Full-size scores, so that each belongs to one pixel."""
    scores, teacher, labels = case(size=(6, 8), low=(6, 8), other=(6, 8))
    ignored = (labels == 255)[:, None].expand_as(scores)
    assert ignored.any()
    before = value_of(kind(1.0, 2.0), scores, teacher, labels)
    before.backward()
    assert not scores.grad[ignored].any() and scores.grad[~ignored].all()
    wild, wilder = (torch.where(ignored, 1e4, one.detach()) for one in (scores, teacher))
    assert value_of(kind(1.0, 2.0), wild, teacher, labels) == before
    assert value_of(kind(1.0, 2.0), scores, wilder, labels) == before


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_without_labels_cost_nothing(kind):
    scores, teacher, labels = case()
    labels[1] = 255
    both = value_of(kind(1.0, 4.0), scores, teacher, labels)
    torch.testing.assert_close(both, value_of(kind(1.0, 4.0), scores[:1], teacher[:1], labels[:1]))
    nothing = value_of(kind(1.0, 4.0), scores, teacher, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing == 0 and not scores.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_processes_is_that_of_one_process(kind):
    """Three pictures in one process, and one in another."""
    scores, teacher, labels = case(count=4)
    labels[0, :4] = 255
    parts = [slice(0, 3), slice(3, 4)]
    valid = [labels[part] != 255 for part in parts]
    counts = [one.sum() if kind is SoftLabels else 3 * one.flatten(1).any(1).sum() for one in valid]
    told = []

    def mean_of(count):
        told.append(count)
        return torch.stack(counts).float().mean()

    term = kind(1.0, 4.0, mean_of=mean_of)
    each = [value_of(term, scores[part], teacher[part], labels[part]) for part in parts]
    gradient = torch.autograd.grad(sum(each) / 2, scores)[0]
    whole = value_of(kind(1.0, 4.0), scores, teacher, labels)
    assert told == counts
    torch.testing.assert_close(sum(each) / 2, whole)
    torch.testing.assert_close(gradient, torch.autograd.grad(whole, scores)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", ["model", "teacher"])
def test_one_logit_is_compared_with_the_difference_of_two(kind, who):
    one, two, labels = case(1, 2)
    difference = two[:, 1:] - two[:, :1]
    if who == "model":
        given, same = (one, two), (one, difference)
    else:
        given, same = (two, one.detach()), (difference, one.detach())
    assert value_of(kind(1.0, 4.0), *given, labels) == value_of(kind(1.0, 4.0), *same, labels)
    if kind is SoftLabels:  # the probabilities are the same
        zeros = torch.zeros_like(one)
        both = torch.cat([zeros, one], 1)
        pair = (both, two) if who == "model" else (two, both.detach())
        torch.testing.assert_close(value_of(kind(1.0, 4.0), *given, labels), value_of(kind(1.0, 4.0), *pair, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_bfloat16_are_computed_in_float32(kind):
    scores, teacher, labels = case()
    rounded = scores.detach().bfloat16().requires_grad_()
    found = value_of(kind(1.0, 4.0), rounded, teacher.bfloat16(), labels)
    found.backward()
    exact = rounded.detach().float().requires_grad_()
    expected = value_of(kind(1.0, 4.0), exact, teacher.bfloat16().float(), labels)
    expected.backward()
    assert found.dtype == torch.float32 and found == expected
    assert torch.equal(rounded.grad, exact.grad.bfloat16())
