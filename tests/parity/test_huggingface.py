"""transformers' MobileNetV2ForSemanticSegmentation, converted, gives its logits and trains alike."""

import pytest
import torch
from torch import nn

import atrous
from atrous import convert

transformers = pytest.importorskip("transformers")

SIZES = [(97, 97), (129, 129), (96, 130)]


def theirs(width: float = 0.35, **options) -> nn.Module:
    """A seeded model of theirs, its norms drawn too."""
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=width, num_labels=5, **options)
    model = transformers.MobileNetV2ForSemanticSegmentation(config).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # Their initialisation, normal with std 0.02, would let the pictures fade on the way.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    nn.init.normal_(model.segmentation_head.classifier.convolution.weight, 0, 0.01)
    return model


def saved(model: nn.Module, folder) -> str:
    model.save_pretrained(folder)
    return str(folder)


def pictures(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("output_stride", "tf_padding"), [(8, True), (16, True), (32, True), (8, False), (16, False)])
def test_same_logits(tmp_path, output_stride, tf_padding):
    foreign = theirs(output_stride=output_stride, tf_padding=tf_padding)
    ours = convert(saved(foreign, tmp_path), source="huggingface")
    assert ours.info.arguments["backbone"] == "mobilenetv2_035"
    for size in SIZES:
        images = pictures(*size)
        with torch.no_grad():
            expected = foreign(images).logits
            assert expected.std() > 0.05
            torch.testing.assert_close(ours.scores(images)["main"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("width", "options", "backbone"),
    [
        (0.5, {}, "mobilenetv2_050"),
        (0.75, {}, "mobilenetv2_075"),
        (1.0, {}, "mobilenetv2_100"),
        (1.4, {}, "mobilenetv2_140"),
        (0.5, {"depth_divisible_by": 1}, "google_mobilenetv2_050"),
        (0.5, {"depth_divisible_by": 1, "tf_padding": False}, "google_mobilenetv2_050"),
    ],
)
def test_every_width_finds_its_backbone(tmp_path, width, options, backbone):
    foreign = theirs(width, output_stride=16, layer_norm_eps=2e-3, **options)
    ours = convert(saved(foreign, tmp_path), source="huggingface")
    assert ours.info.arguments["backbone"] == backbone
    images = pictures(66, 66)
    with torch.no_grad():
        torch.testing.assert_close(ours.scores(images)["main"], foreign(images).logits, atol=1e-4, rtol=0)


def test_the_resized_logits_are_those_of_its_loss():
    """Its loss and its post-processing resize with edges aligned; so does our forward."""
    foreign = theirs(output_stride=8)
    ours = convert(foreign.state_dict(), source="huggingface")
    images = pictures(97, 97)
    with torch.no_grad():
        logits = foreign(images).logits
        resized = nn.functional.interpolate(logits, size=(97, 97), mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours(images), resized, atol=1e-4, rtol=0)


def test_a_step_of_training_moves_the_statistics_alike(tmp_path):
    foreign = theirs(output_stride=16, classifier_dropout_prob=0.0)
    ours = convert(saved(foreign, tmp_path), source="huggingface")
    images = pictures(97, 97, count=2)
    before = ours.state_dict()["backbone.net.bn1.running_mean"].clone()
    with torch.no_grad():
        foreign.train()(images)
        ours.train()(images)
    after = convert(foreign.state_dict(), source="huggingface").state_dict()
    means = [name for name in after if name.endswith(("running_mean", "running_var"))]
    assert len(means) == 2 * 54
    for name in means:
        torch.testing.assert_close(ours.state_dict()[name], after[name], atol=1e-5, rtol=1e-5, msg=name)
    assert not torch.equal(before, ours.state_dict()["backbone.net.bn1.running_mean"])


def test_a_converted_model_survives_its_file(tmp_path):
    foreign = theirs(output_stride=16)
    ours = convert(saved(foreign, tmp_path / "theirs"), source="huggingface", out=tmp_path / "ours.safetensors")
    images = pictures(65, 65)
    with torch.no_grad():
        torch.testing.assert_close(
            atrous.load(tmp_path / "ours.safetensors").eval()(images), ours(images), atol=0, rtol=0
        )
