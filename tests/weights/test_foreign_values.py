"""Every value of a foreign configuration is checked for type and range where it is read; key and value are named."""

from __future__ import annotations

import re

import pytest
import seeded
import torch

import atrous
from atrous.errors import AtrousError
from atrous.weights import huggingface, mmseg, smp, timm_backbone
from atrous.weights.read_checkpoint import Foreign, from_state_dict

HUGE = "1" + "0" * 400

#: Of mmsegmentation's decode_head, backbone and data_preprocessor: key and value, as Python text.
ODD = {
    "decode_head": [
        *["dilations=(1, 9999, 9999, 9999)", "dilations=(1, 12.0, 24, 36)", "dilations=(True, 12, 24, 36)"],
        *["dilations='1, 12'", "dilations=(1, 0, 24, 36)", "dilations=()", f"dilations=(1, {HUGE}, 24, 36)"],
        *[
            "dropout_ratio=5",
            "dropout_ratio=-0.1",
            "dropout_ratio=True",
            "dropout_ratio='0.1'",
            f"dropout_ratio={HUGE}",
        ],
        *["dropout_ratio=1e999", "align_corners=1", "align_corners='no'", "num_classes='3'", "num_classes=True"],
        *["out_channels=0", "threshold=5", "threshold=0", "threshold='0.3'", "threshold=True", "ignore_index=[1]"],
        *["ignore_index=255.0", "ignore_index='255'", f"ignore_index={HUGE}", "norm_cfg=dict(eps=-1.0)"],
        *["norm_cfg=dict(eps=0)", "norm_cfg=dict(eps=1e999)", "norm_cfg=dict(momentum=-3)", "norm_cfg=dict(eps='x')"],
        *["norm_cfg=dict(momentum=True)", "norm_cfg='SyncBN'", "norm_cfg=dict(type=3)", "act_cfg='ReLU'"],
    ],
    "backbone": [
        *[
            "strides=(1, 2, 9999, 9999)",
            "strides=(1, 1, 1, 1)",
            "strides=(2, 2, 2, 2)",
            "strides=(1, 2, 1)",
            "strides=8",
        ],
        *["strides=(1, 2.0, 1, 1)", "dilations=(1, 1, 2)", "dilations='1124'", "contract_dilation=1", "depth='18'"],
        *["depth=True", "in_channels='3'", "multi_grid=(0, 1)", "multi_grid=(1, 2.5)", "multi_grid='1, 2'", "style=3"],
        *["style='torch'", "avg_down=1", "type=18", "norm_cfg=[1]", "norm_cfg=dict(eps=2)"],
    ],
    "data_preprocessor": [
        *[
            "mean=[True, 0, 0]",
            f"mean=[{HUGE}, 0, 0]",
            "mean=[1e999, 0, 0]",
            "mean=['1', 0, 0]",
            "mean=[0, 0]",
            "mean=0",
        ],
        *[
            "mean=[9000000000.0, 0, 0]",
            "std=[0, 1, 1]",
            "std=[-1, 1, 1]",
            "std=[None, 1, 1]",
            "std='half'",
            "bgr_to_rgb=1",
        ],
        *["rgb_to_bgr='yes'", "bgr_to_rgb=True, rgb_to_bgr=True"],
    ],
}


def told_by_mmseg(text):
    state = seeded.hollow("mmseg_deeplabv3_r18-d8")
    return mmseg.adapt(Foreign(state, {"meta": {"cfg": text, "CLASSES": [f"kind {index}" for index in range(19)]}}), {})


@pytest.mark.parametrize(("part", "value"), [(part, value) for part, values in ODD.items() for value in values])
def test_mmsegmentation(part, value):
    with pytest.raises(AtrousError) as raised:
        told_by_mmseg(f"model = dict({part}=dict({value}))")
    said, key = str(raised.value), value.partition("=")[0]
    assert said.startswith(f"its configuration has {part}.{key}"), said
    assert "cannot be converted" in said and len(said) < 300
    shown = value.partition("=")[2].partition(",")[0].strip("()[]'")[:4]
    assert shown in said or "dict" in shown or "e99" in value or "bits" in said


@pytest.mark.parametrize(
    "text",
    [
        "a = dict(reduce_zero_label=1)",
        "p = [dict(x=[dict(reduce_zero_label='yes')])]",
        "p = [dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1], to_rgb=1)]",
        "img_norm_cfg = dict(mean=[0, 0, 0], std=[1, 1, 0])",
        "model = dict(backbone=18)",
        "model = dict(decode_head=[1, 2])",
        "model = dict(data_preprocessor='none')",
    ],
)
def test_mmsegmentations_other_places(text):
    with pytest.raises(AtrousError, match=r"its configuration has \S+ = .*cannot be converted"):
        told_by_mmseg(text)


