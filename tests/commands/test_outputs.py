"""Nothing of the user's is lost: every output of every verb, laid over inputs and over files of others."""

import hashlib
import importlib
import inspect
import json
import os
import shutil
import typing
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.commands.conftest import make_shapes

from atrous.cli import main
from atrous.command_discovery import verbs
from atrous.commands.export import _is_ours
from atrous.commands.predict import predict
from atrous.commands.train import train
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.inference.exported_onnx_and_openvino import INFO_KEY, WEIGHTS_KEY
from atrous.learning.recipe import to_recipe, write_recipe
from atrous.model_file import read_info
from atrous.overwrite_checks import (
    check_outputs,
    is_our_json,
    is_our_page,
    is_our_picture,
    json_output,
    save_json,
    save_picture,
)
from atrous.run_folder import RUN_FILES

#: Verbs that write no file.
WRITES_NOTHING = {"serve", "completion"}
#: Arguments of type Path that are read, by verb. All others are outputs.
READ = {
    "area": {"model", "rasters", "data"},
    "calibrate": {"model", "data"},
    "compare": {"a", "b", "data"},
    "convert": {"file", "classes"},
    "demo": set(),
    "doctor": {"data", "case_ids"},
    "evaluate": {"model", "data", "case_ids"},
    "explain": {"model", "paths"},
    "export": {"model", "check", "calibrate"},
    "merge": {"base", "adapter"},
    "predict": {"model", "paths", "case_ids"},  # a table is continued, see tests/inference/test_predict_dicom.py
    "report": {"runs", "case_ids"},
    "train": {"recipe", "resume", "init"},
    "tune": {"recipe", "search"},
}
#: How each verb is called in the folder that `place` makes.
CALLS = {
    "area": ["model.safetensors", "data/images", "--data", "data"],
    "calibrate": ["model.safetensors", "data"],
    "compare": ["model.safetensors", "run/best.safetensors", "data"],
    "convert": ["foreign.pth", "--classes", "table.yaml"],
    "demo": [],
    "doctor": ["data"],
    "evaluate": ["model.safetensors", "data", "--crf", "deeplabv1"],
    "explain": ["model.safetensors", "data/images"],
    "export": ["model.safetensors", "--check", "data/images"],
    "merge": ["model.safetensors", "adapter.safetensors"],
    "predict": ["model.safetensors", "data/images", "--overlay"],
    "report": ["run"],
    "train": ["recipe.yaml", "--init", "model.safetensors"],
    "tune": ["recipe.yaml", "--search", "space.yaml"],
}
#: Where an output names a folder: a file in it that the verb would write.
IN_FOLDER = {
    ("demo", "out"): "predictions/slice_111.png",
    ("doctor", "pictures"): "train.png",
    ("explain", "out"): "01_test_0/picture.png",
    ("predict", "out"): "test_0.overlay.png",
    ("train", "out"): "best.safetensors",
    ("tune", "out"): "best.yaml",
}
#: The ending that an output's name must have.
ENDINGS = {
    ("calibrate", "out"): ".safetensors",
    ("calibrate", "chart"): ".png",
    ("convert", "out"): ".safetensors",
    ("evaluate", "save_crf"): ".safetensors",
    ("export", "out"): ".onnx",
    ("merge", "out"): ".safetensors",
    ("predict", "polygons"): ".gpkg",
}


def function_of(verb: str) -> Callable:
    return getattr(importlib.import_module(f"atrous.commands.{verb}"), verb)


def outputs_of(verb: str) -> list[str]:
    """The arguments that name files or folders to write."""
    hints = typing.get_type_hints(function_of(verb))
    paths = [name for name, hint in hints.items() if "Path" in str(hint) and name != "return"]
    return sorted(set(paths) - READ[verb])


WRITERS = sorted(set(verbs()) - WRITES_NOTHING)
OUTPUTS = [(verb, name) for verb in WRITERS for name in outputs_of(verb)]


