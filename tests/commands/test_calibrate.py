import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import create_model, model_file
from atrous.cli import main
from atrous.commands import calibrate as command
from atrous.commands.calibrate import calibrate, drawn_pixels
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.models.layers import resize


@pytest.fixture(scope="module")
def calibrated(model, shapes, tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("calibrated")
    out, chart = folder / "model.safetensors", folder / "sub" / "diagram.png"
    return calibrate(model, shapes, split="test", out=out, chart=chart, json=folder / "scores.json"), folder


def test_the_fitted_temperature_is_in_the_file_and_nothing_else_changes(calibrated, model):
    results, folder = calibrated
    written, given = model_file.load(folder / "model.safetensors"), model_file.load(model)
    assert written.info.temperature == results["fitted"]["temperature"] != 1.0
    assert replace(written.info, temperature=1.0) == given.info
    for name, tensor in given.state_dict().items():
        torch.testing.assert_close(written.state_dict()[name], tensor, rtol=0, atol=0)


def test_measured_again_the_written_model_is_as_good_as_was_said(calibrated, shapes):
    results, folder = calibrated
    again = calibrate(folder / "model.safetensors", shapes, split="test")
    assert again["stored"] == results["fitted"]
    assert results["fitted"]["nll"] < results["stored"]["nll"]
    assert json.loads((folder / "scores.json").read_text()) == results


def test_the_diagram_is_a_picture(calibrated):
    _, folder = calibrated
    picture = np.asarray(Image.open(folder / "sub" / "diagram.png"))
    assert (picture == (70, 110, 170)).all(-1).any()


def test_every_labelled_pixel_is_drawn_where_there_is_room_with_the_logits_it_has_at_full_size(model, shapes):
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32")
    dataset = open_dataset(shapes)
    items = dataset.split("test")[:1]
    logits, labels = drawn_pixels(segmenter, dataset, items)
    assert len(labels) == 47 * 64  # the first row of each mask is ignored
    (scores,) = segmenter.scores(dataset.read(items[0]).image)
    full = resize(torch.tensor(scores).permute(2, 0, 1)[None], (48, 64))[0, :, 1:].reshape(3, -1).T
    np.testing.assert_allclose(logits, full, atol=1e-5)


def test_of_many_pixels_equally_many_are_drawn_from_each_picture(model, shapes, monkeypatch):
    monkeypatch.setattr(command, "MOST_VALUES", 900)
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32")
    dataset = open_dataset(shapes)
    first = drawn_pixels(segmenter, dataset, dataset.split("test"))
    second = drawn_pixels(segmenter, dataset, dataset.split("test"))
    assert len(first[1]) == 300
    np.testing.assert_array_equal(first[0], second[0])


def test_a_model_of_one_logit_is_calibrated_as_two_classes(shapes, tmp_path):
    network = create_model("deeplabv3", backbone="mobilenetv2_100", num_classes=1)
    network.info = network.info.with_table(ClassTable(("ground", "box"), ((0, 0, 0), (9, 9, 9)), ((0,), (7, 8))))
    model_file.save(network, tmp_path / "binary.safetensors")
    (shapes_of_two := tmp_path / "two").mkdir()
    for folder in ("images", "masks"):
        (shapes_of_two / folder).mkdir()
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(shapes_of_two / "images" / "a.png")
    Image.fromarray(np.eye(40, 50, dtype=np.uint8) * 7).save(shapes_of_two / "masks" / "a.png")
    (shapes_of_two / "splits").mkdir()
    for split in ("train", "val"):
        (shapes_of_two / "splits" / f"{split}.txt").write_text("a")
    (shapes_of_two / "classes.yaml").write_text("classes: [{name: ground, raw: 0}, {name: box, raw: 7}]")
    results = calibrate(tmp_path / "binary.safetensors", shapes_of_two)
    assert results["pixels"] == 2000 and results["fitted"]["nll"] <= results["stored"]["nll"]


def test_inputs_are_never_overwritten_and_other_files_are_not_written_over(model, shapes, tmp_path):
    with pytest.raises(AtrousError, match="the model itself"):
        calibrate(model, shapes, out=model)
    with pytest.raises(AtrousError, match=r"end in \.safetensors"):
        calibrate(model, shapes, out=tmp_path / "model.pth")
    with pytest.raises(AtrousError, match=r"must end in \.png"):
        calibrate(model, shapes, chart=tmp_path / "chart.jpg")
    with pytest.raises(AtrousError, match="calibrate the model file"):
        calibrate(tmp_path / "model.onnx", shapes)


def test_the_command_line(model, shapes, capsys):
    assert main(["calibrate", str(model), str(shapes), "--split", "test"]) == 0
    said = capsys.readouterr().out
    assert "points on average" in said and "3 pictures, test" in said
