import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from atrous.data.transforms import Augment, augment, color_channels, crop_at, recolour, resample, window
from atrous.errors import AtrousError
from atrous.input_spec import Input

STILL = Augment(scale=(1.0, 1.0), flip=0.0)
EVERYTHING = Augment(
    crop=(40, 50),
    vertical_flip=0.5,
    rotation=30,
    translation=0.2,
    focus=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    blur=0.5,
)


def picture(height=60, width=80, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((height, width, channels)), (0, 0), 1.5).reshape(height, width, channels)
    label = rng.integers(0, 5, (height, width), dtype=np.uint8)
    top = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    return (noise * top).astype(dtype), label


def run(image, label, config, seed=0, epoch=0, index=0, fill=0.0):
    return augment(image, label, config, seed=seed, epoch=epoch, index=index, fill=fill)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class TestPurity:
    def test_the_same_numbers_give_the_same_sample(self):
        image, label = picture()
        before = image.copy(), label.copy()
        first = run(image, label, EVERYTHING, 1, 2, 3)
        np.random.seed(5)  # noqa: NPY002
        run(image, label, EVERYTHING, 1, 2, 4)
        assert same(first, run(image, label, EVERYTHING, 1, 2, 3))
        assert same(before, (image, label))

    def test_global_random_state_is_left_alone(self):
        np.random.seed(5)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        run(*picture(), EVERYTHING)
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    @pytest.mark.parametrize("other", [(2, 2, 3), (1, 3, 3), (1, 2, 4)])
    def test_other_numbers_give_another_sample(self, other):
        image, label = picture()
        assert not same(run(image, label, EVERYTHING, 1, 2, 3), run(image, label, EVERYTHING, *other))


class TestShapes:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
    def test_dtype_and_channels_stay(self, dtype, channels):
        image, label = picture(channels=channels, dtype=dtype)
        config = EVERYTHING if channels == 3 else dataclasses.replace(EVERYTHING, saturation=0.0, hue=0.0)
        for index in range(6):
            result, shown = run(image, label, config, index=index)
            assert (result.shape, result.dtype) == ((40, 50, channels), dtype)
            assert (shown.shape, shown.dtype) == ((40, 50), np.uint8)

    @given(
        size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
        crop=st.none() | st.tuples(st.integers(1, 70), st.integers(1, 70)),
        index=st.integers(0, 1000),
    )
    @settings(max_examples=60, deadline=None)
    def test_any_size_gives_the_crop(self, size, crop, index):
        image, label = picture(*size)
        config = dataclasses.replace(EVERYTHING, crop=crop, scale=(0.1, 3.0))
        result, shown = run(image, label, config, index=index)
        assert result.shape[:2] == shown.shape == (crop or size)

    def test_nothing_varied_returns_the_input(self):
        image, label = picture()
        assert same((image, label), run(image, label, STILL))

    def test_channels_beyond_four_are_treated_like_the_first(self):
        image, label = picture(channels=1)
        config = dataclasses.replace(EVERYTHING, saturation=0.0, hue=0.0)
        result, _ = run(image.repeat(6, axis=2), label, config, fill=7)
        alone, _ = run(image, label, config, fill=7)
        assert np.abs(result.astype(int) - alone.repeat(6, axis=2)).max() <= 1


