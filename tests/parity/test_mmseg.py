"""Checkpoints of mmsegmentation 1.2.2 give, converted, the logits that its code gave."""

import pytest
import seeded

import atrous
from atrous.data.ade20k import ADE20K_CLASSES
from atrous.data.cityscapes import CITYSCAPES_TRAIN_IDS
from atrous.data.labels import default_colors
from atrous.errors import AtrousError
from atrous.models import build
from atrous.models.backbones import Backbone
from atrous.weights import mmseg, sources
from atrous.weights.adapted import check_fits
from atrous.weights.foreign import Foreign

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
    assert sources.guess(foreign) == "mmseg"
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
