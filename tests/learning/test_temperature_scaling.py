import numpy as np
import pytest

from atrous.errors import AtrousError
from atrous.learning.temperature_scaling import COOLEST, HOTTEST, fit_temperature, reliability


def drawn(count: int, classes: int = 4, spread: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with just the probabilities that they mean."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) < rng.random((count, 1))).sum(1)
    return logits, labels


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_that_spoilt_the_logits_is_found_again(factor):
    logits, labels = drawn(60_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_labels_drawn_from_the_probabilities_are_calibrated_and_sharper_logits_are_not():
    logits, labels = drawn(60_000)
    assert reliability(logits, labels).ece < 0.01
    assert reliability(3 * logits, labels).ece > 0.1
    assert reliability(3 * logits, labels, temperature=3.0).ece == pytest.approx(reliability(logits, labels).ece)


def test_the_fitted_temperature_has_the_smallest_nll_of_a_dense_search():
    logits, labels = drawn(5_000, spread=1.0, seed=1)
    fitted = reliability(2.3 * logits, labels, fit_temperature(2.3 * logits, labels)).nll
    searched = min(reliability(2.3 * logits, labels, temperature).nll for temperature in np.geomspace(0.5, 8, 300))
    assert fitted <= searched + 1e-12


def test_the_error_is_that_of_a_slow_loop():
    logits, labels = drawn(700, seed=2)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total = 0.0
    for number in range(15):
        inside = [i for i in range(700) if number / 15 <= probabilities[i].max() < (number + 1) / 15]
        if inside:
            right = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            total += abs(right - np.mean([probabilities[i].max() for i in inside])) * len(inside) / 700
    measured = reliability(logits, labels)
    assert measured.ece == pytest.approx(total)
    assert measured.pixels.sum() == 700
    assert measured.nll == pytest.approx(-np.log(probabilities[np.arange(700), labels]).mean())


def test_pixels_that_are_all_right_or_all_wrong_end_at_the_bounds():
    logits = np.tile([5.0, 0.0], (50, 1))
    assert fit_temperature(logits, np.zeros(50, int)) == pytest.approx(COOLEST)
    assert fit_temperature(logits, np.ones(50, int)) == pytest.approx(HOTTEST)


def test_no_pixels_is_an_error():
    with pytest.raises(AtrousError, match="no labelled pixels"):
        reliability(np.zeros((0, 3)), np.zeros(0, int))