class TestPlaces:
    def test_flips_are_exact(self):
        image, label = picture()
        mirrored = run(image, label, dataclasses.replace(STILL, flip=1.0))
        assert same(mirrored, (image[:, ::-1], label[:, ::-1]))
        upside_down = run(image, label, dataclasses.replace(STILL, vertical_flip=1.0))
        assert same(upside_down, (image[::-1], label[::-1]))

    def test_a_small_picture_lies_whole_in_a_large_crop(self):
        image, label = picture(10, 20)
        corners = set()
        for index in range(300):
            config = dataclasses.replace(STILL, crop=(13, 24))
            result, shown = run(image, label, config, index=index, fill=(1, 2, 3))
            rows, columns = np.nonzero(shown != 255)
            y, x = rows.min(), columns.min()
            corners.add((y, x))
            assert same((result[y : y + 10, x : x + 20], shown[y : y + 10, x : x + 20]), (image, label))
            assert (result[shown == 255] == (1, 2, 3)).all()
            assert (shown == 255).sum() == 13 * 24 - 10 * 20
        assert len(corners) == 4 * 5

    def test_a_large_picture_is_cut_everywhere(self):
        label = np.arange(48, dtype=np.uint8).reshape(6, 8)
        config = dataclasses.replace(STILL, crop=(4, 5))
        cuts = [run(label[..., None], label, config, index=index) for index in range(300)]
        assert all(np.array_equal(image[..., 0], shown) for image, shown in cuts)
        assert {int(shown[0, 0]) for _, shown in cuts} == {8 * y + x for y in range(3) for x in range(4)}

    def test_fill_is_neither_blended_nor_recoloured(self):
        image, label = picture()
        for index in range(30):
            result, shown = run(image, label, EVERYTHING, index=index, fill=(10, 20, 30))
            assert (result[shown == 255] == (10, 20, 30)).all()

    def test_focus_finds_the_rare_class(self):
        label = np.zeros((100, 100), dtype=np.uint8)
        label[70, 20] = 3
        image = label[..., None]
        config = dataclasses.replace(STILL, crop=(9, 9))

        def share(focus):
            seen = (run(image, label, dataclasses.replace(config, focus=focus), index=i)[1] for i in range(400))
            return np.mean([(shown == 3).any() for shown in seen])

        assert share(0.0) < 0.05
        assert 0.42 < share(1.0) < 0.62  # two classes, chosen equally often

    def test_focus_on_a_picture_without_labels_is_a_plain_crop(self):
        image, label = picture()
        ignored = np.full_like(label, 255)
        config = dataclasses.replace(STILL, crop=(9, 9))
        focused = dataclasses.replace(config, focus=1.0)
        assert same(run(image, ignored, config), run(image, ignored, focused))

    def test_translation_pushes_the_picture_out(self):
        image, label = picture()
        config = dataclasses.replace(STILL, translation=0.5)
        hidden = [np.mean(run(image, label, config, index=index)[1] == 255) for index in range(50)]
        assert max(hidden) > 0.3
        assert min(hidden) < 0.2


def blob(height, width, centre, radius):
    """A soft disc as float32 picture H×W×1, and the disc as mask."""
    y, x = np.indices((height, width)) + 0.5
    distance = np.hypot(x - centre[0], y - centre[1]) - radius
    return (1 / (1 + np.exp(distance / 2)))[..., None].astype(np.float32), (distance < 0).astype(np.uint8)


def centroid(weights):
    columns, rows = weights.sum(axis=0, dtype=float), weights.sum(axis=1, dtype=float)
    x, y = np.arange(len(columns)) + 0.5, np.arange(len(rows)) + 0.5
    return np.array([x @ columns, y @ rows]) / columns.sum()


def image_of(label):
    return label[..., None].astype(np.float32)


def difference(image, label):
    """From where the image shows its bright object to where the mask has class 1, (x, y) in pixels."""
    return centroid(label == 1) - centroid(image[..., 0])


@st.composite
def configs(draw, crop):
    scale = draw(st.floats(0.5, 2.0))
    return Augment(
        crop=crop,
        scale=(scale, scale),
        flip=draw(st.sampled_from([0.0, 1.0])),
        vertical_flip=draw(st.sampled_from([0.0, 1.0])),
        rotation=draw(st.sampled_from([0.0, 20.0])),
        translation=draw(st.sampled_from([0.0, 0.05])),
    )


indices = st.integers(0, 10_000)
BLOB = (40.3, 35.8)  # centre in a picture of 70×80 px, radius 25 px


def visible_window(config, index):
    """The matrix of a drawn window that shows the whole blob."""
    matrix = window(np.zeros((70, 80), np.uint8), config.crop, config, np.random.default_rng(index))
    centre = np.linalg.solve(matrix, [*BLOB, 1])[:2]
    assume((centre > 70).all() and (centre < np.array(config.crop[::-1]) - 70).all())
    return matrix, centre


