"""What a conversion takes for granted is told, and no more than that."""

from __future__ import annotations

import json

import pytest
import torch

import atrous
from atrous.data.mask_value_map import ClassTable
from atrous.weights import huggingface, kazuto1011, mmseg, tensorflow, vainf
from atrous.weights.adapter import by_number
from atrous.weights.read_checkpoint import Foreign

torchvision = pytest.importorskip("torchvision")


@pytest.fixture
def notes(tmp_path):
    """The notes of a conversion, from its report."""

    def of(state, **given) -> list[str]:
        atrous.convert(state, json=tmp_path / "report.json", **given)
        return json.loads((tmp_path / "report.json").read_text())["notes"]

    return of


def mobilenet(num_classes: int) -> dict[str, torch.Tensor]:
    build = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    return build(weights=None, weights_backbone=None, num_classes=num_classes).state_dict()


def smp_state(kind: str) -> dict[str, torch.Tensor]:
    smp = pytest.importorskip("segmentation_models_pytorch")
    return getattr(smp, kind)("resnet18", encoder_weights=None, classes=1).state_dict()


@pytest.mark.slow
def test_classes_that_only_their_number_tells(notes, tmp_path):
    state = mobilenet(21)
    assert notes(state) == [
        "The class names are assumed to be those of Pascal VOC, which has the same number of classes; "
        "--classes FILE gives other names."
    ]
    names = tuple(f"kind {index}" for index in range(21))
    table = ClassTable(names, tuple((index, 0, 0) for index in range(21)), tuple((index,) for index in range(21)))
    table.to_yaml(tmp_path / "classes.yaml")
    assert notes(state, classes=tmp_path / "classes.yaml") == []
    assert notes(mobilenet(3)) == ["The file does not name its classes; give a classes.yaml with --classes FILE."]


def test_what_the_user_names_is_no_longer_taken_for_granted(notes):
    state, unnamed = (
        smp_state("DeepLabV3Plus"),
        "The file does not name its classes; give a classes.yaml with --classes FILE.",
    )
    told = (
        "Arguments that the file does not store have the usual values of smp: {}. Give the true values if they differ."
    )
    assert notes(state) == [told.format("output_stride 16, atrous_rates (12, 24, 36)"), unnamed]
    assert notes(state, output_stride=8)[0] == told.format("atrous_rates (6, 12, 18)")
    assert notes(state, output_stride=16, atrous_rates=(2, 4, 6)) == [unnamed]


def test_a_backbone_alone_takes_nothing_for_granted(notes, capsys):
    state = torchvision.models.resnet18().state_dict()
    assert notes(state, backbone="resnet18", num_classes=21) == []
    assert len(capsys.readouterr().out.splitlines()) == 2  # what it became, and where the report is


def test_notes_are_said(capsys):
    atrous.convert(mobilenet(21))
    assert capsys.readouterr().out.splitlines()[1].startswith("The class names are assumed to be those of Pascal VOC")


@pytest.mark.parametrize(
    ("count", "known", "name"),
    [
        (21, vainf.CLASSES, "Pascal VOC"),
        (19, mmseg.CLASSES, "Cityscapes"),
        (150, mmseg.CLASSES, "ADE20K"),
        (171, mmseg.CLASSES, "COCO-Stuff"),
        (182, kazuto1011.CLASSES, "COCO-Stuff"),
    ],
)
def test_data_sets_by_their_number_of_classes(count, known, name):
    found = by_number(count, known)
    assert (len(found["classes"]), found["classes_of"]) == (count, name)
    assert by_number(7, known) == {}


def test_classes_that_the_file_names_are_not_guessed():
    cityscapes = {"CLASSES": list(mmseg.CLASSES["Cityscapes"].names)}
    assert mmseg._classes(cityscapes, 19) == {"classes": mmseg.CLASSES["Cityscapes"]}
    assert mmseg._classes({}, 19)["classes_of"] == "Cityscapes"


def test_mmsegmentations_ade20k_is_known_in_spite_of_its_spelling():
    spelt = {"bed": "bed ", "television": "television receiver"}  # mmseg/datasets/ade.py
    theirs = [spelt.get(name, name) for name in mmseg.CLASSES["ADE20K"].names]
    assert mmseg._classes({"CLASSES": theirs}, 150) == {"classes": mmseg.CLASSES["ADE20K"]}


def test_a_tflite_file_says_for_what_it_was_made():
    """Of a window of its own size, and with its activations rounded."""
    size, rounding = tensorflow._notes({"input_size": (257, 513), "quantised": True})
    assert "513×257 px" in size
    assert "8-bit" in rounding
    assert tensorflow._notes({"input_size": (257, 257), "quantised": False})[1:] == ()
    assert tensorflow._notes({}) == ()


def test_a_configuration_leaves_nothing_untold():
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, output_stride=16)
    with torch.device("meta"):
        state = transformers.MobileNetV2ForSemanticSegmentation(config).state_dict()
    assert huggingface.adapt(Foreign(state, config.to_dict()), {}).untold == ()
    assert huggingface.adapt(Foreign(state), {}).untold == ("output_stride",)
