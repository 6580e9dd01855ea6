"""A prepared network is the same function, over every paper and every family of backbones."""

import dataclasses

import pytest
import torch
from torch import nn

import atrous
from atrous.inference.fold_batch_norm import (
    LiveConv,
    SummedASPP,
    WholeConv,
    simplified,
    simplified_pipeline,
    take_whole_numbers,
)
from atrous.inference.pipeline import Pipeline

NETWORKS = [
    ("deeplabv1", "vgg16", {}),
    ("deeplabv2", "resnet18", {}),
    ("deeplabv3", "resnet18", {"multi_grid": (1, 2)}),
    ("deeplabv3plus", "resnet18", {"projection_kernel": 3}),
    ("deeplabv3plus", "resnet18", {"separable": True, "depthwise_norm": False, "aspp_conv": True}),
    ("deeplabv3plus", "mobilenetv2_100", {"output_stride": 8}),
    ("deeplabv3plus", "tf_efficientnet_lite0", {}),
    ("deeplabv3plus", "mobilenetv3_small_100", {}),
    ("deeplabv3plus", "xception41", {}),
    ("deeplabv3plus", "convnext_atto", {}),
    ("deeplabv3plus", "regnety_002", {}),
    ("deeplabv3plus", "resnetv2_50", {}),
]


def used(architecture, backbone, arguments):
    """A network whose norms have seen pictures: fresh statistics of 0 and 1 fold to nothing."""
    torch.manual_seed(0)
    model = atrous.create_model(architecture, backbone=backbone, num_classes=5, **arguments).train()
    with torch.no_grad():
        for _ in range(3):
            model.scores(torch.randn(2, 3, 97, 97))
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.1)
    return model.eval()


@pytest.mark.parametrize(("architecture", "backbone", "arguments"), NETWORKS, ids=lambda value: str(value))
def test_it_is_the_same_function(architecture, backbone, arguments):
    model = used(architecture, backbone, arguments)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = simplified(model)
    for size in ((97, 97), (64, 113)):
        picture = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected, found = model.scores(picture)["main"], prepared.scores(picture)["main"]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5 * expected.abs().max().item())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items()), "the original changed"


@pytest.mark.parametrize(("architecture", "backbone", "arguments"), NETWORKS, ids=lambda value: str(value))
@pytest.mark.parametrize("preprocessing", [{}, {"aligned": True}, {"enlarge": 1.5}])
def test_the_first_convolutions_normalise(architecture, backbone, arguments, preprocessing):
    model = used(architecture, backbone, arguments)
    told = model.info.preprocessing.normalized_by((123.7, 116.3, 103.5), (50.0, 60.0, 70.0))
    told = dataclasses.replace(told, **preprocessing)
    model.info = dataclasses.replace(model.info, preprocessing=told)
    plain, folded = Pipeline(model), simplified_pipeline(model)
    picture = torch.randint(0, 256, (1, 3, 97, 113), dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = plain(picture), folded(picture)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert (folded.normalize.std == 1).all()
    assert folded.normalize.mean.flatten().tolist() == [124, 116, 104]
    assert (plain.normalize.mean != folded.normalize.mean).all()


def test_bfloat16_loses_nothing_of_the_pictures():
    model = used("deeplabv3plus", "resnet18", {})
    told = model.info.preprocessing.with_image(mean=(123.5, 116.5, 103.5), std=(50.0, 60.0, 70.0))
    model.info = dataclasses.replace(model.info, preprocessing=told)
    picture = torch.randint(0, 256, (1, 3, 97, 113), dtype=torch.uint8)
    prepared = simplified_pipeline(model)
    images = prepared.normalize(picture)
    assert torch.equal(images.bfloat16().float(), images)
    plain = Pipeline(model).normalize(picture)
    assert (plain.bfloat16().float() - plain).abs().max() > 0.003  # of a standard deviation


def test_other_pictures_than_bytes_keep_their_mean():
    model = used("deeplabv3plus", "resnet18", {})
    told = model.info.preprocessing.with_image(mean=(0.48, 0.46, 0.4), std=(0.2, 0.3, 0.4), dtype="float32")
    model.info = dataclasses.replace(model.info, preprocessing=told)
    prepared = simplified_pipeline(model)
    assert torch.equal(prepared.normalize.mean, Pipeline(model).normalize.mean)
    assert (prepared.normalize.std == 1).all()
    assert not [module for module in prepared.modules() if isinstance(module, WholeConv)]


def test_preparing_leaves_the_random_numbers_of_a_training_alone():
    model = used("deeplabv3", "resnet18", {})
    before = torch.get_rng_state()
    simplified_pipeline(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_where_something_else_gets_the_pictures_their_scale_stays():
    pipeline = Pipeline(used("deeplabv3plus", "resnet18", {}))
    scores, std = pipeline.model.scores, pipeline.normalize.std.clone()
    pipeline.model.scores = lambda images: {"main": scores(images)["main"] + images.mean()}
    picture = torch.randint(0, 256, (1, 3, 97, 113), dtype=torch.uint8)
    with torch.inference_mode():
        expected = pipeline(picture)
        assert torch.equal(take_whole_numbers(pipeline)(picture), expected)
    assert torch.equal(pipeline.normalize.std, std)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_100", "xception41", "tf_efficientnet_lite0"])
def test_no_norm_is_left(backbone):
    prepared = simplified(used("deeplabv3plus", backbone, {}))
    assert not [module for module in prepared.modules() if isinstance(module, nn.BatchNorm2d)]
    assert any(isinstance(module, SummedASPP) for module in prepared.modules())


def test_a_convolution_used_twice_under_two_norms_is_left_alone():
    model = used("deeplabv3plus", "resnet18", {})
    stem = model.backbone.net.conv1

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.other = stem, nn.BatchNorm2d(64), nn.BatchNorm2d(64)
            self.other.running_mean = torch.ones(64)

        def forward(self, x):
            return self.one(self.conv(x)) + self.other(self.conv(x))

    model.backbone.net.conv1 = Twice().eval()
    picture = torch.randn(1, 3, 65, 65)
    prepared = simplified(model)
    with torch.inference_mode():
        expected, found = model.scores(picture)["main"], prepared.scores(picture)["main"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ["deeplabv1", "deeplabv2", "deeplabv3", "deeplabv3plus"])
def test_taps_outside_a_small_map_are_left_out(architecture):
    """With the outer taps of the wide rates all different, a small picture has the same scores, a large one too."""
    prepared, plain = (step(used(architecture, "resnet18", {"output_stride": 8})) for step in (simplified, lambda m: m))
    wide = [module for module in prepared.modules() if isinstance(module, LiveConv) and module.conv.dilation[0] > 8]
    assert wide
    for size in ((65, 65), (65, 193)):
        picture = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected = plain.scores(picture)["main"]
            torch.testing.assert_close(
                prepared.scores(picture)["main"], expected, rtol=1e-3, atol=2e-5 * expected.abs().max().item()
            )
    with torch.no_grad():
        for module in wide:  # a 9×9 map never meets these
            module.conv.weight[..., 0] = torch.nan
            module.conv.weight[..., 2] = torch.nan
    with torch.inference_mode():
        assert prepared.scores(torch.randn(1, 3, 65, 65))["main"].isfinite().all()
