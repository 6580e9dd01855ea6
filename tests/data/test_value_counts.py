"""Counts of mask values: those of numpy, in a small part of its memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.data import value_counts as module
from atrous.data.value_counts import value_counts


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(1, 20))
def test_counts_are_those_of_numpy(shape, at_once):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        for view in (values, values.T, values[::-1]):
            assert np.array_equal(value_counts(view), np.bincount(values.ravel(), minlength=256))


def test_memory_is_that_of_a_part():
    mask = np.zeros((512, 512, 128), np.uint8)
    tracemalloc.start()
    counts = value_counts(mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts[0] == mask.size
    assert peak < 1.5 * 8 * module._AT_ONCE  # numpy would need 8 bytes per voxel: 268 MB
