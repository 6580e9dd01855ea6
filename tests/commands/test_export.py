"""`atrous export`: what is written, what is said, and that a file that disagrees never appears."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import model_file, models
from atrous.cli import main
from atrous.commands import export as export_module
from atrous.commands.evaluate import evaluate
from atrous.commands.export import agreements_of, draw, export
from atrous.errors import AtrousError
from atrous.inference import export_graph, int8_quantisation
from atrous.inference.exported_onnx_and_openvino import OnnxGraph, OpenVinoGraph, read_info

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
NAMES = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
NEED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch": ()}


def need(format: str) -> None:
    for package in NEED[format]:
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that exports quickly and whose classes all occur; not to be changed."""
    torch.manual_seed(0)
    model = models.build("deeplabv1", {"backbone": "vgg16", "num_classes": 4, "fov_channels": 8}).eval()
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_file.save(model, path)
    return path


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "SIZES", ((65, 49), (33, 40), (96, 134)))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("format", NAMES)
def test_writes_the_file_and_says_how_far_it_agrees(format, original, tmp_path, capsys):
    need(format)
    out = tmp_path / "new" / NAMES[format]
    before = original.read_bytes()
    assert main(["export", str(original), "--format", format, "--out", str(out), "--scores"]) == 0
    said = capsys.readouterr().out
    shares = re.findall(r"([\d.]+) % at (\d+×\d+)", said)
    assert [size for _, size in shares] == ["65×49", "33×40", "96×134"]
    assert all(float(share) >= 99.9 for share, _ in shares)
    assert ("atrous predict" in said) == (format != "torch")
    assert "in float32:" in " ".join(said.split()) and "need an export with --scores" not in said
    assert files(out.parent) == (["model.bin", "model.xml"] if format == "openvino" else [out.name])
    assert original.read_bytes() == before
    assert files(original.parent) == ["model.safetensors"]
    # Again, over its own file.
    assert export(original, out=out) == out
    assert ("need an export with --scores" in " ".join(capsys.readouterr().out.split())) == (format != "torch")


@pytest.mark.slow
def test_a_pt2_runs_elsewhere_and_carries_the_record(original, tmp_path):
    out = export(original, out=tmp_path / "model.pt2", scores=True)
    extra = {"atrous.json": ""}
    program = torch.export.load(out, extra_files=extra)
    model = model_file.load(original)
    assert models.Info.from_dict(json.loads(extra["atrous.json"])) == model.info
    image = torch.randint(0, 256, (3, 3, 37, 50), dtype=torch.uint8)
    labels, scores = program.module()(image)
    expected, low = export_graph.ExportGraph(model, with_scores=True)(image)
    assert (labels == expected).float().mean() > 0.999
    torch.testing.assert_close(scores, low)


@pytest.mark.slow
def test_half_halves_the_weights(original, tmp_path, monkeypatch):
    need("openvino")
    monkeypatch.setattr(export_module, "LEAST_AGREEMENT", 0.98)  # fresh weights' scores are closer than trained ones'
    whole = export(original, out=tmp_path / "whole.xml").with_suffix(".bin").stat().st_size
    half = export(original, out=tmp_path / "half.xml", half=True).with_suffix(".bin").stat().st_size
    assert half == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("format", NAMES)
def test_a_file_that_disagrees_is_never_written(format, original, tmp_path, monkeypatch):
    need(format)
    monkeypatch.setattr(export_graph.ExportGraph, "forward", lambda self, image: (image[:, 0] * 0,))
    with pytest.raises(AtrousError, match=r"masks.* differ.*at 65×49.*99\.9%.*Nothing was written"):
        export(original, out=tmp_path / NAMES[format])
    assert files(tmp_path) == []


