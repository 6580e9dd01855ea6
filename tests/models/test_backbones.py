import pytest
import torch
from timm.layers import Conv2dSame

from atrous.errors import AtrousError
from atrous.models.backbones import Backbone, SameConv2d

SIZES = [(64, 64), (65, 65), (63, 97), (96, 66), (33, 50)]
NAMES = ["resnet18", "mobilenetv2_050", "tf_efficientnet_lite0", "tf_mobilenetv3_small_minimal_100"]


@pytest.fixture(scope="module", params=NAMES)
def backbone(request) -> Backbone:
    torch.manual_seed(0)
    net = Backbone(request.param, output_stride=32)
    for module in net.modules():  # statistics as training leaves them, so that norms do something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return net.eval()


def picture(*size: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(size[0] * 1000 + size[1]))


@torch.no_grad()
def features(backbone: Backbone, output_stride: int, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    backbone.set_output_stride(output_stride)
    return backbone(images)


@pytest.mark.parametrize("size", SIZES)
def test_dense_features_subsampled_are_those_of_stride_32(backbone, size):
    """Atrous consistency (arXiv:1606.00915 §3.1): removing a stride adds features between, and changes none."""
    images = picture(*size)
    low, coarse = features(backbone, 32, images)
    scale = coarse.abs().max()
    assert scale > 1e-3  # not vacuous
    for output_stride in (16, 8):
        step = 32 // output_stride
        low_here, dense = features(backbone, output_stride, images)
        assert dense.shape[-2:] == tuple(-(-side // output_stride) for side in size)
        assert (dense[..., ::step, ::step] - coarse).abs().max() <= 2e-5 * scale
        assert torch.equal(low_here, low)


def test_strides_go_back_and_forth_without_a_trace(backbone):
    images = picture(65, 66)
    before = {stride: features(backbone, stride, images) for stride in (32, 16, 8)}
    for stride in (8, 32, 16, 8, 16, 32, 8):
        assert all(map(torch.equal, features(backbone, stride, images), before[stride]))


def test_low_features_are_at_stride_4(backbone):
    low, high = features(backbone, 16, picture(61, 90))
    assert low.shape == (1, backbone.low_channels, 16, 23)
    assert high.shape == (1, backbone.high_channels, 4, 6)


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (7, 2)])
@pytest.mark.parametrize(
    ("kernel", "stride", "rate"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), (3, 1, 2), (1, 2, 1), (7, 4, 1)]
)
def test_same_padding_is_timms_where_the_stride_stays(size, kernel, stride, rate):
    torch.manual_seed(0)
    theirs = Conv2dSame(4, 6, kernel, stride=stride, dilation=rate, bias=True)
    ours = SameConv2d.of(theirs)
    assert ours.weight is theirs.weight
    images = picture(*size, channels=4)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("side", range(1, 14))
def test_same_padding_without_its_stride_gives_the_strided_features_and_those_between(kernel, side):
    torch.manual_seed(0)
    conv = SameConv2d.of(Conv2dSame(2, 3, kernel, stride=2))
    images = picture(side, side + 1, channels=2)
    strided = conv(images)
    conv.stride = (1, 1)
    dense = conv(images)
    assert dense.shape[-2:] == images.shape[-2:]
    torch.testing.assert_close(dense[..., ::2, ::2], strided)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("channels", [1, 4, 12])
def test_any_number_of_channels(name, channels):
    backbone = Backbone(name, in_channels=channels).eval()
    _, high = backbone(picture(33, 40, channels=channels))
    assert high.shape == (1, backbone.high_channels, 3, 3)


@pytest.mark.parametrize("channels", [0, -1])
def test_no_channels_is_refused(channels):
    with pytest.raises(AtrousError, match="in_channels must be 1 or more"):
        Backbone("resnet18", in_channels=channels)


@pytest.mark.parametrize("stride", [0, 1, 4, 24, 64])
def test_other_output_strides_are_refused(stride):
    with pytest.raises(AtrousError, match=f"output_stride must be 8, 16 or 32, got {stride}"):
        Backbone("resnet18", output_stride=stride)


@pytest.mark.parametrize(("given", "nearest"), [("resnet81", "resnet"), ("mobilenetv2100", "mobilenetv2_100")])
def test_unknown_backbone_gives_the_nearest(given, nearest):
    with pytest.raises(AtrousError, match=f"unknown backbone '{given}'. Did you mean '{nearest}"):
        Backbone(given)


@pytest.mark.parametrize("name", ["vgg16", "densenet121", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_backbones_that_cannot_be_atrous_are_refused(name):
    with pytest.raises(AtrousError, match=f"backbone '{name}'"):
        Backbone(name)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_a_backbone_that_needs_larger_pictures_says_how_large(output_stride):
    backbone = Backbone("convnext_atto", output_stride=output_stride).eval()
    with pytest.raises(AtrousError, match=r"takes pictures of at least (\d+)×\1 px, got 1×40") as caught:
        backbone(picture(1, 40))
    minimum = int(str(caught.value).partition("at least ")[2].partition("×")[0])
    _, high = backbone(picture(minimum, minimum))
    assert high.shape[-2:] == (1, 1)
    with pytest.raises(AtrousError, match="Enlarge them"):
        backbone(picture(minimum - 1, minimum))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_even_kernels_that_lose_their_stride_keep_size_and_place():
    torch.manual_seed(0)
    backbone, images = Backbone("convnext_atto", output_stride=32).eval(), picture(64, 96)
    _, coarse = features(backbone, 32, images)
    _, dense = features(backbone, 16, images)
    assert dense.shape[-2:] == (4, 6)
    torch.testing.assert_close(dense[..., ::2, ::2], coarse, atol=1e-4, rtol=1e-4)
