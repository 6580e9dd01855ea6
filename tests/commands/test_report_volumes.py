"""`atrous report` of a model of volumes: its scores, its pictures, and its sliders in a real browser."""

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.browser import keep_screenshot

import atrous
from atrous.commands import _report_volumes as module
from atrous.commands._recorded_options import evaluate_command
from atrous.commands._report_volumes import CONTOURS, best_and_worst, thickest_error
from atrous.commands.evaluate import evaluate
from atrous.commands.predict import predict
from atrous.commands.report import report
from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.nifti import read_nifti
from atrous.input_spec import Input
from atrous.models.info import Preprocessing
from atrous.models.task import Task
from atrous.run_folder import read_run

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("scipy")

OPTIONS = {"engine": "torch", "precision": "float32"}
TABLE = ClassTable(("background", "<i>one</i>", "two"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)), ((0,), (1,), (2,)))
#: The wrong block in the mask of the volume "b", along right, anterior and superior.
BLOCK = np.s_[3:8, 8:13, 5:10]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a random model; the mask of "a" is its prediction, that of "b" differs in a block."""
    root = tmp_path_factory.mktemp("volumes")
    folder = root / "run"
    folder.mkdir()
    one = Input((0.0,), (1.0,), dtype="float32", normalize="per_image", planes=("axial",))
    torch.manual_seed(0)
    model = atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_050", num_classes=3, in_channels=1, pretrained=False
    )
    model.info = replace(model.info, preprocessing=Preprocessing((one,)), tasks=(Task(TABLE),))
    atrous.save(model, folder / "best.safetensors")
    (root / "data/images").mkdir(parents=True)
    for name in "ab":
        values = np.kron(np.random.default_rng(0).normal(size=(3, 4, 5)), np.ones((4, 4, 4))).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1, 2, 1])), root / f"data/images/{name}.nii.gz")
    predict(folder / "best.safetensors", [root / "data/images"], out=root / "data/masks", device="cpu", **OPTIONS)
    wrong = root / "data/masks/b.nii.gz"
    image = nibabel.load(wrong)
    labels = np.asarray(image.dataobj).copy()
    labels[BLOCK] = (labels[BLOCK] + 1) % 3
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), wrong)
    TABLE.to_yaml(root / "data/classes.yaml")
    (root / "data/splits").mkdir()
    (root / "data/splits/val.txt").write_text("a\nb\n")
    evaluate(folder / "best.safetensors", root / "data", json=folder / "evaluation.json", tolerance=2.5, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def page(run) -> Path:
    return report([run])


def picture_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)


def near(picture: np.ndarray, name: str) -> np.ndarray:
    """Where a picture has the colour of a contour, up to the loss of the JPEG."""
    return np.abs(picture - CONTOURS[name]).max(axis=2) < 40


def test_the_page_has_the_scores_and_the_cases(page):
    html = page.read_text(encoding="utf-8")
    assert "<i>one</i>" not in html and "&lt;i&gt;one&lt;/i&gt;" in html
    assert "within 2.5&nbsp;mm" in html
    assert re.findall(r"<figcaption><b>(.)</b><span>mean Dice ([\d.]+)", html)[0] == ("a", "1.000")
    assert [name for name, _ in re.findall(r"<figcaption><b>(.)</b><span>mean Dice ([\d.]+)", html)] == ["a", "b"]
    assert "The prediction has no error" in html and "The planes cross the thickest error" in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_the_planes_cross_the_middle_of_the_error(run, page):
    html = page.read_text(encoding="utf-8")
    wrong = html[html.index("<b>b</b>") :]
    indices = [int(index) for index in re.findall(r'alt="\w+ slice (\d+) of b', wrong)]
    x, y, z = (range(*part.indices(99)) for part in BLOCK)
    assert len(indices) == 3 and indices[0] in z[1:4] and indices[1] in y[1:4] and indices[2] in x[1:4]


def test_the_pictures_have_contours_of_both_masks(page):
    html = page.read_text(encoding="utf-8")
    for uri in re.findall(r'<img src="(data:image/jpeg[^"]+)"', html[html.index("<b>b</b>") :])[:3]:
        picture = picture_of(uri)
        assert near(picture, "reference").any() and near(picture, "prediction").any()


def test_the_command_has_the_options_of_the_measurement(run):
    assert "--tolerance 2.5" in evaluate_command(read_run(run))


def test_the_page_names_each_volume_once_in_the_table(page):
    html = page.read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>([ab])(.*?)</td><td>[\d.]+</td>", html)
    assert rows == [("b", ""), ("a", "")]


def test_the_page_of_a_given_model_proposes_no_training(run, tmp_path):
    folder = tmp_path / "measured"
    folder.mkdir()
    shutil.copy(run / "evaluation.json", folder)
    html = report([folder]).read_text(encoding="utf-8")
    assert "atrous train" not in html and "metrics.jsonl" not in html and "config.yaml" not in html
    assert f"atrous evaluate {run / 'best.safetensors'}" in html
    assert "<figcaption><b>a</b>" in html
    assert "atrous train RECIPE.yaml" in report([run], out=tmp_path / "own.html").read_text(encoding="utf-8")


def test_the_page_states_what_it_cannot_show(run, page, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    text = (copy / "evaluation.json").read_text()
    missing = re.sub(r'("mask": "[^"]*masks/)b(\.nii\.gz")', r"\1gone\2", text)
    assert missing != text
    (copy / "evaluation.json").write_text(missing)
    html = report([copy]).read_text(encoding="utf-8")
    assert "b cannot be shown:" in html and "<figcaption><b>a</b>" in html


def test_large_volumes_are_thinned(run, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "VOXELS", 500)
    html = report([run], out=tmp_path / "small.html").read_text(encoding="utf-8")
    assert html.count("one of each") == 2 and len(html) < 600_000


def test_series_in_folders_with_a_dot_have_their_own_names(tmp_path):
    folders = [tmp_path / f"LIDC.{number:04d}" for number in (1, 2)]
    for folder in folders:
        folder.mkdir()
    assert [module.case_name({"volume": str(folder)}) for folder in folders] == ["LIDC.0001", "LIDC.0002"]


def test_the_thickest_error_is_not_the_longest():
    wrong = np.zeros((20, 20, 10), bool)
    wrong[:, 0] = True  # a shell of one voxel
    wrong[8:13, 8:13, 3:8] = True
    assert thickest_error(wrong, (1, 1, 2)) == ((10, 10, 4), 3.0)  # the first of three
    assert thickest_error(np.zeros((2, 2, 2), bool), (1, 1, 1)) == (None, 0.0)


def test_no_case_is_best_and_worst():
    for count in range(9):
        cases = [{"volume": f"{n}.nii", "classes": {"a": {"dice": n / 10}}} for n in range(count)]
        best, worst = best_and_worst(cases)
        names = [case["volume"] for case in best + worst]
        assert len(names) == len(set(names)) == min(count, 6)
        assert not best or best[0] is cases[-1]
        assert not worst or worst[0] is cases[0]
    assert best_and_worst([{"volume": "x.nii", "classes": {"a": {"dice": None}}}]) == ([], [])


def test_the_sliders_show_every_slice(browser, run, page):
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    figure = browser.find_elements("css selector", ".case")[1]
    canvas = figure.find_element("css selector", "canvas")
    slider = figure.find_element("css selector", "input")

    def drawn() -> np.ndarray:
        return picture_of(browser.execute_script("return arguments[0].toDataURL('image/png')", canvas))

    data = read_nifti(run.parent / "data/masks/b.nii.gz").values[..., 0]
    canvas.send_keys(Keys.HOME)
    for index in range(data.shape[2]):
        assert figure.find_element("css selector", "output").text == f"{index} ({0}–{data.shape[2] - 1})"
        contour = np.abs(drawn() - CONTOURS["reference"]).max(axis=2) < 2
        wrong = BLOCK[2].start <= index < BLOCK[2].stop
        assert contour.any() or not wrong
        slider.send_keys(Keys.ARROW_RIGHT)
    assert [one for one in browser.get_log("browser") if one["level"] in ("WARNING", "SEVERE")] == []
    browser.execute_script("document.getElementById('cases').scrollIntoView()")
    keep_screenshot(browser)