@pytest.fixture
def place(tmp_path, model, run, monkeypatch) -> Path:
    """A folder with everything that the verbs read, and the working directory."""
    make_shapes(tmp_path / "data")
    shutil.copy(model, tmp_path / "model.safetensors")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "foreign.pth").write_bytes(b"a checkpoint")
    (tmp_path / "adapter.safetensors").write_bytes(b"an adapter")
    (tmp_path / "table.yaml").write_text("classes: []\n")
    (tmp_path / "space.yaml").write_text("loss.dice: {low: 0, high: 1}\n")
    recipe = {"data": {"root": "data", "workers": 0, "check": False}, "train": {"epochs": 1, "device": "cpu"}}
    write_recipe(to_recipe(recipe), tmp_path / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def over(verb: str, name: str, place: Path, make: Callable[[Path], object]) -> list[str]:
    """The words of a call one of whose outputs lies where `make` has put something."""
    within = IN_FOLDER.get((verb, name))
    target = place / ("made" if within else f"made{ENDINGS.get((verb, name), '.json')}")
    victim = target / within if within else target
    victim.parent.mkdir(parents=True, exist_ok=True)
    make(victim)
    return [verb, *CALLS[verb], f"--{name.replace('_', '-')}", str(target)]


def refused_and_unchanged(words: list[str], place: Path, capsys) -> str:
    before = hashes(place)
    capsys.readouterr()
    assert main(words) == 2, words
    message = capsys.readouterr().err
    after = hashes(place)
    assert {name: after.get(name) for name in before} == before
    return message


def test_every_verb_is_known_and_every_writer_can_be_told_to_overwrite():
    """A new verb, or a new output of one, must be named here, and is then tried below."""
    assert set(CALLS) == set(READ) == set(WRITERS)
    for verb in WRITERS:
        assert inspect.signature(function_of(verb)).parameters["overwrite"].default is False, verb
        assert outputs_of(verb), verb


@pytest.mark.parametrize(("verb", "name"), OUTPUTS)
def test_a_file_of_others_is_never_overwritten(verb, name, place, capsys):
    message = refused_and_unchanged(over(verb, name, place, lambda file: file.write_text("precious")), place, capsys)
    assert "--overwrite" in message


#: An input of verbs that are given a folder, or that read what they are given before they know their outputs.
OTHER_INPUTS = {
    "doctor": "data/masks/val_0.png",
    "report": "run/evaluation.json",
    "train": "model.safetensors",
    "tune": "space.yaml",
}
LINKS = {"hard": os.link, "symbolic": os.symlink}
LINK_NAMES = ["hard", pytest.param("symbolic", marks=pytest.mark.needs("links"))]


@pytest.mark.parametrize("link", LINK_NAMES)
@pytest.mark.parametrize(("verb", "name"), OUTPUTS)
def test_no_input_is_overwritten_even_where_that_is_asked_for(verb, name, link, place, capsys):
    """The input is there by another name, which only its identity tells."""
    first = next((word for word in CALLS[verb] if (place / word).is_file()), None)
    if first is None or first == "recipe.yaml":
        first = OTHER_INPUTS.get(verb)
    if first is None:
        pytest.skip(f"{verb} has no input")
    words = over(verb, name, place, lambda file: LINKS[link](place / first, file))
    if link == "hard" and verb == "doctor":
        pytest.skip("a folder is read, whose files have no list")
    assert "never" in refused_and_unchanged([*words, "--overwrite"], place, capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "model.safetensors", "data", "--json", "model.safetensors"],
        ["evaluate", "model.safetensors", "data", "--json", "data/masks/val_0.png"],
        ["evaluate", "model.safetensors", "data", "--json", "data/splits/val.txt"],
        ["evaluate", "model.safetensors", "data", "--json", "data/classes.yaml"],
        ["evaluate", "model.safetensors", "data", "--crf", "deeplabv1", "--save-crf", "model.safetensors"],
        ["predict", "model.safetensors", "data/images", "--json", "data/images/val_0.png"],
        pytest.param(
            ["predict", "model.safetensors", "data/images", "--json", "MODEL.link"], marks=pytest.mark.needs("links")
        ),
        ["predict", "model.safetensors", "data/images", "--out", "new", "--json", "new/val_0.png"],
        ["calibrate", "model.safetensors", "data", "--chart", "data/masks/val_0.png"],
        ["calibrate", "model.safetensors", "data", "--out", "a.safetensors", "--json", "./a.safetensors"],
        ["convert", "foreign.pth", "--json", "foreign.pth"],
        ["convert", "foreign.pth", "--classes", "table.yaml", "--json", "table.yaml"],
        ["doctor", "data", "--json", "data/classes.yaml"],
        ["doctor", "data", "--write-classes"],
        ["report", "run", "--out", "run/evaluation.json"],
        ["report", "run", "--out", "run/best.safetensors"],
        ["export", "model.safetensors", "--check", "data/images", "--out", "data/images/val_0.onnx"],
        ["train", "run/config.yaml", "--out", "run"],
        ["train", "recipe.yaml", "--out", "data"],
        ["tune", "recipe.yaml", "--search", "space.yaml", "--out", "data"],
        ["tune", "recipe.yaml", "--search", "space.yaml", "--out", "new", "--json", "new/best.yaml"],
        ["evaluate", "model.safetensors", "data", "--json", "data"],
        ["evaluate", "model.safetensors", "data", "--json", "recipe.yaml/scores.json"],
    ],
    ids=" ".join,
)
def test_what_overwrite_does_not_allow(words, place, capsys):
    if "MODEL.link" in words:
        (place / "MODEL.link").symlink_to("model.safetensors")
    (place / "data" / "images" / "val_0.onnx").write_text("a picture's notes")
    refused_and_unchanged([*words, "--overwrite"], place, capsys)


