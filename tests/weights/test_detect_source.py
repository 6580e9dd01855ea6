"""The source of a checkpoint is guessed from its keys, or asked for."""

from __future__ import annotations

import pytest
import timm
import torch

from atrous.errors import AtrousError
from atrous.weights.detect_source import SOURCES, adapter_of, guess
from atrous.weights.read_checkpoint import Foreign, from_state_dict


def test_every_source_has_an_adapter():
    assert set(SOURCES) == {
        "torchvision",
        "smp",
        "huggingface",
        "tensorflow",
        "mmseg",
        "vainf",
        "kazuto1011",
        "timm-backbone",
        "vgg16",
    }
    for source in SOURCES:
        module = adapter_of(source)
        assert callable(module.recognises)
        assert callable(module.adapt)


def torchvision_state():
    models = pytest.importorskip("torchvision").models.segmentation
    return models.deeplabv3_resnet50(weights=None, weights_backbone=None).state_dict()


def mobilenet_state():
    models = pytest.importorskip("torchvision").models.segmentation
    return models.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, aux_loss=True).state_dict()


def vgg_state():
    return pytest.importorskip("torchvision").models.vgg16().state_dict()


def resnet_state():
    return pytest.importorskip("torchvision").models.resnet18().state_dict()


def smp_state(model, encoder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    return lambda: getattr(smp, model)(encoder, encoder_weights=None).state_dict()


def huggingface_state():
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=3)
    return transformers.MobileNetV2ForSemanticSegmentation(config).state_dict()


KNOWN = [
    ("torchvision", torchvision_state),
    ("torchvision", mobilenet_state),
    ("vgg16", vgg_state),
    ("timm-backbone", resnet_state),
    ("timm-backbone", lambda: timm.create_model("mobilenetv2_035").state_dict()),
    ("timm-backbone", lambda: timm.create_model("regnetx_002").state_dict()),
    ("timm-backbone", lambda: timm.create_model("xception41").state_dict()),
    ("smp", smp_state("DeepLabV3Plus", "resnet18")),
    ("smp", smp_state("DeepLabV3", "tu-resnet18")),
    ("smp", smp_state("DeepLabV3Plus", "tu-mobilenetv2_050")),
    ("smp", smp_state("DeepLabV3Plus", "mobilenet_v2")),
    ("huggingface", huggingface_state),
]


@pytest.mark.parametrize(("source", "make"), KNOWN)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_source_is_guessed(source, make, wrapped):
    """By exactly one adapter; names and shapes are enough."""
    with torch.device("meta"):
        state = make()
    if wrapped:
        state = {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}
    assert guess(from_state_dict(state)) == source


@pytest.mark.parametrize("package", ["smp", "other segmenters"])
def test_another_segmenter_is_nobodys(package):
    with torch.device("meta"):
        if package == "smp":
            state = smp_state("Unet", "resnet18")()
        else:
            models = pytest.importorskip("torchvision").models.segmentation
            state = models.fcn_resnet50(weights=None, weights_backbone=None).state_dict()
    with pytest.raises(
        AtrousError, match=r"no source recognises the state dict \(keys .*FCN.*one of: torchvision, smp"
    ):
        guess(from_state_dict(state))


def test_nobodys_keys_are_named_with_what_is_possible():
    with pytest.raises(AtrousError, match=r"no source recognises odd\.pth \(keys foo\.weight …\).*--source.*vgg16"):
        guess(Foreign({"foo.weight": torch.ones(1)}, name="odd.pth"))


def test_keys_of_two_sources_are_named_with_both():
    with torch.device("meta"):
        state = {**torchvision_state(), **vgg_state()}
    with pytest.raises(AtrousError, match=r"may be from torchvision or vgg16: name one with source \(--source\)"):
        guess(from_state_dict(state))


def test_a_misspelt_source_gets_the_nearest():
    with pytest.raises(AtrousError, match=r"unknown source 'torchvison'\. Did you mean 'torchvision'\?"):
        adapter_of("torchvison")
