"""What smp's save_pretrained writes beside the weights is taken argument by argument, or refused by its name."""

from __future__ import annotations

import json

import pytest
import seeded
import torch
from torch import nn

import atrous
from atrous.errors import AtrousError
from atrous.weights import read_checkpoint
from atrous.weights import smp as adapter

smp = pytest.importorskip("segmentation_models_pytorch")


def saved(folder, kind: str = "DeepLabV3Plus", encoder: str = "tu-mobilenetv2_050", **arguments) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(smp, kind)(encoder, encoder_weights=None, **{"classes": 3, **arguments}).eval()
    model.save_pretrained(folder)
    return model


def main_answer(model: nn.Module):
    def answer(images):
        found = model(images)
        return 40 * (found[0] if isinstance(found, tuple) else found)  # of order one

    return answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "encoder", "arguments"),
    [
        ("DeepLabV3Plus", "mobilenet_v2", {"encoder_output_stride": 8}),
        ("DeepLabV3Plus", "tu-mobilenetv2_050", {"decoder_atrous_rates": (3, 5, 7)}),
        ("DeepLabV3", "tu-mobilenetv2_050", {"decoder_atrous_rates": (1, 3, 5), "encoder_output_stride": 8}),
        ("DeepLabV3", "tu-mobilenetv2_050", {"decoder_atrous_rates": (2, 4, 6), "encoder_output_stride": 16}),
        ("DeepLabV3Plus", "tu-tf_efficientnet_lite0", {"decoder_channels": 64, "decoder_aspp_dropout": 0.2}),
        ("DeepLabV3", "tu-mobilenetv2_050", {"decoder_aspp_separable": True, "aux_params": {"classes": 4}}),
        ("DeepLabV3Plus", "tu-mobilenetv2_050", {"in_channels": 4, "classes": 1, "drop_path_rate": 0.1}),
    ],
)
def test_every_argument_is_taken(tmp_path, kind, encoder, arguments, capsys):
    theirs = saved(tmp_path, kind, encoder, **arguments)
    ours = atrous.convert(tmp_path)
    channels = arguments.get("in_channels", 3)
    images = seeded.noise((64, 96), channels=channels)
    with torch.no_grad():
        expected = main_answer(theirs)(images)
        assert expected.std() > 0.1
        torch.testing.assert_close(40 * ours(images), expected, atol=1e-4, rtol=0)
    assert ours.info.arguments["dropout"] == arguments.get("decoder_aspp_dropout", 0.5)
    assert "does not store" not in capsys.readouterr().out


def test_the_file_in_the_folder_has_the_folders_configuration(tmp_path):
    saved(tmp_path, encoder_output_stride=8)
    assert atrous.convert(tmp_path / "model.safetensors").info.arguments["output_stride"] == 8


def test_the_user_may_run_it_at_another_stride(tmp_path):
    saved(tmp_path, encoder_output_stride=8, decoder_atrous_rates=(6, 12, 18))
    arguments = atrous.convert(tmp_path, output_stride=16).info.arguments
    assert (arguments["output_stride"], arguments["atrous_rates"]) == (16, (3, 6, 9))


@pytest.fixture
def altered(tmp_path):
    """Converts a folder whose configuration was changed."""
    with torch.device("meta"):
        model = smp.DeepLabV3Plus("tu-mobilenetv2_050", encoder_weights=None, classes=3)
    state = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in model.state_dict().items()}

    def adapt(changes):
        config = {**model.config, "_model_class": "DeepLabV3Plus", **changes}
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return adapter.adapt(read_checkpoint.Foreign(state, read_checkpoint._read_config(tmp_path)), {})

    return adapt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_model_class": "DeepLabV3"}, "_model_class = DeepLabV3.*deeplabv3plus"),
        ({"_model_class": "Unet"}, "_model_class = Unet"),
        ({"encoder_name": "resnet18"}, "encoder_name = resnet18, which is smp's own.*timm"),
        ({"encoder_name": "tu-mobilenetv2_100"}, "mobilenetv2_100"),
        ({"encoder_name": 3}, "encoder_name = 3"),
        ({"encoder_depth": 4}, "encoder_depth = 4"),
        ({"encoder_output_stride": 32}, "encoder_output_stride = 32"),
        ({"encoder_output_stride": "8"}, "encoder_output_stride = 8"),
        ({"decoder_atrous_rates": [6, 12]}, "decoder_atrous_rates"),
        ({"decoder_atrous_rates": [0, 6, 12]}, "decoder_atrous_rates"),
        ({"decoder_atrous_rates": 6}, "decoder_atrous_rates"),
        ({"decoder_channels": 128}, "decoder_channels = 128.*weights have 256"),
        ({"decoder_aspp_separable": False}, "decoder_aspp_separable = False.*weights have True"),
        ({"in_channels": 1}, "in_channels = 1.*weights have 3"),
        ({"classes": 2}, "classes = 2.*weights have 3"),
        ({"activation": "tanh"}, "activation = tanh"),
        ({"activation": "sigmoid"}, "activation = sigmoid"),
        ({"upsampling": 2}, "upsampling = 2"),
        ({"drop_path_rate": 2}, "drop_path_rate = 2"),
        ({"decoder_attention_type": "scse"}, "decoder_attention_type = scse"),
    ],
)
def test_what_contradicts_the_weights_or_cannot_be_is_refused_by_name(altered, changes, message):
    with pytest.raises(AtrousError, match=message):
        altered(changes)


@pytest.mark.parametrize("changes", [{}, {"activation": "softmax2d"}, {"activation": "logsoftmax"}, {"new": None}])
def test_what_changes_no_mask_is_taken(altered, changes):
    assert altered(changes).untold == ()


def test_weights_trained_on_other_values_are_fed_as_they_were(tmp_path):
    saved(tmp_path, encoder="efficientnet-b0")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "encoder_weights": "advprop"}), encoding="utf-8")
    assert atrous.convert(tmp_path).info.preprocessing.mean == (127.5,) * 3


def test_a_lightning_checkpoints_arguments_are_taken(capsys):
    model = smp.DeepLabV3Plus("tu-mobilenetv2_050", encoder_weights=None, encoder_output_stride=8)
    state = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    arguments = {"arch": "DeepLabV3Plus", "lr": 0.1, "encoder_output_stride": 8, "decoder_atrous_rates": (6, 12, 18)}
    found = atrous.convert({"state_dict": state, "hyper_parameters": arguments}).info.arguments
    assert (found["output_stride"], found["atrous_rates"]) == (8, (3, 6, 9))
