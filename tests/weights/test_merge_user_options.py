"""What the user names beside a checkpoint may add to what the file holds, and never contradicts it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import seeded
import torch

import atrous
from atrous.errors import AtrousError
from atrous.weights import detect_source
from atrous.weights.merge_user_options import merged
from atrous.weights.read_checkpoint import Foreign, from_state_dict

torchvision = pytest.importorskip("torchvision")


def smp_state(kind="DeepLabV3Plus", encoder="mobilenet_v2", **arguments):
    smp = pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        return getattr(smp, kind)(encoder, encoder_weights=None, classes=3, **arguments).state_dict()


def torchvision_state(name="deeplabv3_mobilenet_v3_large", **arguments):
    with torch.device("meta"):
        build = getattr(torchvision.models.segmentation, name)
        return build(weights=None, weights_backbone=None, num_classes=3, **arguments).state_dict()


def huggingface_state():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=3)
        return transformers.MobileNetV2ForSemanticSegmentation(config).state_dict()


def vgg_state():
    with torch.device("meta"):
        return torchvision.models.vgg16(weights=None, num_classes=3).state_dict()


STATES = {
    "torchvision": torchvision_state,
    "smp": smp_state,
    "huggingface": huggingface_state,
    "mmseg": lambda: seeded.hollow("mmseg_deeplabv3plus_r50-d8"),
    "vainf": lambda: seeded.hollow("vainf_deeplabv3plus_resnet50_separable"),
    "kazuto1011": lambda: seeded.hollow("kazuto1011_deeplabv2_resnet101"),
}

CONTRADICTIONS = [
    *[(source, "in_channels", 4, "3") for source in STATES],
    *[(source, "in_channels", 1, "3") for source in STATES],
    *[(source, "auxiliary", True, "False") for source in STATES if source != "mmseg"],
    *[(source, "aspp_channels", 7, "256") for source in STATES if source not in ("kazuto1011", "mmseg")],
    *[(source, "backbone", "resnet18", None) for source in STATES],
    ("mmseg", "aspp_channels", 7, "512"),
    ("mmseg", "auxiliary", False, "True"),
    ("mmseg", "separable", False, "True"),
    ("mmseg", "low_channels", 5, "48"),
    ("mmseg", "projection_kernel", 1, "3"),
    ("smp", "separable", False, "True"),
    ("smp", "low_channels", 5, "48"),
    ("smp", "decoder_convs", 2, "1"),
    ("smp", "aspp_conv", False, "True"),
    ("vainf", "separable", False, "True"),
    ("vainf", "decoder_convs", 2, "1"),
    ("torchvision", "separable", True, "False"),
    ("torchvision", "aspp_conv", False, "True"),
    ("huggingface", "atrous_rates", (6, 12, 18), "()"),
    ("huggingface", "norm", (1e-3, 0.1), "1e-05"),
    ("kazuto1011", "fov_channels", 1024, "0"),
    ("kazuto1011", "dilation_rule", "previous", "full"),
]


@pytest.mark.parametrize(("source", "option", "given", "held"), CONTRADICTIONS)
def test_an_option_that_contradicts_the_file_is_refused_with_both_values(source, option, given, held):
    adapter, foreign = detect_source.adapter_of(source), from_state_dict(STATES[source]())
    with pytest.raises(AtrousError) as raised:
        adapter.adapt(foreign, {option: given})
    said = str(raised.value)
    assert option in said or option == "backbone"
    assert str(given) in said and (held is None or held in said)


@pytest.mark.parametrize("source", STATES)
def test_what_the_file_has_may_be_named_and_what_trains_or_only_runs_otherwise_may_be_changed(source):
    adapter, foreign = detect_source.adapter_of(source), from_state_dict(STATES[source]())
    plain = adapter.adapt(foreign, {}).arguments
    named = {name: plain[name] for name in ("in_channels", "num_classes", "backbone")}
    named |= {"dropout": 0.25, "frozen_norm": True, "output_stride": 8}
    found = adapter.adapt(foreign, named).arguments
    assert (found["dropout"], found["frozen_norm"], found["output_stride"]) == (0.25, True, 8)
    changed = {name for name in plain if found[name] != plain[name]}
    assert changed <= {"dropout", "output_stride", "atrous_rates"}  # smp's rates are the same cells at each stride


def test_backbone_arguments_add_to_those_of_the_file():
    adapter, foreign = detect_source.adapter_of("torchvision"), from_state_dict(torchvision_state())
    found = adapter.adapt(foreign, {"backbone_arguments": {"drop_path_rate": 0.1}}).arguments["backbone_arguments"]
    assert found == {"norm": (1e-3, 0.01), "drop_path_rate": 0.1}  # the file's eps is not lost
    found = adapter.adapt(foreign, {"backbone_arguments": {"norm": (1e-3, 0.1)}}).arguments["backbone_arguments"]
    assert found == {"norm": (1e-3, 0.1)}  # the momentum is for training alone
    with pytest.raises(AtrousError, match=r"backbone_arguments: norm is given as .*1e-05.*0\.001"):
        adapter.adapt(foreign, {"backbone_arguments": {"norm": (1e-5, 0.1)}})


def test_an_auxiliary_head_that_is_asked_for_is_not_left_out_without_a_word():
    """It was told as one of another kind, which is left over."""
    with pytest.raises(AtrousError, match="auxiliary is given as True, and the state dict has False"):
        atrous.convert(smp_state(), auxiliary=True)


@pytest.mark.parametrize(("source", "count"), [(source, 3) for source in ("torchvision", "smp", "huggingface")])
def test_another_number_of_outputs_leads_to_training(source, count):
    with pytest.raises(AtrousError, match=rf"the state dict has {count} outputs, not 5\. .*--init"):
        atrous.convert(STATES[source](), source=source, num_classes=5)


@pytest.mark.parametrize("value", [True, 3.5, "3", [3], np.arange(3), object(), 10**400, float("nan")])
def test_odd_values_are_refused_in_a_line(value):
    with pytest.raises(AtrousError) as raised:
        atrous.convert(smp_state(), aspp_channels=value)
    assert len(str(raised.value)) < 300


def test_whole_numbers_are_equal_whatever_their_type():
    assert merged({}, {"aspp_channels": 256}, {"aspp_channels": np.int64(256)}, "") == {"aspp_channels": 256}
    assert merged({"a": 1, "b": 2}, {"a": (1, 2)}, {"a": [1, 2], "b": 3}, "") == {"a": (1, 2), "b": 3}


def folder_of(folder, name="resnet18", **changes):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=2)
    config = {"architecture": name, "pretrained_cfg": {"mean": [0.2] * 3, "std": [0.3] * 3}, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), folder / "model.safetensors")


def test_a_folder_of_timm(tmp_path):
    folder_of(tmp_path)
    assert atrous.convert(tmp_path, backbone="resnet18.a1_in1k").info.arguments["backbone"] == "resnet18"
    with pytest.raises(AtrousError, match=r"backbone is given as 'resnet34', and .* has 'resnet18'"):
        atrous.convert(tmp_path, backbone="resnet34")
    assert atrous.convert(tmp_path, in_channels=4).info.arguments["in_channels"] == 4  # filters of colours are spread


def test_filters_of_other_pictures_than_rgb_are_not_spread_over_others():
    state = {
        key: tensor[:, :2] if key == "conv1.weight" else tensor
        for key, tensor in torchvision.models.resnet18().state_dict().items()
    }
    with pytest.raises(AtrousError, match="in_channels is given as 4, and the state dict has 2"):
        atrous.convert(state, source="timm-backbone", backbone="resnet18", in_channels=4)
    vgg = vgg_state()
    vgg["features.0.weight"] = vgg["features.0.weight"][:, :2]
    assert detect_source.adapter_of("vgg16").adapt(from_state_dict(vgg), {}).arguments["in_channels"] == 2
    with pytest.raises(AtrousError, match="in_channels is given as 3, and the state dict has 2"):
        detect_source.adapter_of("vgg16").adapt(from_state_dict(vgg), {"in_channels": 3})


def told_by_mmseg(text, **given):
    foreign = Foreign(seeded.hollow("mmseg_deeplabv3_r18-d8"), {"meta": {"cfg": text}})
    return detect_source.adapter_of("mmseg").adapt(foreign, given).arguments


def test_what_a_configuration_tells_is_not_contradicted_either():
    head = "dict(align_corners=False, dilations=(1, 12, 24, 36))"
    text = f"model = dict(backbone=dict(strides=(1, 2, 1, 1)), decode_head={head})"
    assert told_by_mmseg(text, atrous_rates=[6, 12, 18])["atrous_rates"] == (6, 12, 18)
    for option, given, held in (
        ("atrous_rates", (1, 2, 3), "6, 12, 18"),
        ("align_corners", True, "False"),
        ("multi_grid", (0.5, 1), "1, 1, 1"),
    ):
        with pytest.raises(AtrousError, match=rf"{option} is given as .*{held}"):
            told_by_mmseg(text, **{option: given})
    assert told_by_mmseg("", align_corners=True)["align_corners"] is True


def test_an_encoder_that_the_configuration_names_is_not_another(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.DeepLabV3Plus("tu-mobilenetv2_050", encoder_weights=None, classes=3)
    model.save_pretrained(tmp_path)
    assert atrous.convert(tmp_path, backbone="mobilenetv2_050").info.arguments["backbone"] == "mobilenetv2_050"
    with pytest.raises(AtrousError, match=r"backbone is given as 'tu-mobilenetv2_100'.*has 'tu-mobilenetv2_050'"):
        atrous.convert(tmp_path, backbone="tu-mobilenetv2_100")
    with pytest.raises(AtrousError, match=r"atrous_rates is given as .*1, 2, 3.*12, 24, 36"):
        atrous.convert(tmp_path, atrous_rates=(1, 2, 3))
