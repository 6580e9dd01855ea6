"""transformers' MobileNetV2ForSemanticSegmentation, converted, gives its logits and trains alike."""

import pytest
import seeded
import torch
from torch import Tensor, nn

import atrous
from atrous import convert

transformers = pytest.importorskip("transformers")

#: One odd, one 32k + 1, one neither square nor odd.
SIZES = [(97, 97), (129, 65), (96, 130)]


def theirs(width: float = 0.35, **options) -> nn.Module:
    """A seeded model of theirs."""
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=width, num_labels=5, **options)
    model = transformers.MobileNetV2ForSemanticSegmentation(config)
    return seeded.settle(model, "segmentation_head.classifier.convolution", SIZES[0])


def saved(model: nn.Module, folder) -> str:
    model.save_pretrained(folder)
    return str(folder)


def resized(model: nn.Module):
    """Its logits at the picture's size, as its loss and its post-processing have them."""

    def predict(images: Tensor) -> Tensor:
        return nn.functional.interpolate(
            model(images).logits, size=images.shape[-2:], mode="bilinear", align_corners=False
        )

    return predict


@pytest.mark.parametrize(
    ("output_stride", "tf_padding", "sizes"),
    [
        (8, True, SIZES),
        (16, True, [*SIZES, (513, 513)]),
        (32, True, SIZES),
        (8, False, SIZES),
        (16, False, SIZES),
    ],
)
def test_same_logits(tmp_path, output_stride, tf_padding, sizes):
    foreign = theirs(output_stride=output_stride, tf_padding=tf_padding)
    ours = convert(saved(foreign, tmp_path), source="huggingface")
    assert ours.info.arguments["backbone"] == "mobilenetv2_035"
    seeded.check_logits(resized(foreign), ours, sizes)


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
    seeded.check_logits(resized(foreign), ours, [(66, 66)])


def test_a_step_of_training_moves_the_statistics_alike(tmp_path):
    foreign = theirs(output_stride=16)
    ours = convert(saved(foreign, tmp_path), source="huggingface")
    seeded.check_training_step(foreign, ours, "huggingface", (97, 97))


def test_a_converted_model_survives_its_file(tmp_path):
    foreign = theirs(output_stride=16)
    ours = convert(saved(foreign, tmp_path / "theirs"), source="huggingface", out=tmp_path / "ours.safetensors")
    images = seeded.noise((65, 65))
    with torch.no_grad():
        torch.testing.assert_close(
            atrous.load(tmp_path / "ours.safetensors").eval()(images), ours(images), atol=0, rtol=0
        )
