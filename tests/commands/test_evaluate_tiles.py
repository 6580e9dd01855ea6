"""What the verbs measure is what `predict` writes: also in tiles, with pixels without data, with a CRF or without."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.commands import evaluate as evaluate_module
from atrous.commands._recorded_options import evaluate_command, options_in_words
from atrous.commands.calibrate import drawn_pixels
from atrous.commands.evaluate import evaluate, search_crf
from atrous.crf.settings import make_crf
from atrous.data.open_dataset import open_dataset
from atrous.inference import memory_estimate as memory_module
from atrous.inference import whole_or_tiled
from atrous.inference.segmenter import Segmenter
from atrous.inference.whole_picture import WholePicture
from atrous.learning.confusion_matrix import ConfusionMatrix
from atrous.learning.crf_search import Trial
from atrous.learning.evaluation import prepared, reader_for
from atrous.run_folder import read_run

from .conftest import CLASSES, draw

CRF = "deeplabv2,iterations=2,bilateral_rgb=20"
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def with_void(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two transparent pictures of 112×160 px, which masks of all classes belong to."""
    root, rng = tmp_path_factory.mktemp("void"), np.random.default_rng(5)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir()
    for name in NAMES:
        image, mask = draw(rng, 112, 160)
        alpha = np.full((112, 160, 1), 255, np.uint8)
        alpha[:30, 40:] = 0
        alpha[rng.random((112, 160)) < 0.05] = 0
        Image.fromarray(np.concatenate([image, alpha], 2)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "splits" / "val.txt").write_text("\n".join(NAMES))
    CLASSES.to_yaml(root / "classes.yaml")
    return root


