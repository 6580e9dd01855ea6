"""One set with pixels without data in every verb: they are 255 in masks, and no score feels them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import atrous
from atrous import charts
from atrous.cli import main
from atrous.commands.calibrate import calibrate
from atrous.commands.evaluate import evaluate
from atrous.commands.report import report
from atrous.learning.confusion_matrix import ConfusionMatrix

from ..serving.conftest import Server
from .conftest import CLASSES, draw

pytestmark = pytest.mark.slow  # a training and a server for each kind of file

FILLERS = ("nodata", "deep", "alpha", "nan", "pages")
FOUR_BANDS = ("nodata", "deep")  # of 8 and of 16 bits
NAMES = tuple(f"p{index}" for index in range(6))
SIZE = 48, 64
FIXED = ["--device", "cpu", "--precision", "float32"]


def void_of(index: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    void = rng.random(SIZE) < 0.03
    void[:12, 20 + index :] = True
    return void


def save(path: Path, image: np.ndarray, void: np.ndarray, filler: str) -> Path:
    """A picture without data in places, as its kind of file says it."""
    if filler == "alpha":
        alpha = np.where(void, 0, 255).astype(np.uint8)
        Image.fromarray(np.dstack([image, alpha])).save(path := path.with_suffix(".png"))
        return path
    path = path.with_suffix(".tif")
    if filler == "nan":
        values = np.where(void[..., None], np.float32("nan"), image.astype(np.float32))
        tifffile.imwrite(path, values, photometric="rgb")
        return path
    nodata = [(42113, 2, 0, "0", True)]  # GDAL_NODATA
    values = np.where(void[..., None], 0, image.clip(1))
    if filler == "pages":  # one page a band
        with tifffile.TiffWriter(path) as file:
            for band in range(3):
                page = np.ascontiguousarray(values[..., band], np.uint8)
                file.write(page, photometric="minisblack", contiguous=False, extratags=nodata)
        return path
    near_infrared = np.where(void, 0, 255 - values[..., 0].clip(0, 254)).astype(np.uint8)
    four = np.dstack([values.astype(np.uint8), near_infrared])
    if filler == "deep":
        four = four * np.uint16(40)
    tifffile.imwrite(path, four, photometric="minisblack", planarconfig="contig", extratags=nodata)
    return path


@pytest.fixture(scope="module", params=FILLERS)
def filler(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def data(filler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp(filler), np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir()
    for index, name in enumerate(NAMES):
        image, mask = draw(rng, *SIZE)
        save(root / "images" / name, image, void_of(index), filler)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    for split, names in (("train", NAMES[:4]), ("val", NAMES[4:])):
        (root / "splits" / f"{split}.txt").write_text("\n".join(names))
    CLASSES.to_yaml(root / "classes.yaml")
    return root


@pytest.fixture(scope="module")
def run(filler: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of few steps, by `atrous train`."""
    out = tmp_path_factory.mktemp("runs") / f"of_{filler}"
    recipe = out.with_suffix(".yaml")
    recipe.write_text(
        "name: void\nmodel: {backbone: mobilenetv2_035, pretrained: false, "
        "arguments: {aspp_channels: 16, low_channels: 8}}\n"
        "augment: {crop: [40, 48]}\noptim: {lr: 0.01}\n"
        "loss: {class_weights: inverse_sqrt}\n"
        "train: {epochs: 8, validate_every: 8, batch_size: 2, device: cpu, precision: float32}\n"
    )
    words = ["--data.root", data, "--data.workers", 0, "--data.pages", "channels" if filler == "pages" else "first"]
    words += ["--model.in_channels", 4] if filler in FOUR_BANDS else []
    assert main(["train", str(recipe), *map(str, words), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def masks(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """What `predict` writes of the validation pictures."""
    out = tmp_path_factory.mktemp("masks")
    pictures = [str(path) for path in sorted((data / "images").iterdir()) if path.stem in NAMES[4:]]
    words = ["--engine", "torch", "--out", str(out / "m"), "--json", str(out / "done.json"), *FIXED]
    assert main(["predict", str(run / "best.safetensors"), *pictures, *words]) == 0
    records = json.loads((out / "done.json").read_text(), parse_constant=pytest.fail)["pictures"]
    for index, record in enumerate(records, 4):
        assert record["no_data"] == pytest.approx(void_of(index).mean())
        assert sum(record["share"].values()) == pytest.approx(1)
    found = [np.asarray(Image.open(record["mask"])) for record in records]
    for index, mask in enumerate(found, 4):
        assert np.array_equal(mask == 255, void_of(index)) and (mask[~void_of(index)] < 3).all()
    return found


def confusion_of(masks: list[np.ndarray], data: Path) -> np.ndarray:
    matrix = ConfusionMatrix(3)
    for index, mask in enumerate(masks, 4):
        raw = np.asarray(Image.open(data / "masks" / f"{NAMES[index]}.png"))
        truth = np.select([raw == 0, raw == 7, raw == 300], [0, 1, 2], 255)
        matrix.update(np.where(void_of(index), 255, truth).astype(np.uint8), mask)
    return matrix.counts


def test_the_doctor_and_train_know_no_nan(run, data, filler):
    assert main(["doctor", str(data), "--json", str(data.parent / f"{filler}.json")]) == 0
    said = (data.parent / f"{filler}.json").read_text()
    json.loads(said, parse_constant=pytest.fail)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert np.isfinite(json.loads(line, parse_constant=pytest.fail).get("loss", 0))
    preprocessing = atrous.load(run / "best.safetensors").info.preprocessing
    assert len(preprocessing.mean) == (4 if filler in FOUR_BANDS else 3)
    assert preprocessing.image.pages == ("channels" if filler == "pages" else "first")


def test_evaluate_and_calibrate_count_the_masks_of_predict(run, data, masks):
    counts = confusion_of(masks, data)
    recorded = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert recorded["confusion"] == counts.tolist()
    refined = evaluate(run / "best.safetensors", data, crf="deeplabv2,iterations=1", device="cpu")
    assert refined["without_crf"]["miou"] == recorded["miou"]
    assert np.sum(refined["confusion"]) == counts.sum()
    calibrated = calibrate(run / "best.safetensors", data, device="cpu")
    assert calibrated["pixels"] == counts.sum()
    assert all(np.isfinite(calibrated[name][key]) for name in ("stored", "fitted") for key in ("ece", "nll"))


def test_report_draws_the_masks_of_predict(run, data, masks, tmp_path, monkeypatch):
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(charts, "mask_uri", lambda mask, colors: drawn.append(mask) or "data:,")
    page = report(run, out=tmp_path / "page.html").read_text(encoding="utf-8")
    assert "cannot be" not in page and not re.search(r">\s*nan\b", page)
    answers = drawn[1::2]
    assert len(answers) >= 2
    assert all(any(np.array_equal(answer, mask) for mask in masks) for answer in answers)
    for truth, answer in zip(drawn[0::2], answers, strict=True):
        assert (truth[answer == 255] == 255).all()


def test_explain_leaves_void_out(run, data, masks, filler, tmp_path):
    (picture,) = (path for path in (data / "images").iterdir() if path.stem == NAMES[4])
    words = ["--out", str(tmp_path / "explained"), "--device", "cpu", "--crf", "deeplabv2,iterations=1"]
    assert main(["explain", str(run / "best.safetensors"), str(picture), *words]) == 0
    shown = np.asarray(Image.open(tmp_path / "explained" / f"01_{NAMES[4]}" / "answer_mask.png"))
    assert (shown[void_of(4)] == 0).all()
    colors = np.asarray(CLASSES.colors, np.uint8)
    known = ~void_of(4)
    assert (shown[known] == colors[masks[0][known]]).all(1).mean() > 0.99  # but where classes tie
    page = (tmp_path / "explained" / "explanation.html").read_text(encoding="utf-8")
    assert not re.search(r">\s*nan\b", page)


def test_serve_answers_with_the_masks_of_predict(run, data, masks):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    server = Server(run / "best.safetensors", "--engine", "torch", *FIXED)
    try:
        client = atrous.Client(server.address)
        for name, mask in zip(NAMES[4:], masks, strict=True):
            (picture,) = (path for path in (data / "images").iterdir() if path.stem == name)
            assert np.array_equal(client.segment(picture).mask, mask)
    finally:
        server.stop()