def test_sound_values_of_mmsegmentation_are_taken():
    told = told_by_mmseg(
        "model = dict(backbone=dict(type='ResNetV1c', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), "
        "style='pytorch', norm_cfg=dict(type='SyncBN', eps=1e-5, momentum=0.1), avg_down=False, dcn=None), "
        "decode_head=dict(dilations=(1, 12, 24, 36), dropout_ratio=0, align_corners=True, ignore_index=-100, "
        "threshold=None, act_cfg=dict(type='ReLU')), data_preprocessor=dict(mean=[1, 2.5, 3], std=[1, 2, 3], "
        "bgr_to_rgb=True))"
    )
    assert (told.arguments["dropout"], told.arguments["align_corners"], told.untold) == (0, True, ())
    assert told.preprocessing is not None and told.preprocessing.mean == (1, 2.5, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("encoder_output_stride", value) for value in (True, 8.0, [8], 4, 10**400)],
        *[
            ("decoder_atrous_rates", value)
            for value in ([True, 2, 3], [1, 2.5, 3], "123", [1, 2, 10**400], [1, 2, 9999])
        ],
        *[("decoder_aspp_dropout", value) for value in (2, -1, True, "0.5", float("nan"), 10**400)],
        *[("decoder_aspp_separable", value) for value in (1, "True", [True])],
        *[("decoder_channels", value) for value in (True, 256.0, "256")],
        *[("classes", value) for value in (3.0, "3", [3])],
        *[("in_channels", value) for value in (3.0, "3")],
        *[("encoder_depth", value) for value in (True, 5.0, "5")],
        *[("encoder_weights", value) for value in (3, ["imagenet"])],
        *[("activation", value) for value in (3, ["softmax"])],
        *[("upsampling", value) for value in (True, "4", 10**400)],
        *[("drop_path_rate", value) for value in (True, 1, "0.1", float("nan"))],
        *[("_model_class", value) for value in (3, ["DeepLabV3Plus"], {})],
        *[("encoder_name", value) for value in (3, ["resnet18"])],
    ],
)
def test_smp(key, value):
    models = pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        model = models.DeepLabV3Plus("tu-mobilenetv2_050", encoder_weights=None, classes=3)
    config = {**model.config, "_model_class": "DeepLabV3Plus", key: value}
    with pytest.raises(AtrousError, match=rf"its configuration has {key} = .*cannot be converted"):
        smp.adapt(Foreign(model.state_dict(), config), {})


@pytest.fixture(scope="module")
def mobilenet():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=3)
        return transformers.MobileNetV2ForSemanticSegmentation(config).state_dict(), config.to_dict()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("output_stride", value) for value in (True, 9, "8", 16.0, [8])],
        *[("tf_padding", value) for value in (1, "true")],
        *[("layer_norm_eps", value) for value in (0, True, "0.001", float("nan"), 10**400)],
        *[("classifier_dropout_prob", value) for value in (True, 3, [0.5])],
        *[("semantic_loss_ignore_index", value) for value in ([255], 255.0, "255", True)],
        *[("num_labels", value) for value in ("3", 3.0)],
        *[("num_channels", value) for value in ("3", True, 3.0)],
        *[("id2label", value) for value in (["a", "b", "c"], "abc", 3)],
        *[("id2label", value) for value in ({"0": "a", "1": "a", "2": "b"}, {"0": 1, "1": 2, "2": 3})],
        *[
            ("id2label", {"0": "a", "1": "", "2": "b"}),
            ("depth_multiplier", float("nan")),
            ("depth_multiplier", "wide"),
        ],
        *[("depth_divisible_by", value) for value in ("8", 0, [8])],
        *[("first_layer_is_expansion", 1), ("hidden_act", ["relu6"]), ("expand_ratio", "6")],
    ],
)
def test_hugging_face(mobilenet, key, value):
    state, config = mobilenet
    with pytest.raises(AtrousError) as raised:
        huggingface.adapt(Foreign(state, {**config, key: value}), {})
    assert key in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("do_normalize", value) for value in (1, "false")],
        *[("do_rescale", "false"), ("do_flip_channel_order", 1), ("do_reduce_labels", "yes"), ("reduce_labels", 1)],
        *[("rescale_factor", value) for value in (0, -1, "1/255", True, 10**400, float("nan"))],
        *[("image_mean", value) for value in ([True, 0, 0], ["0.5"] * 3, [10**400, 0, 0], [0.5], "half", {})],
        *[("image_std", value) for value in ([0, 1, 1], [-1, 1, 1], [float("nan"), 1, 1], [None] * 3)],
    ],
)
def test_hugging_faces_image_processor(mobilenet, key, value):
    state, config = mobilenet
    with pytest.raises(AtrousError, match=rf"preprocessor_config\.json has {key} = "):
        huggingface.adapt(Foreign(state, {**config, "preprocessor": {key: value}}), {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("mean", value)
            for value in ([True] * 3, [10**400] * 3, ["0.5"] * 3, 0.5, None, [float("inf")] * 3, [0.5] * 2)
        ],
        *[("std", value) for value in ([0] * 3, [-1] * 3, [True] * 3)],
        *[("num_classes", value) for value in ("ten", 2.5, True)],
        *[("input_size", value) for value in ([3, 224], "224", [3, 224.0, 224], [3, -1, 224])],
    ],
)
def test_timm(key, value):
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}
    told = {"mean": [0.5] * 3, "std": [0.5] * 3, key: value}
    with pytest.raises(AtrousError, match=rf"config\.json has {key} = "):
        timm_backbone.adapt(Foreign(state, {"architecture": "resnet18", "pretrained_cfg": told}), {})