class TestGeometry:
    @given(config=configs((320, 320)), index=indices)
    @settings(max_examples=100, deadline=None)
    def test_the_image_goes_where_the_matrix_says(self, config, index):
        matrix, expected = visible_window(config, index)
        image, label = blob(70, 80, BLOB, 25)
        result, _ = resample(image, label, matrix, config.crop)
        assert np.abs(centroid(result[..., 0]) - expected).max() < 0.05

    @given(config=configs((320, 320)), index=indices)
    @settings(max_examples=25, deadline=None)
    def test_the_mask_follows_the_image(self, config, index):
        """Masks move by whole pixels, so centroids are compared on average over shifts within a pixel."""
        matrix, _ = visible_window(config, index)
        _, label = blob(70, 80, BLOB, 25)
        differences = []
        for step in range(32):
            shift = np.eye(3)
            shift[:2, 2] = step / 32, step * 0.618034 % 1
            differences.append(difference(*resample(image_of(label), label, matrix @ shift, config.crop)))
        assert np.abs(np.mean(differences, axis=0)).max() < 0.05

    @pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 2 / 3, 1.0, 1.5, 2.0])
    def test_scaled_masks_are_not_shifted(self, scale):
        """A half-pixel error, or ties that all go one way, would move every object the same way."""
        config = Augment(crop=(240, 240), scale=(scale, scale), flip=0.0)
        labels = [blob(120, 120, centre, 40)[1] for centre in np.random.default_rng(0).uniform(55, 65, (50, 2))]
        differences = [difference(*run(image_of(label), label, config)) for label in labels]
        assert np.abs(np.mean(differences, axis=0)).max() < 0.05

    @given(config=configs((50, 60)), index=indices)
    @settings(max_examples=60, deadline=None)
    def test_no_label_appears(self, config, index):
        image, label = picture()
        label[label == 3] = 200
        _, shown = run(image, label, config, index=index)
        assert set(np.unique(shown)) <= {0, 1, 2, 4, 200, 255}

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("rotation", [0, 20])
    def test_agrees_with_plain_bilinear_interpolation(self, dtype, rotation):
        image, label = picture(dtype=dtype, channels=5)
        config = Augment(crop=(70, 90), scale=(0.7, 2.0), vertical_flip=0.5, rotation=rotation)
        tolerance = {np.uint8: 0.51, np.uint16: 4.0, np.float32: 1e-4}[dtype]
        for index in range(12):
            matrix = window(label, (70, 90), config, np.random.default_rng(index))
            result, shown = resample(image, label, matrix, (70, 90), fill=3)
            expected, expected_label, sure = slow_resample(image, label, matrix, (70, 90), fill=3)
            assert np.abs(result.astype(float) - expected)[sure].max() < tolerance
            assert np.array_equal(shown[sure], expected_label[sure])

    def test_strong_shrinking_averages_pixels(self):
        """Lone bright pixels keep their light: sampling would lose most of them."""
        image = np.zeros((240, 240, 1), dtype=np.float32)
        image[::8, ::8] = 64
        config = Augment(crop=(60, 60), scale=(0.25, 0.25), flip=0.0)
        result, _ = run(image, np.zeros((240, 240), np.uint8), config)
        assert result.mean() == pytest.approx(image.mean(), rel=0.02)


def slow_resample(image, label, matrix, size, fill):
    """Bilinear and nearest in plain float64; the last result marks pixels away from ties."""
    y, x = np.indices(size) + 0.5
    u, v = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones(size)]))[:2]
    height, width = label.shape
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    column, row = np.floor(u).clip(0, width - 1).astype(int), np.floor(v).clip(0, height - 1).astype(int)
    left, top = np.floor(u - 0.5), np.floor(v - 0.5)
    result = np.zeros((*size, image.shape[2]))
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - (u - 0.5 - left)) * np.abs(1 - dy - (v - 0.5 - top))
            rows, columns = (top + dy).clip(0, height - 1), (left + dx).clip(0, width - 1)
            result += weight[..., None] * image[rows.astype(int), columns.astype(int)]
    result[~inside] = fill
    sure = (np.abs(u - np.rint(u)) > 1e-3) & (np.abs(v - np.rint(v)) > 1e-3)
    return result, np.where(inside, label[row, column], 255), sure


class TestColour:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("channels", [1, 3, 6])
    def test_brightness_multiplies(self, dtype, channels):
        image, _ = picture(channels=channels, dtype=dtype)
        image = image // 4 if dtype != np.float32 else image
        result = recolour(image, Augment(brightness=0.5), np.random.default_rng(2))
        factor = result.sum() / image.sum()
        assert 0.5 <= factor <= 1.5
        assert factor != pytest.approx(1, abs=0.01)
        assert np.allclose(result, image * factor, rtol=1e-4, atol=0.0 if dtype == np.float32 else 1.1)

    def test_contrast_keeps_the_mean(self):
        image, _ = picture(channels=6, dtype=np.float32)
        result = recolour(image, Augment(contrast=0.5), np.random.default_rng(1))
        assert result.mean() == pytest.approx(image.mean(), rel=1e-5)
        assert result.std() != pytest.approx(image.std(), rel=0.01)

    def test_saturation_and_hue_keep_luma_and_grey(self):
        image, _ = picture(dtype=np.float32)
        config = Augment(saturation=0.5, hue=0.5)
        result = recolour(image, config, np.random.default_rng(2))
        luma = np.array([0.299, 0.587, 0.114])
        assert np.allclose(result @ luma, image @ luma, atol=1e-5)
        assert not np.allclose(result, image, atol=0.01)
        grey = image[..., :1].repeat(3, axis=2)
        assert np.allclose(recolour(grey, config, np.random.default_rng(2)), grey, atol=1e-5)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_integers_stop_at_their_range_and_floats_do_not(self, dtype):
        image, _ = picture(dtype=dtype)
        top = np.iinfo(dtype).max
        exact = image.astype(np.float32)
        rounding = 1 if dtype == np.uint8 else 8  # OpenCV's coefficients for integers have 16 bits
        config = Augment(brightness=0.9, contrast=0.9, saturation=0.9)
        for seed in range(20):
            result = recolour(image, config, np.random.default_rng(seed))
            floats = recolour(exact, config, np.random.default_rng(seed))
            assert np.abs(result - np.clip(floats, 0, top)).max() <= rounding

    def test_blur_softens(self):
        image, _ = picture(channels=7, dtype=np.float32)
        result = recolour(image, Augment(blur=1.0, blur_sigma=(2.0, 2.0)), np.random.default_rng(0))
        assert result.shape == image.shape
        assert np.abs(np.diff(result, axis=1)).mean() < 0.8 * np.abs(np.diff(image, axis=1)).mean()