def test_an_exporter_that_fails_leaves_nothing_and_says_why(original, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(AtrousError, match=r"cannot be written as torch: RuntimeError: no such operator\. Try another"):
        export(original, out=tmp_path / "model.pt2")
    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(AtrousError, match="deeplabv1 over vgg16 cannot be exported"):
        export(original, out=tmp_path / "model.pt2")
    assert files(tmp_path) == []


def test_pictures_of_the_user_are_compared(original, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80), np.uint8)).save(tmp_path / "grey.png")
    assert export(original, out=tmp_path / "model.pt2", check=tmp_path).is_file()
    with pytest.raises(AtrousError, match="no such file"):
        export(original, out=tmp_path / "model.pt2", check=tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "--format"),
        ({"format": "onxx"}, "Did you mean 'onnx'"),
        ({"out": Path("model.pb")}, "ends in .onnx, .xml, .pt2"),
        ({"out": Path("model.onnx"), "format": "torch"}, "ends in .pt2"),
        ({"out": Path("model.safetensors"), "format": "torch"}, "ends in .pt2"),
        ({"out": Path("model.pt2"), "half": True}, "half is for openvino"),
        ({"out": Path("model.onnx"), "calibrate": Path("data")}, "only int8 uses it: give --int8 too"),
    ],
)
def test_wrong_usage_is_explained(arguments, words, original):
    with pytest.raises(AtrousError, match=re.escape(words)):
        export(original, **arguments)


@pytest.mark.parametrize("name", ["theirs.onnx", "theirs.xml", "theirs.bin", "theirs.pt2"])
def test_nothing_of_others_is_overwritten(name, original, tmp_path):
    (tmp_path / name).write_bytes(b"precious")
    out = tmp_path / name.replace(".bin", ".xml")
    with pytest.raises(AtrousError, match="not an exported file of atrous"):
        export(original, out=out)
    assert (tmp_path / name).read_bytes() == b"precious"
    with zipfile.ZipFile(tmp_path / "zip.pt2", "w") as file:
        file.writestr("data", "x")
    with pytest.raises(AtrousError, match="not an exported file of atrous"):
        export(original, out=tmp_path / "zip.pt2")


