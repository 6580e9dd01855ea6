import pytest
import torch
from timm.layers import Conv2dSame

from atrous.errors import AtrousError
from atrous.models.backbones import RESERVED, Backbone, create_backbone
from atrous.models.layers import set_norm
from atrous.models.tensorflow_same_padding import SameConv2d
from atrous.models.vgg import VGG16

SIZES = [(64, 64), (65, 65), (63, 97), (96, 66), (33, 50)]
NAMES = ["resnet18", "mobilenetv2_050", "tf_efficientnet_lite0", "tf_mobilenetv3_small_minimal_100"]


@pytest.fixture(scope="module", params=NAMES)
def backbone(request) -> Backbone:
    torch.manual_seed(0)
    return like_trained(Backbone(request.param, output_stride=32))


def picture(*size: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(size[0] * 1000 + size[1]))


@torch.no_grad()
def features(backbone: Backbone | VGG16, output_stride: int, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    backbone.set_output_stride(output_stride)
    low, _, high = backbone(images)
    return low, high


def like_trained(net: torch.nn.Module) -> torch.nn.Module:
    """Norms as training leaves them. timm starts the last one of a residual block at zero, and with it the block."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return net.eval()


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
    _, _, high = backbone(picture(33, 40, channels=channels))
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


@pytest.mark.parametrize("name", ["vgg19", "densenet121", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
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
    *_, high = backbone(picture(minimum, minimum))
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


# The property: *previous* rule, no squeeze-excite, no average-pooled shortcut. Named exceptions below.
CONSISTENT = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnetx_002",
    "mobilenetv2_050",
    "mnasnet_100",
    "xception41",
]


@pytest.mark.parametrize("name", CONSISTENT)
@pytest.mark.parametrize("size", [(65, 97), (96, 66)])
def test_atrous_consistency_of_many_families(name, size):
    torch.manual_seed(0)
    backbone, images = like_trained(Backbone(name, output_stride=32)), picture(*size)
    low, coarse = features(backbone, 32, images)
    assert coarse.std() > 1e-3
    for output_stride in (16, 8):
        step = 32 // output_stride
        low_here, dense = features(backbone, output_stride, images)
        assert (dense[..., ::step, ::step] - coarse).abs().max() <= 5e-5 * coarse.abs().max()
        assert torch.equal(low_here, low)


@pytest.mark.parametrize("name", ["xception71", "resnest14d"])
def test_layers_that_timm_builds_only_where_there_is_a_stride_stay(name):
    torch.manual_seed(0)
    backbone, images = like_trained(Backbone(name, output_stride=32)), picture(97, 97)
    keys = backbone.state_dict().keys()
    before = features(backbone, 32, images)[1]
    for output_stride in (16, 8):
        assert features(backbone, output_stride, images)[1].shape[-1] == -(-97 // output_stride)
    assert backbone.state_dict().keys() == keys
    assert torch.equal(features(backbone, 32, images)[1], before)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mobilenetv3_small_100", "squeeze-excite: the mean over the denser map is another"),
        ("resnet50d", "average-pooled shortcuts: the pool disappears with its stride"),
        ("vgg16", "pool5 averages and maximises over neighbours that are nearer"),
    ],
)
def test_exceptions_to_atrous_consistency(name, why):
    """If one of these becomes consistent, its name leaves the documentation's list."""
    torch.manual_seed(0)
    common = {"in_channels": 3, "output_stride": 32, "dilation_rule": "previous", "multi_grid": None}
    backbone, images = like_trained(create_backbone(name, **common)), picture(97, 97)
    _, coarse = features(backbone, 32, images)
    _, dense = features(backbone, 16, images)
    assert dense[..., ::2, ::2].shape == coarse.shape
    assert (dense[..., ::2, ::2] - coarse).abs().max() > 1e-3 * coarse.abs().max(), why


def rates(backbone: Backbone, stage: str) -> list[int]:
    """Atrous rates of a stage's 3×3 convolutions, in order."""
    convs = backbone.net.get_submodule(stage).modules()
    return [conv.dilation[0] for conv in convs if isinstance(conv, torch.nn.Conv2d) and conv.kernel_size == (3, 3)]


@pytest.mark.parametrize(
    ("rule", "output_stride", "third", "fourth"),
    [
        ("previous", 16, [1] * 6, [1, 2, 2]),
        ("previous", 8, [1, 2, 2, 2, 2, 2], [2, 4, 4]),
        ("full", 16, [1] * 6, [2, 2, 2]),
        ("full", 8, [2] * 6, [4, 4, 4]),
        ("full", 32, [1] * 6, [1, 1, 1]),
    ],
)
def test_dilation_rules(rule, output_stride, third, fourth):
    backbone = Backbone("resnet50", output_stride=output_stride, dilation_rule=rule)
    assert rates(backbone, "layer3") == third
    assert rates(backbone, "layer4") == fourth
    for conv in backbone.net.modules():
        if isinstance(conv, torch.nn.Conv2d) and conv.kernel_size == (3, 3):
            assert conv.padding == conv.dilation


@pytest.mark.parametrize("name", ["mobilenetv2_050", "tf_efficientnet_lite0", "resnet18"])
def test_full_rule_keeps_sizes_and_previous_comes_back(name):
    torch.manual_seed(0)
    previous, full = Backbone(name, output_stride=8), Backbone(name, output_stride=8, dilation_rule="full")
    full.load_state_dict(like_trained(previous).state_dict())
    images = picture(61, 74)
    one, other = features(previous, 8, images)[1], features(full.eval(), 8, images)[1]
    assert one.shape == other.shape
    assert not torch.allclose(one, other)
    assert torch.equal(features(full, 32, images)[1], features(previous, 32, images)[1])


@pytest.mark.parametrize("rule", ["previous", "full"])
def test_multi_grid_multiplies_the_last_stages_rate(rule):
    """Rates 2·(1, 2, 4) at output stride 16 (arXiv:1706.05587 §3.2.1), doubled at 8."""
    backbone = Backbone("resnet50", output_stride=16, dilation_rule=rule, multi_grid=(1, 2, 4))
    for output_stride, expected in [(16, [2, 4, 8]), (8, [4, 8, 16]), (32, [1, 2, 4]), (16, [2, 4, 8])]:
        backbone.set_output_stride(output_stride)
        assert rates(backbone, "layer4") == expected
    halves = Backbone("resnet50", output_stride=16, dilation_rule=rule, multi_grid=(0.5, 1, 2))
    assert rates(halves, "layer4") == [1, 2, 4]  # mmsegmentation's mg124


def test_multi_grid_is_consistent_from_output_stride_16_to_8():
    torch.manual_seed(0)
    backbone, images = like_trained(Backbone("resnet50", multi_grid=(1, 2, 4))), picture(65, 97)
    coarse, dense = features(backbone, 16, images)[1], features(backbone, 8, images)[1]
    assert (dense[..., ::2, ::2] - coarse).abs().max() <= 5e-5 * coarse.abs().max()


@pytest.mark.parametrize("name", ["mobilenetv2_050", "vgg16", "res2net50_26w_4s", "skresnext50_32x4d"])
def test_multi_grid_over_another_than_a_resnet_is_refused(name):
    with pytest.raises(AtrousError, match="multi_grid is for ResNets"):
        create_backbone(name, in_channels=3, output_stride=16, dilation_rule="previous", multi_grid=(1, 2, 4))


def test_multi_grid_of_the_wrong_length_is_refused():
    with pytest.raises(AtrousError, match=r"one factor for each of the 2 blocks .* got \(1, 2, 4\)"):
        Backbone("resnet18", multi_grid=(1, 2, 4))


def test_caffes_geometry():
    backbone = Backbone("resnet50", output_stride=8, dilation_rule="full", stride_first=True, ceil_pool=True)
    block = backbone.net.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert backbone.eval()(picture(96, 96)).low.shape[-2:] == (25, 25)  # of 48 pixels, the pool rounds up
    assert Backbone("resnet50").eval()(picture(96, 96)).low.shape[-2:] == (24, 24)


def test_tensorflow_padding_moves_features_at_even_sizes_only():
    torch.manual_seed(0)
    ours, theirs = Backbone("tf_efficientnet_lite0"), Backbone("tf_efficientnet_lite0", padding="tensorflow")
    theirs.load_state_dict(ours.state_dict())
    for size, same in [((97, 65), True), ((96, 64), False)]:
        assert (
            torch.allclose(
                features(ours.eval(), 16, picture(*size))[1], features(theirs.eval(), 16, picture(*size))[1], atol=1e-4
            )
            is same
        )


def test_norm_of_the_backbone_is_set():
    backbone = Backbone("mobilenetv3_small_100", norm=(1e-3, 0.01))
    assert {(m.eps, m.momentum) for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {(1e-3, 0.01)}
    set_norm(backbone, (1e-4, 0.2))
    assert {(m.eps, m.momentum) for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {(1e-4, 0.2)}


@pytest.mark.parametrize(("name", "channels"), [("google_mobilenetv2_050", 160), ("google_mobilenetv2_100", 320)])
def test_googles_mobilenet_has_their_channels(name, channels):
    """Half width keeps 12 channels where rounding to 8 makes 16 (facts of Google's released models)."""
    backbone = Backbone(name)
    assert backbone.high_channels == channels
    assert backbone.low_channels == {160: 12, 320: 24}[channels]
    assert {m.eps for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("name", ["google_mobilenetv2_", "google_mobilenetv2_000", "google_mobilenetv2_big"])
def test_a_width_that_is_none_is_refused(name):
    with pytest.raises(AtrousError, match="the width in hundredths"):
        Backbone(name)


def test_unknown_arguments_and_rules_are_refused():
    common = {"in_channels": 3, "output_stride": 16, "multi_grid": None}
    with pytest.raises(AtrousError, match=r"unknown dilation rule 'half'\. .*full, previous"):
        create_backbone("resnet18", dilation_rule="half", **common)
    with pytest.raises(AtrousError, match="resnet18"):
        create_backbone("resnet18", {"no_such_thing": 1}, dilation_rule="full", **common)
    with pytest.raises(AtrousError, match="vgg16 takes no backbone_arguments, got ceil_pool"):
        create_backbone("vgg16", {"ceil_pool": True}, dilation_rule="full", **common)


@pytest.mark.parametrize("name", RESERVED)
def test_arguments_that_reach_the_network_or_the_disk_are_refused(name, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("timm was asked"))
    with pytest.raises(AtrousError, match=f"backbone_arguments cannot have '{name}'"):
        Backbone("resnet18", **{name: "somewhere"})


@pytest.mark.parametrize("value", [torch.nn.Identity, object(), [torch.ones(1)], {"a": print}])
def test_arguments_that_no_model_file_can_keep_are_refused(value):
    with pytest.raises(AtrousError, match=r"backbone_arguments\['act_layer'\] is of type"):
        Backbone("resnet18", act_layer=value)


@pytest.mark.parametrize("arguments", [{"no_such_thing": 1}, {"stem_type": 5, "block_args": {"x": 1}}])
def test_the_stride_is_not_blamed_for_another_argument(arguments):
    with pytest.raises(AtrousError, match=r"cannot be built from backbone_arguments .*: \w+Error: .*\w"):
        Backbone("resnet18", **arguments)
    with pytest.raises(AtrousError, match="cannot have output stride 16"):
        Backbone("vgg19", **arguments)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mobilenetv4_conv_blur_medium", "feature map has 5×5 pixels, not 9×9"),
        ("resnetblur18", "it fails"),
        ("botnet26t_256", "it fails"),
    ],
)
def test_backbones_that_would_not_give_the_stride_are_refused(name, found):
    with pytest.raises(AtrousError, match=f"'{name}' cannot have output stride 16: .* {found}"):
        Backbone(name, output_stride=16)


def test_setting_the_stride_leaves_modes_and_weights_alone():
    backbone = Backbone("resnet18").train()
    backbone.net.get_submodule("bn1").eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.set_output_stride(8)
    assert backbone.net.training and not backbone.net.get_submodule("bn1").training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_vggs_strides_and_rates():
    """pool4 and pool5 lose their stride and conv5 becomes atrous (arXiv:1412.7062 §3.1)."""
    net = VGG16(output_stride=8).eval()
    for output_stride, rate in [(8, 2), (16, 1), (32, 1)]:
        net.set_output_stride(output_stride)
        assert net.net["conv5_2"].dilation == (rate, rate)
        low, middle, high = net(picture(65, 98))
        assert low.shape == (1, 256, 17, 25)
        assert high.shape == (1, 512, -(-65 // output_stride), -(-98 // output_stride))
        assert middle.shape[-1] == -(-98 // min(output_stride, 16))


def test_vggs_convolutions_have_their_parameters():
    assert sum(p.numel() for p in VGG16().parameters()) == 14_714_688  # arXiv:1409.1556, configuration D without its fc
