"""Checkpoints of mmsegmentation 1.2.2 give, converted, the logits that its code gave."""

import pytest
import seeded
import torch

import atrous
from atrous.data.class_colors import default_colors
from atrous.data.layouts.ade20k import ADE20K_CLASSES
from atrous.data.layouts.cityscapes import CITYSCAPES_TRAIN_IDS
from atrous.errors import AtrousError
from atrous.models import build
from atrous.models.backbones import Backbone
from atrous.weights import detect_source, mmseg
from atrous.weights.adapter import check_fits
from atrous.weights.read_checkpoint import Foreign

NORMS = {
    "backbone.layer3.0.bn1": "backbone.net.layer3.0.bn1",
    "backbone.layer4.1.bn2": "backbone.net.layer4.1.bn2",
    "decode_head.image_pool.1.bn": "aspp.image_pooling.unit.1",
    "decode_head.bottleneck.bn": "aspp.project.1",
    "auxiliary_head.convs.0.bn": "auxiliary.unit.1",
}
DEEP, PLAIN = {"backbone.stem.4": "backbone.net.conv1.4"}, {"backbone.bn1": "backbone.net.bn1"}
V3 = {"decode_head.aspp_modules.2.bn": "aspp.atrous.1.1"}
V3_PLUS = {
    "decode_head.aspp_modules.2.depthwise_conv.bn": "aspp.atrous.1.1",
    "decode_head.c1_bottleneck.bn": "decoder.reduce.1",
    "decode_head.sep_bottleneck.1.pointwise_conv.bn": "decoder.fuse.1.4",
}


@pytest.mark.parametrize(
    ("name", "given", "norms"),
    [
        ("deeplabv3_r18-d8", {}, DEEP | V3),
        ("deeplabv3_r18-d8_769", {"align_corners": True}, DEEP | V3),
        ("deeplabv3plus_r18b-d8", {}, PLAIN | V3_PLUS),
        ("deeplabv3plus_r50-d8", {}, DEEP | V3_PLUS),
        ("deeplabv3plus_r50-d16-mg124", {"output_stride": 16, "multi_grid": (0.5, 1, 2)}, DEEP | V3_PLUS),
    ],
)
def test_same_logits_and_running_means(name, given, norms):
    golden = seeded.read(f"mmseg_{name}")
    model = atrous.convert(golden.state(), source="mmseg", **given)
    assert model.info.provenance["left_over"] in ((), [])
    seeded.check_eval(golden, model)
    seeded.check_training(golden, model, NORMS | norms)


@pytest.mark.parametrize("name", ["deeplabv3_r101-d8", "deeplabv3plus_r101b-d8"])
def test_resnet101_by_its_shapes(name):
    foreign = Foreign(seeded.hollow(f"mmseg_{name}"))
    assert detect_source.guess(foreign) == "mmseg"
    adapted = mmseg.adapt(foreign, {})
    assert (adapted.arguments["backbone"], adapted.left_over) == ("resnet101", ())
    assert check_fits(adapted, build(adapted.architecture, adapted.arguments).state_dict()) == ()


def adapted(meta, **given):
    return mmseg.adapt(Foreign(seeded.hollow("mmseg_deeplabv3_r18-d8"), {"meta": meta}), given)


#: One tuple on a line, as 0.x writes its configuration, and one over several, as 1.x does.
CONFIGURATION = """
model = dict(
    backbone=dict(strides=(1, 2, 2, 1), multi_grid=(
        1,
        2,
        4,
    )),
    decode_head=dict(align_corners=True))
"""


def test_the_record_tells_the_configuration():
    for key in ("config", "cfg"):
        told = adapted({key: CONFIGURATION}).arguments
        assert (told["output_stride"], told["multi_grid"], told["align_corners"]) == (16, (0.5, 1, 2), True)
        assert adapted({key: CONFIGURATION}, output_stride=8).arguments["output_stride"] == 8
    assert adapted({}).arguments["output_stride"] == adapted(None).arguments["output_stride"] == 8


@pytest.mark.parametrize(
    ("strides", "grid", "expected"),
    [("1, 2, 2, 1", "1, 2, 4", (0.5, 1, 2)), ("1, 2, 1, 1", "1, 2, 4", (0.25, 0.5, 1)), ("1, 2, 1, 1", "2, 2", None)],
)
def test_the_records_multi_grid_is_the_rates_themselves(strides, grid, expected):
    told = mmseg._told(f"backbone=dict(strides=({strides}), multi_grid=({grid}))")
    assert told["multi_grid"] == (expected or (0.5, 0.5))
    backbone = Backbone("resnet50" if expected else "resnet18", **told)
    convs = [module.conv2 for module in backbone.net.get_submodule("layer4")]
    assert ", ".join(str(conv.dilation[0]) for conv in convs) == grid