@pytest.mark.needs("links")
def test_the_model_itself_is_never_overwritten(original, tmp_path):
    (tmp_path / "link.onnx").symlink_to(original)
    before = original.read_bytes()
    with pytest.raises(AtrousError, match="not an exported file of atrous"):
        export(original, out=tmp_path / "link.onnx")
    assert original.read_bytes() == before


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_missing_package_names_its_extra_before_the_work(format, original, monkeypatch):
    monkeypatch.setattr(export_graph, "find_spec", lambda package: None)
    monkeypatch.setattr(export_graph, "trace", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(AtrousError, match=rf"atrous\[{format}\]"):
        export(original, format=format)


def test_ties_count_as_equal_and_errors_do_not(original):
    model = model_file.load(original)
    image = draw((65, 49), model.info.preprocessing)
    with torch.inference_mode():
        labels = export_graph.ExportGraph(model)(torch.tensor(image).permute(2, 0, 1)[None])[0][0].numpy()
    assert agreements_of(model, lambda _: labels, [image])[0].share == 1
    wrong = labels.copy()
    wrong[:2] = (wrong[:2] + 1) % 4
    assert agreements_of(model, lambda _: wrong, [image])[0].share == pytest.approx(63 / 65, abs=1e-3)
    assert agreements_of(model, lambda _: labels + 4, [image])[0].share == 0  # classes that the model does not have
    torch.nn.init.zeros_(model.classifier.weight)
    assert agreements_of(model, lambda _: wrong, [image])[0].share == 1  # every class scores the same


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_drawn_pictures_fit_the_model(dtype):
    preprocessing = models.Preprocessing.of_pictures((100.0,) * 5, (50.0,) * 5, dtype=dtype)
    image = draw((40, 61), preprocessing)
    assert image.shape == (40, 61, 5)
    assert image.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    assert image.std((0, 1)).min() > 20
    if dtype != "float32":
        assert image.min() >= 0 and (image == image.round()).all()


@pytest.mark.slow
def test_the_page_runs(original, tmp_path, monkeypatch):
    need("onnx")
    need("openvino")
    export(original, out=tmp_path / "model.onnx")
    export(original, out=tmp_path / "model.xml")
    image = draw((50, 71), read_info(tmp_path / "model.onnx").preprocessing)
    Image.fromarray(image).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block, graph in zip(blocks, (OnnxGraph("model.onnx"), OpenVinoGraph("model.xml")), strict=True):
        names: dict = {}
        exec(compile(block, str(DOCS), "exec"), names)
        assert (names["labels"] == graph.labels(image)).mean() > 0.999
        assert names["info"] == json.loads(json.dumps(graph.info.to_dict()))
    assert "atrous.commands.export" in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize("format", NAMES)
def test_a_model_that_aligns_its_pictures_is_exported_though_some_are_aligned_already(format, original, tmp_path):
    need(format)
    model = model_file.load(original)
    model.info = replace(model.info, preprocessing=replace(model.info.preprocessing, aligned=True))
    model_file.save(model, tmp_path / "aligned.safetensors")
    assert export(tmp_path / "aligned.safetensors", out=tmp_path / NAMES[format]).is_file()  # 129×97 among the sizes


@pytest.mark.slow
@pytest.mark.parametrize("names", [["model.bin", "model.xml"], ["model.onnx"]])
def test_int8_is_measured_beside_the_original(names, model, shapes, tmp_path, capsys):
    pytest.importorskip("nncf")
    out = tmp_path / names[-1]
    words = ["--out", str(out), "--int8", "--calibrate", str(shapes), "--max-drop", "5"]
    assert main(["export", str(model), *words, "--scores"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"int8 with nothing in floating point \(0 convolutions\): mIoU 0\.\d+; in float32 0\.\d+", said)
    assert files(tmp_path) == names
    assert read_info(out) == model_file.read_info(model)
    export(model, out=tmp_path / "floats" / out.name, scores=True)
    whole, part = ((folder / names[0]).stat().st_size for folder in (tmp_path / "floats", tmp_path))
    assert part < (0.7 if out.suffix == ".onnx" else 0.4) * whole, "weights of 8 bits; an .onnx has its graph besides"
    scores = evaluate(out, shapes)["miou"], evaluate(model, shapes)["miou"]
    assert abs(scores[0] - scores[1]) < 0.05


@pytest.mark.slow
def test_what_stays_in_floats_is_named(model, tmp_path):
    pytest.importorskip("nncf")
    source = export(model, out=tmp_path / "model.onnx")
    images = [draw((96, 80), read_info(source).preprocessing).transpose(2, 0, 1)[None].copy() for _ in range(2)]
    kept = [
        int8_quantisation.quantise(source, images, attempt, tmp_path / f"{index}.onnx")
        for index, attempt in enumerate(int8_quantisation.ATTEMPTS)
    ]
    depthwise = sum(getattr(module, "groups", 1) > 1 for module in model_file.load(model).modules())
    assert [len(names) for names in kept] == [0, 1, 1 + depthwise]
    assert set(kept[1]) < set(kept[2])


@pytest.mark.slow
def test_an_int8_file_that_is_worse_is_not_written(model, shapes, tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    spoiled = model_file.load(model)
    with torch.no_grad():
        spoiled.classifier.bias[0] = 1e4  # one class everywhere
    model_file.save(spoiled, tmp_path / "spoiled.safetensors")
    worse = export(tmp_path / "spoiled.safetensors", out=tmp_path / "worse" / "worse.xml")
    tried = []

    def spoil(source, images, attempt, target):
        tried.append(attempt)
        for suffix in (".xml", ".bin"):
            target.with_suffix(suffix).write_bytes(worse.with_suffix(suffix).read_bytes())
        return []

    monkeypatch.setattr(int8_quantisation, "quantise", spoil)
    with pytest.raises(AtrousError, match=r"int8 loses at least .* points of mean IoU; --max-drop allows 0\.5"):
        export(model, out=tmp_path / "out" / "model.xml", int8=True, calibrate=shapes)
    assert tried == list(int8_quantisation.ATTEMPTS)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "model.pt2"}, "int8 is for --format openvino or onnx"),
        ({"out": "model.xml", "half": True}, "without --half"),
        ({"out": "model.xml"}, "--calibrate DATA"),
        ({"out": "model.xml", "calibrate": "shapes", "max_drop": -1}, "max_drop"),
        ({"out": "model.xml", "calibrate": "shapes", "layout": "voc"}, "voc"),
        ({"out": "model.xml", "calibrate": "shapes", "groups": "x"}, "brackets"),
        ({"out": "model.xml", "layout": "folder"}, "layout is for the dataset of --calibrate"),
        ({"out": "model.xml", "groups": "(x)"}, "groups is for the dataset of --calibrate"),
    ],
)
def test_int8_that_cannot_be_is_refused_before_the_work(options, message, original, tmp_path, shapes):
    pytest.importorskip("nncf")
    options = {**options, "out": tmp_path / options["out"]}
    if "calibrate" in options:
        options["calibrate"] = shapes
    with pytest.raises(AtrousError, match=message):
        export(original, int8=True, **options)