def test_a_training_does_not_overwrite_the_model_it_starts_from(place, capsys):
    (place / "out").mkdir()
    shutil.copy("model.safetensors", "out/best.safetensors")
    for words in (["--init", "out/best.safetensors"], ["--model.init", "out/best.safetensors"]):
        for more in ([], ["--overwrite"]):
            message = refused_and_unchanged(["train", "recipe.yaml", *words, "--out", "out", *more], place, capsys)
            assert "such as out-2" in message
            assert "the model to start from" in message


@pytest.mark.slow
def test_a_training_deletes_only_its_own_unfinished_files(tiny, tmp_path):
    out = tmp_path / "run"
    names = ["holiday.mp4.part", "config.part", "best.safetensors.part", ".best.safetensors.x.atrous-part", "lock.part"]
    for folder in (out, out / "checkpoints"):
        folder.mkdir()
        for name in names:
            (folder / name).write_text("precious")
    (out / "checkpoints" / "lock").write_text("precious")
    ours = out / f".best.safetensors.{'0' * 16}.atrous-part"
    ours.write_text("unfinished")
    before = hashes(out)
    train(tiny(), out=out)
    after = hashes(out)
    assert before.pop(ours.name)
    assert not ours.exists()
    assert {name: after.get(name) for name in before} == before
    written = set(after) - set(before)
    assert {name for name in written if not name.startswith("tensorboard/")} <= set(RUN_FILES)


@pytest.mark.slow
def test_a_resumed_training_keeps_what_others_put_there(tiny, tmp_path):
    out = train(tiny(), out=tmp_path / "run")
    (out / "report.html").write_text("<h1>my own words</h1>")
    with pytest.raises(AtrousError, match=r"holds files that this run did not write and would overwrite: report\.html"):
        train(tiny(train__epochs=2), resume=out)
    assert (out / "report.html").read_text() == "<h1>my own words</h1>"
    train(tiny(train__epochs=2), resume=out, overwrite=True)
    assert is_our_page(out / "report.html")


def test_masks_of_others_stay_and_ones_own_are_predicted_again(model, shapes, tmp_path):
    data, out = make_shapes(tmp_path / "data"), tmp_path / "out"
    drawn = hashes(data / "masks")
    with pytest.raises(AtrousError, match=r"holds files that predict did not write.*--overwrite"):
        predict(model, [data / "images"], out=data / "masks", device="cpu")
    assert hashes(data / "masks") == drawn
    predict(model, [data / "images"], out=out, device="cpu", overlay=True)
    first = hashes(out)
    predict(model, [data / "images"], out=out, device="cpu", overlay=True)
    assert hashes(out) == first
    (out / "test_0.png").write_bytes((data / "masks" / "test_0.png").read_bytes())  # one corrected by hand
    before = hashes(out)
    with pytest.raises(AtrousError, match=r"did not write and would overwrite: test_0\.png\. Nothing was written"):
        predict(model, [data / "images"], out=out, device="cpu")
    assert hashes(out) == before
    predict(model, [data / "images"], out=out, device="cpu", overwrite=True)
    assert hashes(out) == first


