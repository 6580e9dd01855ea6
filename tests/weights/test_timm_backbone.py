"""A classification network's weights give the backbone its features; the head is fresh."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import atrous
from atrous.errors import AtrousError
from atrous.weights.read_checkpoint import from_state_dict
from atrous.weights.timm_backbone import recognises


def network(name: str) -> torch.nn.Module:
    """With the statistics that it measures on noise, so that the last features are of order one."""
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=10)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the average of all batches, of which there is one
    with torch.no_grad():
        net.train()(torch.randn(2, 3, 64, 64))
    return net.eval()


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", ["fc.weight", "fc.bias"]),
        ("mobilenetv2_035", ["conv_head.weight", "classifier.bias"]),
        ("regnetx_002", ["head.fc.weight", "head.fc.bias"]),
        ("convnext_atto", ["head.norm.weight", "head.fc.bias"]),  # stages are flattened
    ],
)
def test_the_features_are_the_networks(name, left):
    net = network(name)
    state = net.state_dict()
    assert recognises(from_state_dict(state))
    model = atrous.convert(state, source="timm-backbone", backbone=name, output_stride=32, num_classes=4)
    provenance = model.info.provenance
    assert set(left) <= set(provenance["left_over"])
    assert all(key.split(".")[0] in ("fc", "head", "conv_head", "bn2", "classifier") for key in provenance["left_over"])
    assert {key.split(".")[0] for key in provenance["fresh"]} == {"aspp", "decoder", "classifier"}
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = net.forward_intermediates(images, intermediates_only=True, norm=False)[-1]
        features = model.backbone(images).high
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert model.info.architecture == "deeplabv3plus"
    assert len(model.info.classes) == 4


def test_another_architecture_and_number_of_channels():
    net = network("resnet18")
    model = atrous.convert(
        net.state_dict(), source="timm-backbone", backbone="resnet18", architecture="deeplabv3", in_channels=1
    )
    assert model.info.architecture == "deeplabv3"
    # a grey picture as three equal channels gave the same features there
    torch.testing.assert_close(
        model.backbone.net.conv1.weight, net.get_parameter("conv1.weight").sum(1, keepdim=True), atol=1e-5, rtol=1e-5
    )
    assert len(model.info.preprocessing.mean) == 1


def test_the_backbone_must_be_named():
    with pytest.raises(AtrousError, match="give its name in timm with backbone="):
        atrous.convert(network("resnet18").state_dict(), source="timm-backbone")


@pytest.mark.slow
def test_another_backbones_weights_are_refused():
    with pytest.raises(AtrousError, match=r"lacks .* weights of deeplabv3plus over resnet34"):
        atrous.convert(network("resnet18").state_dict(), source="timm-backbone", backbone="resnet34")
    with pytest.raises(AtrousError, match="differs in shape"):
        atrous.convert(network("mobilenetv2_035").state_dict(), source="timm-backbone", backbone="mobilenetv2_050")


def test_a_segmentation_model_is_none():
    model = atrous.create_model("deeplabv3plus", backbone="resnet18", num_classes=2)
    assert not recognises(from_state_dict(model.state_dict()))


def folder_of(folder, name: str, in_chans: int = 3, older: bool = False, **changes) -> dict:
    """A folder as timm pushes it to the hub, with weights of its own kind."""
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=7, in_chans=in_chans)
    seen = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [in_chans, 160, 192], "num_classes": 7}
    config = {"architecture": name, "num_classes": 7, "num_features": net.num_features}
    config |= (seen if older else {"pretrained_cfg": {"tag": "x", **seen}}) | changes
    if in_chans != 3:
        config["model_args"] = {"in_chans": in_chans}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), folder / "model.safetensors")
    return net.state_dict()


@pytest.mark.parametrize("older", [False, True])
def test_a_folder_of_timm_tells_its_backbone_and_its_pictures(tmp_path, capsys, older):
    state = folder_of(tmp_path, "resnet18", older=older)
    model = atrous.convert(tmp_path, num_classes=2)
    assert model.info.arguments["backbone"] == "resnet18"
    assert torch.equal(model.backbone.net.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert model.info.preprocessing.mean == pytest.approx((25.5, 51, 76.5))
    assert model.info.preprocessing.std == pytest.approx((102, 127.5, 153))
    said = " ".join(capsys.readouterr().out.split())
    assert "image classifier resnet18 for pictures of 192×160 px" in said
    assert "its classifier of 7 classes is left over" in said


def test_a_folder_wrapped_by_transformers_is_read_too(tmp_path):
    state = folder_of(tmp_path, "mobilenetv2_035", model_type="timm_wrapper")
    save_file({f"timm_model.{key}": tensor for key, tensor in state.items()}, tmp_path / "model.safetensors")
    assert atrous.convert(tmp_path, num_classes=2).info.arguments["backbone"] == "mobilenetv2_035"


def test_a_folder_for_grey_pictures_becomes_a_model_of_grey_pictures(tmp_path):
    folder_of(tmp_path, "resnet18", in_chans=1)
    model = atrous.convert(tmp_path, num_classes=2)
    assert model.info.arguments["in_channels"] == 1
    assert model.info.preprocessing.mean == pytest.approx((51,))


def test_vgg16_is_thinned_as_from_elsewhere(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "vgg16", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    net = timm.create_model("vgg16", num_classes=2)
    save_file(
        {key: tensor for key, tensor in net.state_dict().items() if "pre_logits" not in key},
        tmp_path / "model.safetensors",
    )
    assert atrous.convert(tmp_path, num_classes=2).info.arguments["backbone"] == "vgg16"


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224"])
def test_a_network_that_cannot_segment_is_named_with_what_to_do(tmp_path, name):
    folder_of(tmp_path, name)
    with pytest.raises(AtrousError, match=rf"holds timm's image classifier '{name}', which does not.*such as resnet50"):
        atrous.convert(tmp_path)


def test_a_folder_whose_weights_are_of_another_network_is_refused(tmp_path):
    folder_of(tmp_path, "resnet18", architecture="resnet34")
    with pytest.raises(AtrousError, match=r"lacks .* weights of deeplabv3plus over resnet34"):
        atrous.convert(tmp_path)
    folder_of(tmp_path, "resnet18", architecture="resnet_of_next_year")
    with pytest.raises(AtrousError, match=r"resnet_of_next_year.*name one"):
        atrous.convert(tmp_path)
    assert atrous.convert(tmp_path, backbone="resnet18", num_classes=2).info.arguments["backbone"] == "resnet18"
    folder_of(tmp_path, "resnet18", pretrained_cfg={"mean": "grey", "std": [1, 1, 1]})
    with pytest.raises(AtrousError, match=r"config\.json has mean = 'grey'"):
        atrous.convert(tmp_path)


def test_a_folder_given_for_a_model_or_a_backbone_leads_to_convert(tmp_path):
    folder_of(tmp_path, "resnet18")
    with pytest.raises(AtrousError, match=r"atrous convert .* --out model\.safetensors"):
        atrous.load(tmp_path)
    for given in (str(tmp_path), str(tmp_path / "model.safetensors"), "hf-hub:timm/resnet18.a1_in1k"):
        with pytest.raises(AtrousError, match=r"name of a network.*atrous\.convert"):
            atrous.create_model("deeplabv3plus", backbone=given)
