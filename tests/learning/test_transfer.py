from dataclasses import replace

import pytest
import torch

import atrous
from atrous.errors import AtrousError
from atrous.learning.transfer import start_from


def make(seed, **arguments):
    torch.manual_seed(seed)
    return atrous.create_model("deeplabv3plus", **{"backbone": "mobilenetv2_035", "num_classes": 3, **arguments})


def test_the_same_model_is_copied_whole():
    model, source = make(0), make(1)
    said = start_from(model, source)
    assert "fresh" not in said
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


def test_another_number_of_classes_keeps_all_but_the_classifier():
    model, source = make(0, num_classes=7), make(1)
    before = model.classifier.weight.clone()
    assert start_from(model, source).endswith("fresh: classifier.")
    assert torch.equal(model.classifier.weight, before)
    assert torch.equal(model.decoder.reduce[0].weight, source.decoder.reduce[0].weight)


def test_the_input_scaling_comes_along_and_the_rest_of_the_info_stays():
    model, source = make(0), make(1)
    scaling = replace(source.info.preprocessing, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), enlarge=3.0)
    source.info = replace(source.info, preprocessing=scaling, classes=("a", "b", "c"))
    before = model.info
    start_from(model, source)
    assert model.info.preprocessing.mean == (1.0, 2.0, 3.0)
    assert model.info.preprocessing.std == (4.0, 5.0, 6.0)
    assert model.info.preprocessing.enlarge == before.preprocessing.enlarge
    assert model.info.classes == before.classes


def test_nothing_alike_is_refused():
    with pytest.raises(AtrousError, match="nothing of the given model fits"):
        start_from(make(0, backbone="resnet18", aspp_channels=24, low_channels=10), make(1))