@pytest.mark.slow
def test_marks_are_in_every_kind_of_file_and_change_no_pixel(model, place, tmp_path):
    assert main(["predict", str(model), "data/images", "--out", "plain", "--json", "done.json"]) == 0
    assert main(["predict", str(model), "data/images", "--out", "raw", "--raw"]) == 0
    assert main(["calibrate", str(model), "data", "--chart", "chart.png", "--out", "t.safetensors"]) == 0
    assert main(["report", "run", "--out", "page.html"]) == 0
    assert is_our_json(place / "done.json")
    assert is_our_page(place / "page.html")
    pictures = [place / "plain" / "val_0.png", place / "raw" / "val_0.png", place / "chart.png"]
    assert all(map(is_our_picture, pictures))
    assert Image.open(pictures[0]).mode == "P"
    assert Image.open(pictures[0]).getpalette()[:9] == [90, 60, 30, 220, 40, 40, 40, 60, 220]
    labels, raw = (np.asarray(Image.open(path)) for path in pictures[:2])
    assert np.array_equal(np.array([0, 7, 300])[labels], raw)
    before = hashes(place)
    for words in (
        ["predict", str(model), "data/images", "--out", "raw", "--raw"],
        ["report", "run", "--out", "page.html"],
    ):
        assert main(words) == 0
    after = hashes(place)
    assert {name for name in before if before[name] != after[name]} <= {"page.html"}


def test_tiff_masks_have_the_mark(tmp_path):
    path = tmp_path / "mask.tif"
    save_picture(Image.fromarray(np.full((4, 5), -3, np.int32)), path)
    assert is_our_picture(path)
    assert (np.asarray(Image.open(path)) == -3).all()
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    assert not is_our_picture(path)


def test_a_json_file_that_was_cut_off_is_still_ours_and_others_are_not(tmp_path):
    path = tmp_path / "a.json"
    save_json({"miou": 0.5}, path)
    path.write_bytes(path.read_bytes()[:30])
    assert is_our_json(path)
    for text in ("", "{}", '{"written_by": "me"}', "[1]", '{"miou": 0.5, "x": {"written_by": "atrous"}}', "no JSON"):
        path.write_text(text)
        assert not is_our_json(path), text


def test_classes_written_by_hand_are_never_replaced(tmp_path, capsys):
    data = make_shapes(tmp_path / "data")
    ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3, ((0,), (7,), (300,))).to_yaml(data / "classes.yaml")
    message = refused_and_unchanged(["doctor", str(data), "--write-classes", "--overwrite"], tmp_path, capsys)
    assert "never overwritten" in message


def test_exports_replace_their_own_files_and_no_weights_of_others(model, tmp_path, capsys):
    shutil.copy(model, tmp_path / "m.safetensors")
    (tmp_path / "m.bin").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    record = quoteattr(json.dumps(read_info(model).to_dict()))
    info = f'<rt_info><{INFO_KEY} value={record} /><{WEIGHTS_KEY} value="{digest}" /></rt_info>'
    (tmp_path / "m.xml").write_text(f"<net>{info}</net>")
    assert _is_ours(tmp_path / "m.xml")
    assert _is_ours(tmp_path / "m.bin")
    (tmp_path / "m.bin").write_bytes(b"precious")
    words = ["export", str(tmp_path / "m.safetensors"), "--format", "openvino"]
    assert "m.bin exists and is not an exported file" in refused_and_unchanged(words, tmp_path, capsys)


@pytest.mark.needs("devices")
def test_a_stream_is_written_to_directly(run, tmp_path, capfd):
    assert main(["doctor", str(make_shapes(tmp_path / "data")), "--json", "/dev/stdout"]) == 0
    assert '"written_by": "atrous"' in capfd.readouterr().out
    assert Path("/dev/stdout").exists()


def test_a_foreign_safetensors_file_is_no_model_of_ours(model, place, capsys):
    save_file({"w": torch.ones(2)}, place / "theirs.safetensors")
    words = ["evaluate", "model.safetensors", "data", "--crf", "deeplabv1", "--save-crf", "theirs.safetensors"]
    assert "not a model file of atrous" in refused_and_unchanged(words, place, capsys)


@pytest.mark.needs("links")
def test_a_file_in_a_folder_that_may_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    """A new file takes the old one's place, so the folder counts; of a link the folder that it leads to."""
    folder = tmp_path / "closed"
    save_json({}, folder / "scores.json")
    (tmp_path / "link.json").symlink_to(folder / "scores.json")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode))  # root may all
    for path in (folder / "scores.json", folder / "new.json", tmp_path / "link.json"):
        with pytest.raises(AtrousError, match="closed is write-protected; give another name"):
            check_outputs("evaluate", [json_output("json", path)], [])