@pytest.mark.parametrize(("contract", "rule"), [("True", "previous"), ("False", "full")])
def test_the_record_tells_the_dilation_of_a_stages_first_block(contract, rule):
    text = f"backbone=dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation={contract})"
    assert build("deeplabv3", adapted({"cfg": text}).arguments).info.arguments["dilation_rule"] == rule


def test_pictures_of_other_channels():
    state = seeded.hollow("mmseg_deeplabv3_r18-d8")
    state["backbone.stem.0.weight"] = state["backbone.stem.0.weight"][:, :1].expand(-1, 4, -1, -1)
    found = mmseg.adapt(Foreign(state), {})
    assert found.preprocessing is not None
    assert found.arguments["in_channels"] == len(found.preprocessing.mean) == 4


def test_the_record_tells_the_classes():
    names, palette = [f"kind {index}" for index in range(19)], [[index, 2, 3] for index in range(19)]
    for meta in ({"CLASSES": names, "PALETTE": palette}, {"dataset_meta": {"classes": names, "palette": palette}}):
        table = adapted(meta).classes
        assert (table.names[18], table.colors[18], table.raw[18], table.ignore) == (
            "kind 18",
            (18, 2, 3),
            (18,),
            (255,),
        )
    table = adapted({"dataset_meta": {"classes": names, "reduce_zero_label": True}}).classes
    assert (table.raw[0], table.ignore) == ((1,), (0, 255))
    assert table.colors == adapted({"CLASSES": names, "PALETTE": [None]}).classes.colors == default_colors(19)
    assert adapted({"CLASSES": list(CITYSCAPES_TRAIN_IDS.names)}).classes is CITYSCAPES_TRAIN_IDS
    assert adapted({"CLASSES": names[:5]}).classes is CITYSCAPES_TRAIN_IDS  # not as many as the network has
    assert mmseg.CLASSES["ADE20K"] is ADE20K_CLASSES


def test_its_multi_grid_in_its_own_terms_is_refused():
    with pytest.raises(AtrousError, match=r"multi_grid=\(0\.5, 1, 2\)"):
        adapted({}, multi_grid=(1, 2, 4))


@pytest.mark.parametrize(
    ("drop", "message"), [("backbone.layer4.0.conv2", "MobileNetV2"), ("decode_head.conv_seg", "no conv_seg")]
)
def test_other_networks_are_refused(drop, message):
    state = seeded.hollow("mmseg_deeplabv3_r18-d8")
    with pytest.raises(AtrousError, match=message):
        mmseg.adapt(Foreign({key: tensor for key, tensor in state.items() if not key.startswith(drop)}), {})


def record(**head) -> str:
    """A configuration of ResNet-18 at output stride 8, with BGR pictures in 0–255 as version 1.x writes them."""
    words = "".join(f", {name}={value!r}" for name, value in head.items())
    return (
        "norm_cfg = dict(type='SyncBN', requires_grad=True)\n"
        "data_preprocessor = dict(type='SegDataPreProcessor', mean=[0.0, 1.0, 2.0], std=[255.0, 256.0, 257.0], "
        "bgr_to_rgb=False)\n"
        "model = dict(type='EncoderDecoder', data_preprocessor=data_preprocessor, backbone=dict(type='ResNetV1c', "
        "depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True, norm_cfg=norm_cfg), "
        f"decode_head=dict(type='ASPPHead', dilations=(1, 12, 24, 36), norm_cfg=norm_cfg{words}))\n"
        "train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]\n"
    )


