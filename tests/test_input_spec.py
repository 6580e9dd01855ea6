"""What a model's record says of its inputs, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from atrous.errors import AtrousError
from atrous.input_spec import Input, joint_dtype, usual_colors
from atrous.models.info import Preprocessing
from atrous.models.layers import Normalize

IMAGE = Input((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), colors=3)
DEPTH = Input((7.0,), (8.0,), name="depth", dtype="uint16", unit="mm", missing=(0.0,))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": ()}, "one value per channel"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"name": "a b"}, "name of an input"),
        ({"name": 3}, "name of an input"),
        ({"dtype": "int8"}, "dtype must be one of uint8, uint16, float32, got 'int8'"),
        ({"pages": "all"}, "pages must be one of"),
        ({"bands": ("red",)}, "bands must have one value per channel, 3, got 1"),
        ({"bands": (1, 2, 3)}, "bands must be a list of names"),
        ({"wavelengths": (490.0,)}, "wavelengths must have one value per channel"),
        ({"wavelengths": ("490",) * 3}, "a tuple of numbers"),
        ({"missing": 0}, "missing must be a tuple of numbers"),
        ({"colors": 2}, "colors must be 0, 1 or 3"),
        ({"unit": 1}, "unit must be a text"),
        ({"normalize": "window"}, "window must be given with normalize='window', and only then"),
        ({"window": (0.0, 1.0)}, "window must be given with normalize='window'"),
        ({"normalize": "window", "window": (1.0, 1.0)}, "the lower first"),
        ({"normalize": "window", "window": (0.0, float("inf"))}, "two finite numbers"),
        ({"normalize": "window", "window": (None, None, None)}, "two finite numbers"),
        ({"normalize": "window", "window": ((0.0, 1.0), (0.0, 1.0))}, "one entry per contrast, 3, got 2"),
        ({"normalize": "window", "window": ((0.0, 1.0), None, (0.0, 1.0))}, "only for volumes"),
        ({"normalize": "window", "window": ((0.0, 1.0), None, (1.0, 0.0)), "planes": ("axial",)}, "the lower first"),
        ({"normalize": "window", "window": ((0.0, 1.0), None, (0.0, 1.0)), "planes": ("axial",)}, "a contrast without"),
        ({"normalize": "per_image"}, "needs dtype='float32', mean 0 and std 1"),
    ],
)
def test_what_no_input_can_be(changed, message):
    with pytest.raises(AtrousError, match=message):
        replace(IMAGE, **changed)


def test_windows_per_contrast_repeat_for_each_slice_and_are_stored_in_the_record():
    one = Input(
        (5.0, 0.0) * 3,
        (2.0, 1.0) * 3,
        dtype="float32",
        normalize="window",
        window=((-10, 10), None),
        slices=3,
        planes=("axial",),
    )
    assert one.windows == ((-10.0, 10.0), None) * 3 and one.standardised == (False, True) * 3
    assert Preprocessing((one,)).windows == ((-10.0, 10.0), (-float("inf"), float("inf"))) * 3
    values = torch.full((1, 6, 2, 2), 20.0)
    assert Normalize.of(Preprocessing((one,)))(values)[0, :, 0, 0].tolist() == [2.5, 20.0] * 3


def test_more_colors_than_channels_are_refused():
    with pytest.raises(AtrousError, match="at most the number of channels"):
        Input((0.0,), (1.0,), colors=3)


def test_inputs_are_joined_in_one_order_and_one_type():
    both = Preprocessing((IMAGE, DEPTH))
    assert (both.mean, both.std, both.channels) == ((1.0, 2.0, 3.0, 7.0), (4.0, 5.0, 6.0, 8.0), 4)
    assert both.dtype == "float32" and joint_dtype((DEPTH,)) == "uint16"
    assert both.image == IMAGE and both.windows is None


@pytest.mark.parametrize("inputs", [(DEPTH,), (IMAGE, IMAGE), (), [IMAGE], ((1.0,), (2.0,))])
def test_the_first_input_is_the_picture_and_no_two_have_one_name(inputs):
    with pytest.raises(AtrousError, match=r"first input must be 'image'|must be a tuple of Input"):
        Preprocessing(inputs)


def test_other_means_keep_to_their_inputs():
    both = Preprocessing((IMAGE, DEPTH)).normalized_by((1, 1, 1, 9), (2, 2, 2, 3))
    assert both.inputs == (replace(IMAGE, mean=(1, 1, 1), std=(2, 2, 2)), replace(DEPTH, mean=(9,), std=(3,)))
    with pytest.raises(AtrousError, match="per channel, 4, got 3 and 3"):
        both.normalized_by((1, 1, 1), (1, 1, 1))


def test_values_are_clipped_to_their_window_before_they_are_normalised():
    clipped = replace(DEPTH, normalize="window", window=(10.0, 20.0))
    raw = torch.tensor([5.0, 15.0, 25.0]).view(1, 1, 1, 3)
    scene = torch.cat([raw.expand(1, 3, 1, 3), raw], dim=1)
    given = Normalize.of(Preprocessing((IMAGE, clipped)))(scene)
    assert given[0, 3, 0].tolist() == [(10 - 7) / 8, 1.0, (20 - 7) / 8]
    assert torch.equal(given[:, :3], Normalize.of(Preprocessing((IMAGE,)))(scene[:, :3]))


@pytest.mark.parametrize(
    ("channels", "dtype", "colors"),
    [(1, "uint8", 1), (3, "uint16", 3), (4, "uint8", 3), (12, "uint16", 0), (2, "float32", 0), (1, "float32", 0)],
)
def test_which_channels_are_taken_for_colours(channels, dtype, colors):
    assert usual_colors(channels, dtype) == colors
