import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from atrous.errors import AtrousError
from atrous.models.backbones import Backbone
from atrous.models.layers import (
    Normalize,
    PooledBatchNorm2d,
    check_pictures,
    conv3x3,
    initialise,
    live_taps,
    resize,
    resize_rows,
    set_rate,
)

side = st.integers(1, 40)


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(deadline=None, max_examples=150)
@given(st.tuples(side, side), st.tuples(side, side), st.booleans(), st.data())
def test_a_band_of_rows_equals_the_rows_of_the_whole(given_size, size, align_corners, data):
    start = data.draw(st.integers(0, size[0] - 1))
    stop = data.draw(st.integers(start + 1, size[0]))
    features = seeded(2, 3, *given_size)
    whole = resize(features, size, align_corners)
    band = resize_rows(features, size, range(start, stop), align_corners)
    assert band.shape == (2, 3, stop - start, size[1])
    torch.testing.assert_close(band, whole[..., start:stop, :], atol=2e-5, rtol=1e-5)


def test_bands_pass_the_gradient_of_the_whole():
    features = seeded(1, 2, 5, 7).requires_grad_()
    weights = seeded(1, 2, 18, 23)
    whole = torch.autograd.grad((resize(features, (18, 23)) * weights).sum(), features)[0]
    bands = torch.zeros(())
    for start, stop in ((0, 4), (4, 5), (5, 18)):
        bands = bands + (resize_rows(features, (18, 23), range(start, stop)) * weights[..., start:stop, :]).sum()
    torch.testing.assert_close(torch.autograd.grad(bands, features)[0], whole)


def test_resize_to_the_same_size_is_the_same_tensor():
    features = seeded(1, 1, 3, 4)
    assert resize(features, (3, 4)) is features
    assert resize(features, [6, 5]).shape == (1, 1, 6, 5)


def test_normalize_is_mean_and_std_in_raw_units_for_any_dtype():
    normalize = Normalize([10.0, 20.0], [2.0, 5.0])
    raw = torch.tensor([[[[10, 14]], [[15, 25]]]])
    expected = torch.tensor([[[[0.0, 2.0]], [[-1.0, 1.0]]]])
    for dtype in (torch.uint8, torch.int32, torch.float64, torch.bfloat16):
        result = normalize(raw.to(dtype))
        assert result.dtype == torch.float32
        assert torch.equal(result, expected)
    assert not normalize.state_dict()  # the model file's record holds it, not the weights


@pytest.mark.parametrize(
    ("enlarge", "size"), [(1.0, (9, 7)), (2.0, (33, 33)), (6.0, (65, 33)), (8.0, (65, 65)), (0.1, (33, 33))]
)
def test_normalize_enlarges_first(enlarge, size):
    raw = torch.randint(0, 256, (1, 1, 9, 7), generator=torch.Generator().manual_seed(0)).byte()
    result = Normalize([100.0], [50.0], enlarge)(raw)
    assert result.shape[-2:] == size
    expected = nn.functional.interpolate(raw.float(), size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(result, (expected - 100) / 50)


@pytest.mark.parametrize(("size", "seen"), [((64, 65), (65, 65)), ((360, 480), (353, 481)), ((9, 1), (33, 33))])
def test_aligned_pictures_have_odd_sides_down_to_stride_32_though_nothing_is_enlarged(size, seen):
    result = Normalize([0.0], [1.0], aligned=True)(torch.ones(1, 1, *size))
    assert result.shape[-2:] == seen
    torch.testing.assert_close(result, torch.ones(1, 1, *seen))


def test_the_padding_of_tensorflow_moves_what_a_network_sees_unless_pictures_are_aligned():
    torch.manual_seed(0)
    backbone = Backbone("tf_efficientnet_lite0", output_stride=16).eval()
    ripples = torch.sin(torch.arange(97.0) / 5)
    larger = (ripples[:, None] * ripples + torch.tensor([0.0, 0.3, -0.3])[:, None, None])[None]

    def moved(aligned: bool) -> float:
        normalize = Normalize([0.0] * 3, [1.0] * 3, aligned=aligned)
        one, other = (backbone(normalize(picture)).low for picture in (larger[..., :96, :96], larger))
        return ((one - other[..., : one.shape[-2], : one.shape[-1]])[..., 6:-6, 6:-6].norm() / one.norm()).item()

    assert moved(aligned=True) < 0.25 * moved(aligned=False)


def test_one_pooled_picture_is_normalised_by_the_running_statistics_and_leaves_them():
    norm = PooledBatchNorm2d(3).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.running_var.copy_(torch.tensor([4.0, 9.0, 16.0]))
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    one = seeded(1, 3, 1, 1).requires_grad_()
    result = norm(one)
    result.sum().backward()
    assert one.grad is not None
    assert one.grad.abs().min() > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())
    torch.testing.assert_close(result, norm.eval()(one))