class TestMistakes:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("crop", (0, 5)),
            ("scale", (2.0, 0.5)),
            ("scale", (0.0, 1.0)),
            ("flip", 1.5),
            ("rotation", -1.0),
            ("translation", 2.0),
            ("hue", 0.6),
            ("contrast", -0.1),
            ("blur_sigma", (0.0, 1.0)),
        ],
    )
    def test_values_out_of_range_are_named(self, field, value):
        with pytest.raises(AtrousError, match=f"augment.{field}"):
            Augment(**{field: value})

    def test_picture_and_mask_must_fit(self):
        image, label = picture()
        with pytest.raises(AtrousError, match="mask"):
            run(image, label[:-1], STILL)
        with pytest.raises(AtrousError, match="int64"):
            run(image.astype(np.int64), label, STILL)
        with pytest.raises(AtrousError, match=r"augment\.hue to 0"):
            run(image[..., :1], label, Augment(hue=0.1))


def test_a_growing_crop_has_its_full_size_from_the_epoch_growth_on():
    config = Augment(crop=(100, 150), first_crop=(64, 96), growth=4)  # not whole steps apart
    sizes = [crop_at(config, epoch) for epoch in range(6)]
    assert sizes[0] == (64, 96)
    assert sizes[4:] == [(100, 150)] * 2
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"normalize": "per_image", "planes": ("axial",)}, [[0], [1], [2], [3], [4], [5]]),  # MRI: values have no unit
        ({"normalize": "per_image", "planes": ("axial",), "slices": 3}, [[0, 2, 4], [1, 3, 5]]),
        ({"normalize": "window", "window": (-160, 240), "planes": ("axial",)}, []),  # Hounsfield units
        ({"normalize": "per_image"}, []),
        ({"normalize": "window", "window": (*((-160, 240),) * 4, None, None), "planes": ("axial",)}, [[4], [5]]),
        ({"normalize": "window", "window": ((0, 1), None), "planes": ("axial",), "slices": 3}, [[1, 3, 5]]),
        ({"normalize": "window", "window": (None, (0, 1)), "planes": ("axial",), "slices": 3}, [[0, 2, 4]]),
        ({"colors": 3}, [[0, 1, 2]]),
    ],
)
def test_only_these_channels_vary_and_each_contrast_about_its_own_mean(more, expected):
    one = Input((0.0,) * 6, (1.0,) * 6, dtype="float32", **more)
    image = np.random.default_rng(0).normal(10 * np.arange(6), 1, (8, 9, 6)).astype(np.float32)
    colors = color_channels([one])
    varied, _ = augment(
        image,
        np.zeros((8, 9), np.uint8),
        dataclasses.replace(STILL, contrast=0.8),
        seed=0,
        epoch=0,
        index=0,
        colors=colors,
    )
    wanted = image.copy()
    factor = np.ptp(varied[..., expected[0][0]]) / np.ptp(image[..., expected[0][0]]) if expected else 1
    assert not expected or abs(factor - 1) > 0.05
    for group in expected:
        weights = [0.299, 0.587, 0.114] if "colors" in more else np.full(len(group), 1 / len(group))
        mean = image[..., group].mean(axis=(0, 1)) @ weights
        wanted[..., group] = mean + factor * (image[..., group] - mean)
    np.testing.assert_allclose(varied, wanted, atol=1e-3)


def test_three_slices_are_not_red_green_and_blue():
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="float32", normalize="per_image", planes=("axial",), slices=3)
    image, label = np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)
    with pytest.raises(AtrousError, match="saturation and hue need 3 colour channels, and this picture has none"):
        augment(image, label, Augment(hue=0.1), seed=0, epoch=0, index=0, colors=color_channels([one]))
