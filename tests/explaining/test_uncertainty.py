import numpy as np
import pytest

from atrous.explaining.uncertainty import entropy, margin


def test_one_class_is_certain_all_alike_are_not():
    probabilities = np.float32([[[1.0, 0.25, 0.5]], [[0.0, 0.25, 0.5]], [[0.0, 0.25, 0.0]], [[0.0, 0.25, 0.0]]])
    np.testing.assert_allclose(entropy(probabilities), [[0.0, 1.0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(margin(probabilities), [[1.0, 0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 19])
def test_margin_is_best_less_second(classes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), (5, 7)).transpose(2, 0, 1).astype(np.float32)
    ordered = np.sort(probabilities, axis=0)
    np.testing.assert_array_equal(margin(probabilities), ordered[-1] - ordered[-2])
    assert ((entropy(probabilities) > 0) & (entropy(probabilities) < 1)).all()
