"""The shipped models: they work offline as they lie in the repository, and score what their cards say."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import model_file
from atrous.cli import main
from atrous.commands.evaluate import evaluate

ZOO = Path(__file__).parents[2] / "zoo"
MODELS = sorted(ZOO.glob("*.safetensors"))
#: The licence of each model: that of its training data.
LICENCES = {"camvid": "CC BY-NC 4.0", "camvid_fast": "CC BY-NC 4.0", "hippocampus": "CC BY-SA 4.0"}


def test_there_are_some():
    assert [path.stem for path in MODELS] == sorted(LICENCES)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_it_is_small_and_has_a_card_that_tells_its_scores(path):
    assert path.stat().st_size <= 12e6
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    info = model_file.read_info(path)
    for scores in info.scores.values():
        assert f"{scores['miou']:.4f}" in card
    assert LICENCES[path.stem] in card
    assert all(name in card for name in info.classes)


def test_the_model_of_all_volumes_is_written_without_scores_and_in_16_bits(tmp_path):
    found = importlib.util.spec_from_file_location("hippocampus", ZOO.parent / "benchmarks/hippocampus.py")
    assert found is not None and found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    model = model_file.load(ZOO / "hippocampus.safetensors")
    model.info = replace(model.info, scores={"val": {"miou": 0.9}})
    model_file.save(model, tmp_path / "best.safetensors")
    script.write_model(tmp_path / "best.safetensors", tmp_path / "hippocampus.safetensors")
    sizes = [(tmp_path / name).stat().st_size for name in ("best.safetensors", "hippocampus.safetensors")]
    assert sizes[1] < 0.6 * sizes[0]
    assert model_file.read_info(tmp_path / "hippocampus.safetensors") == replace(model.info, scores={})
    written = model_file.load(tmp_path / "hippocampus.safetensors").state_dict()
    assert all(torch.equal(value, written[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_it_segments_a_picture_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (360, 480, 3), dtype=np.uint8)).save("street.jpg")
    assert main(["predict", str(ZOO / "camvid.safetensors"), "street.jpg"]) == 0
    mask = Image.open("predictions/street.png")
    assert mask.size == (480, 360)
    assert np.asarray(mask).max() < 11


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid", "camvid_fast"])
def test_camvid_scores_what_its_card_says(shared, name):
    """In bfloat16 where that is fastest; the card's score is float32's."""
    stated = re.search(r"\*\*([01]\.\d{4})\*\*", (ZOO / f"{name}.md").read_text(encoding="utf-8"))
    assert stated is not None
    found = evaluate(ZOO / f"{name}.safetensors", shared / "data/camvid", engine="auto", precision="auto")
    assert found["images"] == 101
    assert found["miou"] == pytest.approx(float(stated[1]), abs=0.002)