def test_the_records_normalisation_and_channel_order_are_taken():
    """BGR by turning the first filters: the logits of RGB pictures are those of the same pictures in BGR."""
    golden = seeded.read("mmseg_deeplabv3_r18-d8")
    state = golden.state()
    plain = atrous.convert(dict(state), source="mmseg")
    model = atrous.convert({"state_dict": dict(state), "meta": {"cfg": record()}})
    assert model.info.preprocessing.mean == (2.0, 1.0, 0.0)
    assert model.info.preprocessing.std == (257.0, 256.0, 255.0)
    images = seeded.noise((64, 64))
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(images.flip(1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("merged", [True, False])
def test_the_normalisation_of_version_0(merged):
    words = "mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True"
    step = f"dict(type='Normalize', {words})" if merged else "dict(type='Normalize', **img_norm_cfg)"
    text = f"img_norm_cfg = dict({words})\ntest_pipeline = [dict(type='MultiScaleFlipAug', transforms=[{step}])]"
    found = adapted({"cfg": text})
    assert (found.preprocessing.mean, found.preprocessing.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    state = seeded.read("mmseg_deeplabv3_r18-d8").state()
    first = mmseg.adapt(Foreign(dict(state), {"meta": {"cfg": text}}), {}).state["backbone.net.conv1.0.weight"]
    assert torch.equal(first, state["backbone.stem.0.weight"])


def of_one_output():
    state = seeded.read("mmseg_deeplabv3_r18-d8").state()
    return {key: tensor[:1] if key.startswith("decode_head.conv_seg.") else tensor for key, tensor in state.items()}


@pytest.mark.parametrize(("head", "threshold"), [({"threshold": 0.7}, 0.7), ({}, 0.3), ({"threshold": 0.5}, 0.5)])
def test_one_output_has_two_names_and_its_threshold_in_the_bias(head, threshold, capsys):
    state = of_one_output()
    meta = {"cfg": record(num_classes=2, out_channels=1, **head), "CLASSES": ["sound", "cracked"]}
    meta["PALETTE"] = [[1, 2, 3], [4, 5, 6]]
    model = atrous.convert({"state_dict": state, "meta": meta})
    assert model.info.classes == ("sound", "cracked")
    assert model.info.colors == ((1, 2, 3), (4, 5, 6))
    shift = model.state_dict()["classifier.bias"] - state["decode_head.conv_seg.bias"]
    assert torch.sigmoid(-shift).item() == pytest.approx(threshold)
    said = " ".join(capsys.readouterr().out.split())
    assert (f"threshold {threshold} is in the bias" in said) == (threshold != 0.5)


def test_one_output_without_a_record_says_what_is_not_told(capsys):
    assert len(atrous.convert(of_one_output()).info.classes) == 2
    assert "threshold of its single output. atrous uses 0.5; mmsegmentation uses 0.3" in " ".join(
        capsys.readouterr().out.split()
    )
    one = {"dataset_meta": {"classes": ("crack",)}}
    model = atrous.convert({"state_dict": of_one_output(), "meta": one})
    assert model.info.classes == ("background", "crack")


def test_the_record_tells_rates_norms_style_and_more():
    text = record(dropout_ratio=0.25, ignore_index=200).replace("36)", "48)").replace("type='SyncBN'", "eps=1e-3")
    told = adapted({"cfg": text, "CLASSES": [f"kind {index}" for index in range(19)]})
    assert told.arguments["atrous_rates"] == (6, 12, 24)
    assert told.arguments["norm"] == told.arguments["backbone_arguments"]["norm"] == (1e-3, 0.1)
    assert (told.arguments["dropout"], told.classes.ignore, told.untold) == (0.25, (200,), ())
    assert build("deeplabv3", told.arguments).info.arguments["atrous_rates"] == (6, 12, 24)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depth=18", "depth=50", "backbone.depth = 50.*weights have 18"),
        ("num_classes=19", "num_classes=20", "decode_head.num_classes = 20.*weights have 19"),
        ("(1, 12, 24, 36)", "(1, 12, 24)", "decode_head.dilations = 3.*weights have 4"),
        ("(1, 12, 24, 36)", "(2, 12, 24, 36)", "first branch of our models has rate 1"),
        ("ResNetV1c", "ResNetV1d", "backbone.type = ResNetV1d"),
        ("dilations=(1, 1, 2, 4)", "dilations=(1, 1, 1, 1)", "backbone.dilations"),
        ("std=[255.0, 256.0, 257.0]", "std=[255.0]", "std = .*it must be a list of 3 numbers"),
        ("std=[255.0, 256.0, 257.0]", "std=[255.0, 0.0, 1.0]", "std must be positive"),
        (
            "dict(type='PackSegInputs')",
            "dict(type='Normalize', mean=[1, 2, 3], std=[1, 1, 1])",
            "contradict each other",
        ),
        ("depth=18", "depth=18, dcn=dict(type='DCN')", "backbone.dcn"),
        ("num_classes=19", "num_classes=19, act_cfg=dict(type='GELU')", "act_cfg"),
    ],
)
def test_what_a_record_contradicts_or_cannot_be_here_is_refused(old, new, message):
    text = record(num_classes=19)
    assert old in text
    with pytest.raises(AtrousError, match=message):
        adapted({"cfg": text.replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("depth=18", "depth=a39"),
        ("num_classes=19", "num_classes=a39"),
        ("std=[255.0, 256.0, 257.0]", "std=a39"),
        ("std=[255.0, 256.0, 257.0]", "std=[a39, a39, a39]"),
        ("std=[255.0, 256.0, 257.0]", f"std=[1{'0' * 400}, 1, 1]"),
    ],
)
def test_a_record_that_would_be_endless_when_written_out_is_refused_in_a_line(old, new):
    lists = "a0 = [1, 1]\n" + "".join(f"a{i} = [a{i - 1}, a{i - 1}]\n" for i in range(1, 40))
    text = record(num_classes=19)
    assert old in text
    state = {"cfg": lists + text.replace(old, new)}
    with pytest.raises((AtrousError, OverflowError)) as raised:
        adapted(state)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("text", ["a = (", "x = " + "[" * 5000, "model = 3", "data_preprocessor = f()", "\0"])
def test_a_record_that_is_no_configuration_tells_nothing(text):
    assert adapted({"cfg": text}).arguments == adapted({}).arguments