def test_two_pooled_pictures_are_normalised_as_by_any_batch_norm():
    ours, torchs = PooledBatchNorm2d(3).train(), nn.BatchNorm2d(3).train()
    two = seeded(2, 3, 1, 1)
    torch.testing.assert_close(ours(two), torchs(two))
    assert torch.equal(ours.running_mean, torchs.running_mean)
    assert not torch.equal(ours.running_mean, torch.zeros(3))


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("rate", [1, 2, 6])
def test_units_keep_the_size_and_reach_as_far_as_their_rate(separable, rate):
    unit = conv3x3(4, 5, separable=separable).eval()
    set_rate(unit, rate)
    for module in unit.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    picture = torch.zeros(1, 4, 31, 33)
    picture[..., 15, 16] = 1
    result = unit(picture)
    assert result.shape == (1, 5, 31, 33)
    rows, columns = (result[0, 0] > 0).nonzero(as_tuple=True)
    assert sorted(set(rows.tolist())) == [15 - rate, 15, 15 + rate]
    assert sorted(set(columns.tolist())) == [16 - rate, 16, 16 + rate]


def test_depthwise_norm_is_what_smp_leaves_out():
    count = {
        norm: sum(isinstance(m, nn.BatchNorm2d) for m in conv3x3(4, 4, separable=True, depthwise_norm=norm))
        for norm in (True, False)
    }
    assert count == {True: 2, False: 1}


def test_initialise_gives_the_classifier_small_weights_and_no_bias():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False), nn.Conv2d(64, 64, 1))
    initialise(head)
    assert head[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert head[1].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head[1].bias.any()


@pytest.mark.parametrize(
    ("count", "height", "width", "training", "fine"),
    [
        (1, 32, 64, True, False),
        (1, 64, 32, True, False),
        (1, 33, 33, True, True),
        (2, 32, 32, True, True),
        (1, 1, 1, False, True),
    ],
)
def test_one_small_picture_cannot_be_trained_on(count, height, width, training, fine):
    model, images = nn.BatchNorm2d(3).train(training), torch.zeros(count, 3, height, width)
    if fine:
        check_pictures(model, images)
    else:
        with pytest.raises(AtrousError, match=f"one picture of {height}×{width} px .*33×33 px, two pictures"):
            check_pictures(model, images)


@pytest.mark.parametrize(
    ("size", "rate", "padding", "expected"),
    [
        (32, 36, 36, (1, 2)),  # smp's third rate over 512 pixels at stride 16: one tap of three
        (32, 24, 24, (0, 3)),
        (32, 32, 32, (1, 2)),
        (32, 31, 31, (0, 3)),
        (32, 36, 72, (0, 3)),  # padded further, the outer taps meet the map where the middle one does not
    ],
)
def test_taps_that_meet_the_map(size, rate, padding, expected):
    assert live_taps(size, 3, 1, padding, rate) == expected


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 12),
    taps=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 12),
    rate=st.integers(1, 8),
)
def test_taps_that_meet_no_map_change_nothing(size, taps, stride, padding, rate):
    assume(size + 2 * padding > rate * (taps - 1))
    row, kernel = torch.randn(1, 1, size, dtype=torch.float64), torch.randn(1, 1, taps, dtype=torch.float64)
    first, end = live_taps(size, taps, stride, padding, rate)
    expected = F.conv1d(row, kernel, None, stride, padding, rate)
    found = F.conv1d(row, kernel[..., first:end], None, stride, padding - first * rate, rate)
    torch.testing.assert_close(found, expected)
