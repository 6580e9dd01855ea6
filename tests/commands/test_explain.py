import re

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.commands.explain import Layer, explain, file_names, for_and_against, heat
from atrous.errors import AtrousError, SomeInputsFailed


@pytest.fixture(scope="module")
def explained(model, shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("explained")
    pictures = [shapes / "images" / f"test_{number}.png" for number in range(2)]
    return explain(model, pictures, out=out, classes=["box", "disc"], crf="deeplabv2", tensorboard=True), out


def test_the_page_stands_alone(explained):
    page, _ = explained
    html = page.read_text()
    addresses = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert "http" not in re.sub(r"data:image/[^\"]*", "", html)
    assert "test_0.png" in html and "test_1.png" in html


def test_every_map_of_the_page_is_a_png_of_the_pictures_size(explained):
    page, out = explained
    for folder in ("01_test_0", "02_test_1"):
        files = sorted((out / folder).glob("*.png"))
        assert {Image.open(file).size for file in files} == {(64, 48)}
        assert len(files) - 1 == page.read_text().count("<button") / 2  # picture.png is the page's ground
    names = {file.name for file in (out / "01_test_0").iterdir()}
    assert {
        "box_grad_cam.png",
        "disc_probability.png",
        "certainty_entropy.png",
        "answer_what_the_crf_changed.png",
    } <= names


def test_the_same_pictures_are_on_tensorboard(explained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, out = explained
    board = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert len(board.Tags()["images"]) == sum(len(list((out / f).glob("*.png"))) for f in ("01_test_0", "02_test_1"))


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(model, shapes, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(SomeInputsFailed, match="1 of 2"):
        explain(model, [broken, shapes / "images" / "test_0.png"], out=tmp_path / "out", most=1)
    assert "test_0.png" in (tmp_path / "out" / "explanation.html").read_text()


def test_mistakes_are_named(model, shapes, tmp_path):
    picture = [shapes / "images" / "test_0.png"]
    with pytest.raises(AtrousError, match="Did you mean 'disc'"):
        explain(model, picture, out=tmp_path, classes=["disk"])
    with pytest.raises(AtrousError, match="give the model file"):
        explain(tmp_path / "model.onnx", picture)
    with pytest.raises(AtrousError, match="most must be 1 or more"):
        explain(model, picture, most=0)


def test_too_many_pictures_are_refused_before_the_work(model, shapes, monkeypatch):
    monkeypatch.setattr("atrous.commands.explain.MOST_PICTURES", 2)
    with pytest.raises(AtrousError, match=r"at most 2 pictures, got 14"):
        explain(model, [shapes / "images"])


def test_classes_whose_names_look_alike_in_files_or_like_sections_keep_their_maps():
    picture = np.zeros((2, 2, 3), np.uint8)
    layers = [Layer(section, "entropy", picture) for section in ("certainty", "a b", "a/b", "../a b", "é")]
    names = file_names(layers)
    assert len(set(names)) == 5
    assert all("/" not in name and not name.startswith(".") for name in names)


def test_colours():
    assert (
        heat(np.float32([[0, 1]])).sum(-1).tolist()[0][0] < 20 < 400 < heat(np.float32([[0, 1]])).sum(-1).tolist()[0][1]
    )
    shades = for_and_against(np.float32([[0, 1, -1]]))
    assert shades.tolist() == [[[255, 255, 255], [178, 24, 43], [33, 102, 172]]]


@pytest.mark.parametrize("words", [["--classes", "box"], ["--classes=disc,box"], ["--classes", "[disc, box]"]])
def test_classes_are_named_on_the_command_line(words, model, shapes, tmp_path):
    picture = str(shapes / "images" / "test_0.png")
    assert main(["explain", str(model), picture, "--out", str(tmp_path), *words]) == 0
    assert (tmp_path / "01_test_0" / "box_grad_cam.png").exists()
    assert (tmp_path / "01_test_0" / "disc_grad_cam.png").exists() is ("disc" in words[-1])


def test_an_unknown_class_on_the_command_line_is_named(model, shapes, tmp_path, capsys):
    words = ["explain", str(model), str(shapes / "images" / "test_0.png"), "--out", str(tmp_path), "--classes", "bux"]
    assert main(words) == 2
    assert "unknown class 'bux'. Did you mean 'box'?" in capsys.readouterr().err


def test_the_command_line(model, shapes, tmp_path, capsys):
    words = ["explain", str(model), str(shapes / "images" / "test_0.png"), "--out", str(tmp_path / "x"), "--most", "1"]
    assert main(words) == 0
    assert "explanation.html" in capsys.readouterr().out
