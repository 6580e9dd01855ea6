"""DeepLabV3 and V3+ of segmentation-models-pytorch, converted, give its logits and learn its running means."""

from __future__ import annotations

import warnings

import pytest
import seeded
import torch
from torch import nn

import atrous
from atrous.errors import AtrousError
from atrous.models import build
from atrous.weights import smp as adapter
from atrous.weights.adapter import Adapted, check_fits
from atrous.weights.read_checkpoint import from_state_dict
from atrous.weights.smp_encoders import ENCODERS, TIMM_ENCODERS

smp = pytest.importorskip("segmentation_models_pytorch")

#: smp takes multiples of its output stride only. In the last, rate 36 at stride 16 reaches from end to end.
SIZES = [(64, 64), (48, 80), (32, 640)]

#: smp's class, encoder and output stride, and what the file does not tell.
CASES = [
    ("DeepLabV3", "resnet18", 8, {}),
    ("DeepLabV3Plus", "resnet18", 16, {}),
    ("DeepLabV3Plus", "efficientnet-b0", 16, {}),
    ("DeepLabV3Plus", "mobilenet_v2", 16, {}),
    ("DeepLabV3", "timm-efficientnet-b0", 8, {}),
    ("DeepLabV3", "tu-resnet18", 8, {}),
    ("DeepLabV3Plus", "tu-mobilenetv2_050", 8, {}),
    ("DeepLabV3Plus", "tu-mobilenetv2_050", 16, {}),
]
SLOW_CASES = [
    ("DeepLabV3", "resnet18", 16, {}),
    ("DeepLabV3Plus", "resnet34", 8, {}),
    ("DeepLabV3Plus", "resnet50", 16, {}),
    ("DeepLabV3", "efficientnet-b0", 8, {}),
    ("DeepLabV3", "efficientnet-b1", 8, {}),
    ("DeepLabV3Plus", "efficientnet-b2", 16, {}),
    ("DeepLabV3Plus", "efficientnet-b3", 16, {}),
    ("DeepLabV3Plus", "efficientnet-b5", 16, {}),
    ("DeepLabV3", "mobilenet_v2", 8, {}),
    ("DeepLabV3Plus", "timm-efficientnet-b0", 16, {}),
    ("DeepLabV3", "timm-tf_efficientnet_lite0", 8, {}),
    ("DeepLabV3Plus", "mobileone_s0", 16, {}),
    ("DeepLabV3Plus", "tu-resnet18", 16, {}),
    ("DeepLabV3", "tu-mobilenetv2_050", 16, {}),
    ("DeepLabV3Plus", "tu-tf_efficientnet_lite0", 8, {"backbone": "tf_efficientnet_lite0"}),
    ("DeepLabV3Plus", "tu-convnext_atto", 16, {}),
]


