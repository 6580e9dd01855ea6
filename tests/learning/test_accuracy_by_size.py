import numpy as np
import pytest

from atrous.learning.accuracy_by_size import LIMITS, SizeScore


def test_segments_are_counted_by_their_size():
    truth = np.zeros((300, 300), np.uint8)
    truth[:10, :10] = 1  # small
    truth[10:20, 10:20] = 1  # touches the first at a corner: one segment of 200 pixels
    truth[100:150, 100:150] = 1  # medium
    truth[250:, 250:] = 255
    prediction = np.zeros_like(truth)
    prediction[:10, :10] = 1
    prediction[100:150, 100:125] = 1
    score = SizeScore(3)
    score.update(truth, prediction)
    assert score.counts[1].tolist() == [[1, 200, 100], [1, 2500, 1250], [0, 0, 0]]
    pixels = 300 * 300 - 2500 - 200 - 2500
    assert score.counts[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, pixels, pixels]]
    assert not score.counts[2].any()
    np.testing.assert_array_equal(score.accuracy()[1], [0.5, 0.5, np.nan])
    np.testing.assert_array_equal(score.mean, [0.5, 0.5, 1.0])


@pytest.mark.parametrize(("pixels", "size"), [(LIMITS[0] - 1, 0), (LIMITS[0], 1), (LIMITS[1] - 1, 1), (LIMITS[1], 2)])
def test_the_limits_are_cocos(pixels, size):
    truth = np.full((1, pixels + 3), 255, np.uint8)
    truth[0, 1 : pixels + 1] = 0
    score = SizeScore(2)
    score.update(truth, np.zeros_like(truth))
    assert score.counts[0, :, 0].tolist() == [int(number == size) for number in range(3)]


def test_pictures_add_up_to_all_pixels():
    rng = np.random.default_rng(0)
    score, right = SizeScore(5), 0
    for _ in range(4):
        truth, prediction = rng.integers(0, 5, (2, 60, 70)).astype(np.uint8)
        truth[:7] = 255
        score.update(truth, prediction)
        right += ((truth == prediction) & (truth != 255)).sum()
    assert score.counts[..., 1].sum() == 4 * 53 * 70 and score.counts[..., 2].sum() == right