def test_timms_arguments_have_names():
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}
    told = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}, "model_args": [1]}
    with pytest.raises(AtrousError, match=r"config\.json has model_args = "):
        timm_backbone.adapt(Foreign(state, told), {})


def of_mmseg(num_classes=3):
    state = seeded.read("mmseg_deeplabv3_r18-d8").state()
    return {key: tensor[:num_classes] if "decode_head.conv_seg." in key else tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"CLASSES": ["a", "b"]}, "in its metadata, CLASSES names 2 classes, but the network separates 3"),
        ({"dataset_meta": {"classes": ("a", "b", "c", "d")}}, "CLASSES names 4 classes, but the network separates 3"),
        ({"CLASSES": ["a", "a", "b"]}, "CLASSES names 'a' twice"),
        ({"CLASSES": ["a", "a ", "b"]}, "CLASSES names 'a' twice"),
        ({"CLASSES": [1, 2, 3]}, "CLASSES is list .*, but must be a list of names"),
        ({"CLASSES": {"a": 1}}, "must be a list of names"),
        ({"CLASSES": "abc"}, "must be a list of names"),
        ({"CLASSES": ["a", "", "b"]}, "CLASSES has the name ''"),
        ({"CLASSES": ["a", "b\x1b", "c"]}, "printable"),
        ({"CLASSES": list("abc"), "PALETTE": [[1, 2, 3]]}, "PALETTE has 1 colour for 3 classes"),
        ({"CLASSES": list("abc"), "PALETTE": [[1, 2, 3]] * 4}, "PALETTE has 4 colours for 3 classes"),
        ({"CLASSES": list("abc"), "PALETTE": [[1, 2]] * 3}, r"PALETTE is .* list of \[red, green, blue\]"),
        ({"CLASSES": list("abc"), "PALETTE": [[1, 2, 256]] * 3}, "PALETTE is"),
        ({"CLASSES": list("abc"), "PALETTE": [[1, 2, 0.5]] * 3}, "PALETTE is"),
        ({"CLASSES": list("abc"), "PALETTE": "red"}, "PALETTE is"),
        ({"PALETTE": [[1, 2, 3]]}, "PALETTE has 1 colour for 3 classes"),
    ],
)
def test_classes_that_cannot_be_the_networks_are_named(meta, message):
    file = {"state_dict": of_mmseg(), "meta": {"config": "", **meta}}
    with pytest.raises(AtrousError, match=f"{message}.*--classes FILE"):
        atrous.convert(file)


def test_classes_of_a_file_count_over_those_of_a_record_that_cannot_be_taken(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [{name: x}, {name: y}, {name: z}]", encoding="utf-8")
    file = {"state_dict": of_mmseg(), "meta": {"CLASSES": ["a", "a"], "PALETTE": 3}}
    assert atrous.convert(file, classes=tmp_path / "classes.yaml").info.classes == ("x", "y", "z")


def test_one_output_with_one_name_has_one_colour_beside_black():
    meta = {"CLASSES": ["crack"], "PALETTE": [[200, 100, 50]]}
    info = atrous.convert({"state_dict": of_mmseg(1), "meta": meta}).info
    assert (info.classes, info.colors) == (("background", "crack"), ((0, 0, 0), (200, 100, 50)))
    numbers = {"CLASSES": ("a", "b", "c"), "PALETTE": [(1.0, 2.0, 3.0)] * 2 + [torch.tensor([4, 5, 6])]}
    assert atrous.convert({"state_dict": of_mmseg(), "meta": numbers}).info.colors[1:] == ((1, 2, 3), (4, 5, 6))


def test_a_mean_beyond_all_numbers_is_named_through_convert(tmp_path):
    text = f"p = [dict(type='Normalize', mean=[{HUGE}, 0, 0], std=[1, 1, 1])]"
    torch.save({"state_dict": of_mmseg(), "meta": {"config": text}}, tmp_path / "m.pth")
    with pytest.raises(AtrousError, match=re.escape("Normalize.mean = list [100000")):
        atrous.convert(tmp_path / "m.pth")


def test_a_given_multi_grid_of_another_kind_is_no_matter_of_shapes():
    state = seeded.hollow("mmseg_deeplabv3_r18-d8")
    with pytest.raises(AtrousError, match="multi_grid must be factors above 0"):
        atrous.convert(from_state_dict(state).state, source="mmseg", multi_grid=3)
