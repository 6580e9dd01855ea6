"""`atrous convert`: from a foreign file to a model file that predicts, and what it says on the way."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import atrous
from atrous.cli import main
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.learning.checkpoint import save_checkpoint

torchvision = pytest.importorskip("torchvision")


@cache
def mobilenet(num_classes: int = 21, aux: bool = False) -> torch.nn.Module:
    """torchvision's smallest DeepLabV3."""
    torch.manual_seed(0)
    build = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    return build(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=aux).eval()


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save({"model": mobilenet().state_dict(), "epoch": 3}, path)
    return path


@pytest.mark.slow
def test_the_command_writes_a_model_that_predicts_the_same(checkpoint, tmp_path, capsys):
    out = tmp_path / "models" / "model.safetensors"
    assert main(["convert", str(checkpoint), "--source", "torchvision", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "deeplabv3 over mobilenetv3_large_100, from torchvision: 21 classes (background … tvmonitor), 11.0 M" in said
    assert "nothing unused." in said
    assert f"written: {out}. Next: atrous predict {out} PICTURES" in said
    model = atrous.load(out)
    assert model.info.classes == VOC_CLASSES.names
    assert model.info.colors == VOC_CLASSES.colors
    assert model.info.provenance == {"source": "torchvision", "file": "foreign.pth", "left_over": [], "fresh": []}
    images = torch.randn(1, 3, 33, 65)
    with torch.no_grad():
        torch.testing.assert_close(model(images), mobilenet()(images)["out"], atol=1e-4, rtol=0)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(picture)
    assert main(["predict", str(out), str(picture), "--out", str(tmp_path / "masks")]) == 0
    assert np.asarray(Image.open(tmp_path / "masks" / "picture.png")).shape == (40, 50)


def test_without_out_nothing_is_written_and_the_source_is_guessed(checkpoint, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert main(["convert", str(checkpoint)]) == 0
    assert "from torchvision" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_a_state_dict_in_memory_becomes_a_model_ready_to_use():
    state = mobilenet(aux=True).state_dict()
    model = atrous.convert(state, source="torchvision")
    assert not model.training
    assert model.info.provenance["file"] == ""
    assert "aux_classifier.4.bias" in model.info.provenance["left_over"]
    assert atrous.Segmenter(model)(np.zeros((20, 30, 3), np.uint8)).mask.shape == (20, 30)


def test_what_is_left_over_is_said(tmp_path, capsys):
    save_file(mobilenet(aux=True).state_dict(), tmp_path / "foreign.safetensors")
    assert main(["convert", str(tmp_path / "foreign.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "unused: aux_classifier.0.weight, aux_classifier.1.bias, aux_classifier.1.run" in said
    assert "and 3 more." in said


def test_what_stays_fresh_is_said_with_what_to_do_about_it(tmp_path, capsys):
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    report, out = tmp_path / "report.json", tmp_path / "model.safetensors"
    words = ["--backbone", "resnet18", "--num-classes", "4", "--out", str(out), "--json", str(report)]
    assert main(["convert", str(tmp_path / "resnet18.pth"), *words]) == 0
    said = capsys.readouterr().out
    assert "unused: fc.weight, fc.bias; random weights: aspp, classifier, decoder." in said
    assert f"Next: atrous train RECIPE --init {out}" in said
    written = json.loads(report.read_text())
    assert written["source"] == "timm-backbone"
    assert written["left_over"] == ["fc.weight", "fc.bias"]
    assert "classifier.weight" in written["fresh"]
    assert written["out"] == str(out)
    assert written["classes"] == ["class 0", "class 1", "class 2", "class 3"]
    assert written["parameters"] == sum(parameter.numel() for parameter in atrous.load(out).parameters())
    assert atrous.load(out).info.provenance["fresh"] == written["fresh"]


def test_classes_from_a_file(tmp_path):
    table = ClassTable(("sky", "sea"), ((0, 0, 255), (0, 99, 99)), ((7,), (8, 9)), (0,))
    table.to_yaml(tmp_path / "classes.yaml")
    for outputs in (2, 1):
        info = atrous.convert(mobilenet(outputs).state_dict(), classes=tmp_path / "classes.yaml").info
        assert info.table == table
    with pytest.raises(AtrousError, match="the class table has 2 classes, but the model has 21"):
        atrous.convert(mobilenet().state_dict(), classes=tmp_path / "classes.yaml")


def test_other_than_21_outputs_get_placeholder_names():
    assert atrous.convert(mobilenet(2).state_dict()).info.classes == ("class 0", "class 1")


def test_overrides_reach_the_model():
    model = atrous.convert(mobilenet().state_dict(), output_stride=8, dropout=0.25)
    assert model.info.arguments["output_stride"] == 8
    assert model.info.arguments["dropout"] == 0.25
    with torch.no_grad():
        assert model.scores(torch.zeros(1, 3, 64, 64))["main"].shape[-2:] == (8, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "torchvison"], "unknown source 'torchvison'. Did you mean 'torchvision'?"),
        (["--architecture", "deeplabv2"], "is a deeplabv3; it cannot become a deeplabv2"),
        (["--num-classes", "3"], "foreign.pth has 21 outputs, not 3"),
        (
            ["--backbone", "mobilenetv2_100"],
            "is given as 'mobilenetv2_100', and foreign.pth has 'mobilenetv3_large_100'",
        ),
        (["--output-stride", "12"], "output_stride must be 8, 16 or 32, got 12"),
        (["--sorce", "smp"], "unknown flag '--sorce'. Did you mean '--source'?"),
        (["--out", "model.pth"], "the name of a model file must end in .safetensors"),
        (["--source", "kazuto1011"], "foreign.pth is not from kazuto1011: its keys are those of torchvision"),
        (["--source", "huggingface"], "foreign.pth is not from huggingface: its keys are those of torchvision"),
        (["--source", "tensorflow"], "foreign.pth is not from tensorflow: its keys are those of torchvision"),
        (["--source", "vainf"], "foreign.pth is not from vainf: its keys are those of torchvision"),
        (["--source", "mmseg"], "foreign.pth is not from mmseg: its keys are those of torchvision"),
        (["--source", "smp"], "foreign.pth is not from smp: its keys are those of torchvision"),
        (["--source", "vgg16"], "foreign.pth is not from vgg16: its keys are those of torchvision"),
        (["--classes", "absent.yaml"], "absent.yaml: no such file"),
    ],
    ids=" ".join,
)
def test_wrong_words(checkpoint, words, message, capsys):
    assert main(["convert", str(checkpoint), *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("atrous: ")
    assert message in said.err


def test_unknown_arguments_are_refused_with_the_nearest():
    with pytest.raises(AtrousError, match="Did you mean 'dropout'"):
        atrous.convert(mobilenet().state_dict(), dropuot=0.1)


def test_an_incomplete_state_dict_is_refused():
    state = mobilenet().state_dict()
    for missing in ("backbone.3.block.1.0.weight", "classifier.4.bias"):
        partial = {key: tensor for key, tensor in state.items() if key != missing}
        with pytest.raises(AtrousError, match="the file lacks 1 weights of deeplabv3 over mobilenetv3_large_100"):
            atrous.convert(partial)
    with pytest.raises(
        AtrousError,
        match=r"is not a DeepLab model of torchvision, or is incomplete: it lacks 'backbone\.conv1\.weight'",
    ):
        atrous.convert({key: state[key] for key in state if key != "backbone.0.0.weight"}, source="torchvision")


@pytest.mark.needs("links")
def test_inputs_are_never_overwritten(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file(mobilenet().state_dict(), path)
    before = path.read_bytes()
    with pytest.raises(AtrousError, match="the file to convert; give another name"):
        atrous.convert(path, out=path)
    (tmp_path / "link.safetensors").symlink_to(path)
    with pytest.raises(AtrousError, match="the file to convert; give another name"):
        atrous.convert(path, out=tmp_path / "link.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(1)}, other)
    with pytest.raises(AtrousError, match="exists and is not a model file of atrous"):
        atrous.convert(path, out=other)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(AtrousError, match="exists and is a folder, not a model file of atrous"):
        atrous.convert(path, out=tmp_path / "folder.safetensors")
    assert path.read_bytes() == before


def test_a_folders_own_weights_are_inputs_too(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(AtrousError, match="the file to convert; give another name"):
        atrous.convert(tmp_path, out=tmp_path / "model.safetensors")


@pytest.mark.slow
def test_a_model_file_of_ours_may_be_written_anew_but_not_converted(checkpoint, tmp_path):
    out = tmp_path / "model.safetensors"
    atrous.convert(checkpoint, out=out)
    atrous.convert(checkpoint, out=out, output_stride=8)
    assert atrous.load(out).info.arguments["output_stride"] == 8
    with pytest.raises(AtrousError, match="is already a model file of atrous"):
        atrous.convert(out)


def test_a_training_checkpoint_of_ours_is_told_apart(tmp_path):
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(tmp_path / "last.safetensors", model=model, optimizer=optimizer, progress={})
    with pytest.raises(AtrousError, match=r"is a training checkpoint of atrous.*best\.safetensors"):
        atrous.convert(tmp_path / "last.safetensors")
    with pytest.raises(AtrousError, match=r"has atrous's own keys.*atrous\.save"):
        atrous.convert(model.state_dict())


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"PK\x03\x04", b"\x80\x02cos\nsystem\n(X\x04\0\0\0true\x85R.", b"text"]
)
def test_what_is_no_checkpoint_is_a_sentence_and_exit_code_2(tmp_path, content, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert main(["convert", str(path), "--out", str(tmp_path / "model.safetensors")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"atrous: {path} ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "model.safetensors").exists()