@pytest.fixture(params=["whole", "tiles"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As much memory as there is, or none, so that pictures are cut into tiles of 64 px."""
    if request.param == "tiles":
        monkeypatch.setattr(whole_or_tiled, "TILES", (96, 64))
        monkeypatch.setattr(memory_module, "SURELY_FITS", 0)
        monkeypatch.setattr(whole_or_tiled, "limit_bytes", lambda *given: 0.0)
    return request.param


def counted(model: Path, data: Path, out: Path, *words: str) -> np.ndarray:
    """The confusion of the masks that `predict` writes."""
    options = ["--engine", "torch", "--precision", "float32", "--device", "cpu", "--out", str(out), *words]
    assert main(["predict", str(model), str(data / "images"), *options]) == 0
    matrix = ConfusionMatrix(3)
    for name in NAMES:
        raw, mask = (np.asarray(Image.open(place / f"{name}.png")) for place in (data / "masks", out))
        void = np.asarray(Image.open(data / "images" / f"{name}.png"))[..., 3] == 0
        assert np.array_equal(mask == 255, void)
        truth = np.select([raw == 0, raw == 7, raw == 300], [0, 1, 2], 255)
        matrix.update(np.where(void, 255, truth).astype(np.uint8), mask)
    return matrix.counts


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--scales", "0.5,1", "--flip"]])
def test_evaluate_counts_the_masks_of_predict(model, with_void, memory, tmp_path, words, capsys):
    options = {"scales": [0.5, 1.0], "flip": True} if words else {}
    found = evaluate(model, with_void, crf=CRF, device="cpu", **options)
    said = capsys.readouterr().out
    assert ("tiles of 64 px" in said) == (memory == "tiles")
    refined = counted(model, with_void, tmp_path / "crf", "--crf", CRF, *words)
    plain = counted(model, with_void, tmp_path / "plain", *words)
    assert found["confusion"] == refined.tolist() != plain.tolist()
    without = evaluate(model, with_void, device="cpu", **options)
    assert without["confusion"] == plain.tolist()
    assert found["without_crf"] == {key: without[key] for key in found["without_crf"]}


@pytest.mark.slow
def test_tiles_are_those_that_were_asked_for(model, with_void, tmp_path):
    """The masks are those of `predict --tile`, the page draws them, and its command measures the same again."""
    words = ["--tile", "100", "--overlap", "32"]
    assert main(["evaluate", str(model), str(with_void), "--json", str(tmp_path / "evaluation.json"), *words]) == 0
    recorded = json.loads((tmp_path / "evaluation.json").read_text())
    assert (recorded["tile"], recorded["overlap"]) == (100, 32)
    tiled, whole = counted(model, with_void, tmp_path / "tiled", *words), counted(model, with_void, tmp_path / "whole")
    assert recorded["confusion"] == tiled.tolist() != whole.tolist()
    run = read_run(tmp_path)
    assert " --tile 100 --overlap 32 " in evaluate_command(run)
    assert "tile 100, overlap 32" in options_in_words(run.evaluation)


@pytest.mark.parametrize("words", [["--tile", "10"], ["--overlap", "-1"], ["--memory", "0"]])
def test_impossible_tiles_are_refused_before_the_data_is_read(model, tmp_path, capsys, words):
    assert main(["evaluate", str(model), str(tmp_path / "absent"), *words]) == 2
    assert words[0].lstrip("-") in capsys.readouterr().err


@pytest.mark.slow
def test_the_search_scores_settings_as_evaluate_does(model, with_void, memory, monkeypatch):
    settings = {"bilateral_weight": 4, "bilateral_xy": 60, "bilateral_rgb": 20, "iterations": 2}

    def one_trial(score):
        yield Trial(settings, score(settings))

    monkeypatch.setattr(evaluate_module, "coarse_to_fine", one_trial)
    scored: list[float] = []
    monkeypatch.setattr(evaluate_module, "best_of", lambda trials: scored.append(trials[0].miou) or trials[0])
    dataset = open_dataset(with_void)
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32", scales=(0.5, 1.0))
    search_crf(segmenter, dataset, dataset.split("val"))
    assert segmenter.crf is None
    words = ",".join(f"{name}={value}" for name, value in settings.items())
    assert scored[0] == evaluate(model, with_void, crf=words, device="cpu", scales=[0.5, 1.0])["miou"]


def test_calibrate_draws_the_logits_of_the_same_masks(model, with_void, memory):
    dataset = open_dataset(with_void)
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32")
    logits, labels = drawn_pixels(segmenter, dataset, dataset.split("val"))
    masks, truths = [], []
    for item in dataset.split("val"):
        sample = reader_for(segmenter, dataset)(item)
        masks.append(segmenter.any_size(prepared(segmenter, sample), sample.valid)[sample.label != 255])
        truths.append(sample.label[sample.label != 255])
    assert np.array_equal(labels, np.concatenate(truths))
    assert (logits.argmax(1) == np.concatenate(masks)).mean() > 0.9999  # but where classes tie


def test_memory_that_runs_out_while_the_crf_works_makes_tiles(model, with_void, tmp_path, monkeypatch):
    """The CRF of a picture at once takes too much: `evaluate` goes on in tiles, as `predict` does."""
    monkeypatch.setattr(whole_or_tiled, "TILES", (96, 64))
    refined, sizes = WholePicture.decide, []

    def limited(self, scores, image, crf=None, valid=None):
        sizes.append(image.shape[:2])
        if crf is not None and image.shape[1] > 112:
            raise MemoryError
        return refined(self, scores, image, crf, valid)

    monkeypatch.setattr(WholePicture, "decide", limited)
    found = evaluate(model, with_void, crf=CRF, device="cpu")
    assert [size for size in sizes if size[1] > 112] == [(112, 160)]  # not at the second picture again
    assert found["confusion"] == counted(model, with_void, tmp_path / "out", "--crf", CRF).tolist()


def test_a_crf_is_another_look_at_the_same_network(model):
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32", flip=True)
    refined = segmenter.with_crf(make_crf(CRF))
    assert not refined.plain and refined.with_crf(None).whole._views == segmenter.whole._views
    assert refined.limits is segmenter.limits and refined.any_size.whole.crf is not None
    assert segmenter.crf is None