def their_model(kind: str, encoder: str, output_stride: int = 16, **arguments) -> nn.Module:
    """A seeded model of smp's own code."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its timm- encoders
        return getattr(smp, kind)(
            encoder, encoder_weights=None, encoder_output_stride=output_stride, **{"classes": 7, **arguments}
        )


def settle(model: nn.Module, channels: int = 3) -> nn.Module:
    return seeded.settle(model, "segmentation_head.0", (96, 96), channels)


def convert(model: nn.Module, **given) -> nn.Module:
    return atrous.convert(model.state_dict(), source="smp", **given)


@pytest.mark.parametrize(
    ("kind", "encoder", "output_stride", "given"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
)
def test_same_logits_and_running_means(kind, encoder, output_stride, given):
    theirs = settle(their_model(kind, encoder, output_stride))
    ours = convert(theirs, output_stride=output_stride, **given)
    assert ours.info.architecture == kind.lower()
    assert ours.info.arguments["dilation_rule"] == ("previous" if encoder.startswith("tu-") else "full")
    if encoder.startswith("mobileone"):  # sums up to six branches, which timm adds in another order
        theirs, ours = theirs.double(), ours.double()
    seeded.check_logits(theirs, ours, SIZES)
    seeded.check_training_step(theirs, ours, "smp", SIZES[0], output_stride=output_stride, **given)


@pytest.mark.parametrize(("kind", "separable"), [("DeepLabV3", True), ("DeepLabV3Plus", False)])
def test_mixed_separable_convolutions_become_plain_ones(kind, separable):
    options = {"decoder_channels": 64, "decoder_aspp_separable": separable, "decoder_atrous_rates": (2, 4, 6)}
    theirs = settle(their_model(kind, "resnet18", 16, **options))
    ours = convert(theirs, output_stride=16, atrous_rates=(2, 4, 6))
    assert ours.info.arguments["separable"] is False
    assert ours.info.arguments["aspp_channels"] == 64
    seeded.check_logits(theirs, ours, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet18", "tu-regnetx_002"])
def test_channels_of_pictures_are_read_from_the_stem(encoder):
    theirs = settle(their_model("DeepLabV3Plus", encoder, in_channels=4, classes=1), channels=4)
    ours = convert(theirs)
    assert (ours.info.arguments["in_channels"], ours.info.arguments["num_classes"]) == (4, 1)
    assert len(ours.info.preprocessing.mean) == 4
    seeded.check_logits(theirs, ours, SIZES, channels=4)


def on_meta(kind: str, encoder: str, output_stride: int = 16, **arguments) -> dict[str, torch.Tensor]:
    """Names and shapes alone, which cost nothing."""
    with torch.device("meta"):
        return their_model(kind, encoder, output_stride, **arguments).state_dict()


def adapt(state: dict[str, torch.Tensor], **given) -> Adapted:
    return adapter.adapt(from_state_dict(state), given)


def test_what_has_no_place_is_named():
    adapted = adapt(on_meta("DeepLabV3Plus", "timm-efficientnet-b0", aux_params={"classes": 3}))
    parts = {".".join(key.split(".")[:2]) for key in adapted.left_over}
    assert parts == {"classification_head.3", "encoder.conv_head", "encoder.bn2"}


def test_a_lightning_module_around_it():
    model = their_model("DeepLabV3Plus", "resnet18")
    state = {f"model.{key}": tensor for key, tensor in model.state_dict().items()} | {"mean": torch.zeros(1, 3, 1, 1)}
    ours = atrous.convert({"state_dict": state, "epoch": 3})
    assert ours.info.provenance["source"] == "smp"
    assert ours.info.provenance["left_over"] == ["mean"]


def test_keys_of_old_versions():
    new = their_model("DeepLabV3", "resnet18").state_dict()
    parts = {"decoder.aspp.": "decoder.0.", "decoder.conv.": "decoder.1.", "decoder.bn.": "decoder.2."}
    old = {}
    for key, tensor in new.items():
        part = next((part for part in parts if key.startswith(part)), None)
        old[key.replace(part, parts[part], 1) if part else key] = tensor
    assert old.keys() != new.keys()
    expected, found = adapt(new), adapt(old)
    assert expected.arguments == found.arguments
    assert expected.state.keys() == found.state.keys()
    assert all(torch.equal(found.state[key], tensor) for key, tensor in expected.state.items())


def test_preprocessing_of_the_encoders():
    imagenet = adapt(on_meta("DeepLabV3Plus", "resnet18")).preprocessing
    assert imagenet.mean == pytest.approx((123.675, 116.28, 103.53))
    assert imagenet.std == pytest.approx((58.395, 57.12, 57.375))
    half = adapt(on_meta("DeepLabV3Plus", "timm-tf_efficientnet_lite0")).preprocessing
    assert half.mean == half.std == (127.5,) * 3
    assert adapt(on_meta("DeepLabV3Plus", "tu-resnet18")).preprocessing is None  # timm's record


def test_defaults_follow_the_paper():
    three = adapt(on_meta("DeepLabV3", "resnet18", 8)).arguments
    assert (three["output_stride"], three["atrous_rates"], three["dropout"]) == (8, (6, 12, 18), 0.5)
    plus = adapt(on_meta("DeepLabV3Plus", "resnet18")).arguments
    assert (plus["output_stride"], plus["atrous_rates"], plus["align_corners"]) == (16, (12, 24, 36), True)
    for kind, arguments in (("deeplabv3", three), ("deeplabv3plus", plus)):
        assert adapter.LAYOUTS[kind].items() <= arguments.items()


#: One encoder of each family, which is checked at all output strides; the others are checked at 16.
EACH_FAMILY = ("resnext50_32x4d", "timm-tf_efficientnet_lite0", "efficientnet-b2", "mobileone_s0")
GEOMETRIES = [
    (name, stride)
    for name, encoder in ENCODERS.items()
    for stride in encoder.output_strides
    if stride == 16 or 16 not in encoder.output_strides or name in EACH_FAMILY
]


def strides_and_rates(net: nn.Module) -> list[tuple]:
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    return [(tuple(conv.stride), conv.dilation) for conv in convolutions if conv.kernel_size != (1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "output_stride"), GEOMETRIES)
def test_every_encoder_is_found_complete_and_dilated_alike(encoder, output_stride):
    with torch.device("meta"):
        theirs = their_model("DeepLabV3Plus", encoder, output_stride)
        adapted = adapt(theirs.state_dict(), output_stride=output_stride)
        ours = build(adapted.architecture, adapted.arguments)
    assert adapted.arguments["backbone"] == ENCODERS[encoder].backbone
    assert check_fits(adapted, ours.state_dict()) == ()
    assert strides_and_rates(ours.backbone.net) == strides_and_rates(theirs.encoder)


TABLE = [
    pytest.param(name, marks=() if name in ("efficientnet_lite0", "regnety_002") else pytest.mark.slow)
    for name in TIMM_ENCODERS.values()
]


@pytest.mark.parametrize("name", TABLE)
def test_timm_encoders_are_told_by_their_size(name):
    """Names whose `tf_` twin has the same weights are asked for."""
    state = on_meta("DeepLabV3Plus", f"tu-{name}")
    if f"tf_{name}" in smp.encoders.timm.list_models():
        with pytest.raises(AtrousError, match=rf"tu-tf_{name}.*backbone"):
            adapt(state)
    else:
        assert adapt(state).arguments["backbone"] == name


@pytest.mark.parametrize(
    ("named", "backbone"),
    [
        ("tu-resnet18", "resnet18"),
        ("resnet18.a1_in1k", "resnet18"),
        ("timm-regnetx_002", "regnetx_002"),
        ("timm-mobilenetv3_small_100", "tf_mobilenetv3_small_100"),
    ],
)
def test_timm_encoders_are_named_as_in_smp(named, backbone):
    state = on_meta("DeepLabV3Plus", f"tu-{backbone}")
    assert adapt(state, backbone=named).arguments["backbone"] == backbone


def test_encoders_under_names_of_old_versions():
    state = on_meta("DeepLabV3Plus", "tu-regnetx_002")
    old = {key.replace("encoder.model.", "encoder."): tensor for key, tensor in state.items()}
    adapted = adapt(old)
    assert (adapted.arguments["backbone"], adapted.arguments["dilation_rule"]) == ("regnetx_002", "previous")


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ("se_resnet50", "SENets has no padding"),
        ("timm-skresnet18", "selective kernel"),
        ("dpn68", "DPNs cannot be dilated"),
    ],
)
def test_encoders_that_are_not_here_are_refused_with_the_reason(encoder, reason):
    state = on_meta("DeepLabV3Plus", encoder)
    with pytest.raises(AtrousError, match=reason):
        adapt(state)


@pytest.mark.parametrize(
    ("encoder", "arguments", "given", "message"),
    [
        ("resnet18", {"encoder_depth": 4}, {}, "takes 256 channels.*encoder_depth"),
        ("tu-resnet18", {"encoder_depth": 4}, {}, "encoder_depth"),
        ("tu-lcnet_050", {}, {}, "name it with backbone"),
        ("resnet18", {}, {"backbone": "resnet34"}, "smp's resnet18, not resnet34"),
        ("tu-resnet18", {}, {"backbone": "tu-resnet50"}, "takes 512 channels.*has 2048"),
        ("resnet18", {}, {"output_stride": 32}, "8 or 16, not 32"),
        ("mobileone_s0", {}, {"output_stride": 8}, "16, not 8"),
    ],
)
def test_what_cannot_be_is_refused(encoder, arguments, given, message):
    state = on_meta("DeepLabV3Plus", encoder, **arguments)
    with pytest.raises(AtrousError, match=message):
        adapt(state, **given)


def test_other_models_are_not_recognised():
    with torch.device("meta"):
        unet = smp.Unet("resnet18", encoder_weights=None)
    assert not adapter.recognises(from_state_dict(unet.state_dict()))
    assert not adapter.recognises(from_state_dict({"fc.weight": torch.zeros(1)}))
    for kind in ("DeepLabV3", "DeepLabV3Plus"):
        assert adapter.recognises(from_state_dict(on_meta(kind, "tu-resnet18")))
