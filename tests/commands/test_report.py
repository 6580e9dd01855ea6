"""`atrous report` on tiny runs: real files, real drawing, a segmenter that errs where it is told to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from atrous.commands import report as module
from atrous.commands.report import best_and_worst, confusion_rows, most_confused, picture_rows, report
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError
from atrous.inference.picture_input import Found
from atrous.inference.prediction import Prediction
from atrous.learning.confusion_matrix import ConfusionMatrix
from atrous.learning.evaluation import Measurement, largest_mistakes, summarise
from atrous.models.info import Info, Preprocessing
from atrous.models.task import Task

NAMES = ("sky", "<b>x</b>", "road & rail", "unicorn")
COLORS = ((10, 20, 200), (200, 30, 30), (128, 64, 128), (255, 255, 255))
ABSENT = 3
IGNORED_RAW = 9
INFO = Info(
    architecture="deeplabv3plus",
    arguments={"backbone": "mobilenetv2_100", "output_stride": 16},
    preprocessing=Preprocessing.of_pictures((0.0,) * 3, (1.0,) * 3),
    tasks=(Task(ClassTable(NAMES, COLORS, ((0,), (1,), (2,), (3,)), (IGNORED_RAW,))),),
    provenance={"made_by": "a <test>", "training_minutes": 12.0},
)


#: A whole class of an evaluation.
CLASS = {"name": "a", "color": [1, 2, 3], "iou": 1.0, "dice": 1.0, "accuracy": 1.0, "pixels_true": 5}


@dataclass
class Erring:
    """Answers with the truth, but for one row too few of class 1; `info` as a segmenter has."""

    truths: dict[bytes, np.ndarray]
    info: Info = INFO

    def __call__(self, image: np.ndarray) -> Prediction:
        mask = self.truths[image.tobytes()].copy()
        mask[mask == IGNORED_RAW] = 0
        mask[0][mask[0] == 1] = 2
        return Prediction(mask, image, self.info)

    @property
    def preparation(self) -> Erring:
        return self

    def filled(self, found: Found) -> np.ndarray:
        return found.image

    def any_size(self, image: np.ndarray, valid: np.ndarray | None, name: str) -> np.ndarray:
        return self(image).mask


def rows_of(
    records: list[dict[str, Any]], segmenter: Erring, data: Path, pair: tuple[int, int] | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    dataset = open_dataset(data)
    return picture_rows(records, dataset.read, lambda _, sample: segmenter(sample.image), dataset.classes, pair)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pictures of 20×24 with masks, a few of their pixels ignored; class 3 is nowhere."""
    root = tmp_path / "data"
    generator = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(8):
        image = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        mask = generator.integers(0, 3, (20, 24), dtype=np.uint8)
        mask[5, :6] = IGNORED_RAW
        Image.fromarray(image).save(root / "images" / f"p{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"p{number}.png")
    INFO.table.to_yaml(root / "classes.yaml")
    return root


@pytest.fixture
def segmenter(data: Path) -> Erring:
    return Erring(
        {
            np.asarray(Image.open(path)).tobytes(): np.array(Image.open(data / "masks" / path.name))
            for path in (data / "images").iterdir()
        }
    )


@pytest.fixture
def run(tmp_path: Path, data: Path, segmenter: Erring, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole run; its segmenter is `Erring`."""
    folder = tmp_path / "runs" / "tiny <run>"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"data: {{root: '{data}', layout: folder}}\nname: <i>tiny</i>\n")
    lines = [
        {"kind": "train", "step": step, "epoch": step // 10, "loss": 3 / step, "lr": 0.01} for step in range(1, 41)
    ]
    lines[7]["loss"] = float("nan")
    lines += [
        {
            "kind": "val",
            "step": 10 * epoch,
            "epoch": epoch,
            "miou": None if epoch == 1 else 0.2 * epoch,
            "pixel_accuracy": 0.5,
            "per_class": {"sky": 0.2 * epoch, "unicorn": None},
        }
        for epoch in (1, 2, 3)
    ]
    killed = '\n{"kind": "train", "step": 41, "lo'
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + killed)
    (folder / "evaluation.json").write_text(json.dumps(evaluation_of(data, segmenter)))
    monkeypatch.setattr("atrous.inference.model_spec.Segmenter", lambda path, **options: segmenter)
    monkeypatch.setattr("atrous.model_file.read_info", lambda path: INFO)
    return folder


def evaluation_of(data: Path, segmenter: Erring) -> dict:
    """What `atrous evaluate --json` writes."""
    measured = Measurement.of(len(NAMES))
    dataset = open_dataset(data)
    for number in range(8):
        image, mask = (data / kind / f"p{number}.png" for kind in ("images", "masks"))
        truth = dataset.classes.encode(np.array(Image.open(mask)))
        one = ConfusionMatrix(len(NAMES))
        one.update(truth, segmenter(np.array(Image.open(image))).mask)
        measured.confusion.counts += one.counts
        scores = {"miou": one.miou, "pixel_accuracy": one.pixel_accuracy, "mistakes": largest_mistakes(one.counts)}
        measured.per_image.append({"name": f"p{number}", "image": str(image), "mask": str(mask), **scores})
    about = {"model": "best.safetensors", "data": str(data), "split": "val", "images": 8}
    return {**about, "engine": "torch", "precision": "float32", **summarise(measured, INFO)}


def module_segmenter():
    """What `report` opens models with, as a fixture replaced it."""
    from atrous.inference import model_spec

    return model_spec.Segmenter


def change(run: Path, **values: object) -> None:
    """Overwrite entries of the run's evaluation."""
    file = run / "evaluation.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def page_of(run: Path) -> str:
    return report(run).read_text(encoding="utf-8")


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_page_is_written_into_the_run_or_where_asked(run: Path, tmp_path: Path) -> None:
    assert report(run) == run / "report.html"
    elsewhere = tmp_path / "new" / "page.html"
    assert report(run, out=elsewhere) == elsewhere
    assert elsewhere.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_page_needs_no_other_file(run: Path) -> None:
    page = page_of(run)
    sources = re.findall(r"""(?:src|href|data|action|poster)\s*=\s*["']?([^"'\s>]+)""", page)
    assert len(sources) == 4 * 7  # four pictures for each of three best, three worst and the pair most confused
    assert all(re.match(r"data:image/(png|jpeg);base64,", source) for source in sources)
    assert not re.search(r"https?:|url\(|@import|<link|<script [^>]*src", page)


def test_page_holds_the_headline(run: Path) -> None:
    page = unescape(page_of(run))
    evaluation = json.loads((run / "evaluation.json").read_text())
    for fact in ("deeplabv3plus · mobilenetv2_100", "mean IoU · val", "12 min", "float32", "folder"):
        assert fact in page
    for score in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "dice"):
        assert f"{100 * evaluation[score]:.1f}" in page


def test_names_from_data_are_escaped(run: Path) -> None:
    page = page_of(run)
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "road &amp; rail" in page
    for raw in ("<b>x", "tiny <run>", "<i>tiny", "<test>"):
        assert raw not in page


def test_every_class_is_named_and_the_absent_one_as_absent(run: Path) -> None:
    page = page_of(run)
    rows = re.findall(r"<tr( class=\"absent\")?>\s*<td><span class=\"name\">.*?</i>(.*?)</span>(.*?)</tr>", page, re.S)
    assert {unescape(name) for _, name, _ in rows} == set(NAMES)
    absent, name, cells = rows[-1]
    assert (bool(absent), name) == (True, NAMES[ABSENT])
    assert "absent from truth and prediction" in cells


def test_classes_are_sorted_by_iou(run: Path) -> None:
    shares = [float(value) for value in re.findall(r'class="bar" style="--v:([\d.]+)', page_of(run))]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)


def test_shown_confusion_rows_sum_to_100(run: Path) -> None:
    page = unescape(page_of(run))
    for name in NAMES[:ABSENT]:
        shares = [float(s) for s in re.findall(rf'title="{re.escape(name)} → [^:]*: ([\d.]+) %', page)]
        assert len(shares) == len(NAMES)
        assert sum(shares) == pytest.approx(100, abs=0.02)
    assert page.count('title="unicorn is absent from the truth"') == len(NAMES)


@pytest.mark.parametrize("classes", [2, 30, 31, 60])
def test_large_confusion_merges_the_rarest(classes: int) -> None:
    counts = np.random.default_rng(classes).integers(0, 1000, (classes, classes))
    names = [{"name": f"c{i}", "color": [i, i, i]} for i in range(classes)]
    rows = confusion_rows({"classes": names, "confusion": counts.tolist()})
    assert len(rows) == min(classes, 30)
    assert all(sum(cell["share"] for cell in row["cells"]) == pytest.approx(1) for row in rows)
    assert sum(cell["pixels"] for row in rows for cell in row["cells"]) == counts.sum()
    if classes > 30:
        assert rows[-1]["name"] == f"the {classes - 29} rarest"
        rarest = np.argsort(-counts.sum(1), kind="stable")[29:]
        assert sum(cell["pixels"] for cell in rows[-1]["cells"]) == counts[rarest].sum()


def test_most_confused_pairs_in_words(run: Path) -> None:
    change(run, confusion=[[90, 10, 0, 0], [0, 50, 50, 0], [0, 1, 199, 0], [0, 0, 0, 0]])
    pairs = most_confused(json.loads((run / "evaluation.json").read_text()))
    assert [(p["truth"]["name"], p["taken"]["name"], p["taken"]["share"]) for p in pairs] == [
        ("<b>x</b>", "road & rail", 0.5),
        ("sky", "<b>x</b>", 0.1),
    ]
    words = re.sub(r"\s+", " ", re.sub(r"<i [^>]*></i>", "", page_of(run)))
    assert "50.0&nbsp;%</b> of &lt;b&gt;x&lt;/b&gt; is predicted as road &amp; rail" in words


def test_unfinished_line_and_missing_scores_do_no_harm(run: Path) -> None:
    page = page_of(run)
    assert page.count('<svg class="chart"') == 3
    assert "best 60.0\u00a0%, epoch 3" in page
    assert "the curve does not show these steps" in page
    drawing = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    assert not re.search(r"nan|inf|None", drawing)


def test_unknown_scores_are_dashes(run: Path) -> None:
    change(run, miou=None, pixel_accuracy=float("nan"), per_image=[])
    page = page_of(run)
    assert '<p class="figure">–' in page
    assert "Pixel accuracy" not in page


def test_warnings_are_shown(run: Path) -> None:
    change(run, warnings=["the model has collapsed to 1 of 3 classes"])
    assert "the model has collapsed to 1 of 3 classes" in page_of(run)


def test_picture_rows_draw_what_is_there(run: Path, data: Path, segmenter: Erring) -> None:
    record = json.loads((run / "evaluation.json").read_text())["per_image"][0]
    (row,), notes = rows_of([record], segmenter, data)
    assert notes == []
    raw = np.array(Image.open(record["mask"]))
    ignored = raw == IGNORED_RAW
    answer = segmenter(np.array(Image.open(record["image"]))).mask

    truth = np.array(decoded(row["truth"]).convert("RGBA"))
    assert (truth[ignored][:, 3] == 0).all()
    np.testing.assert_array_equal(truth[~ignored][:, :3], np.array(COLORS)[raw[~ignored]])
    prediction = np.array(decoded(row["prediction"]).convert("RGB"))
    np.testing.assert_array_equal(prediction, np.array(COLORS)[answer])

    errors = np.array(decoded(row["errors"])).astype(int)
    red = errors[..., 0] - errors[..., 1:].max(-1)
    wrong = (answer != raw) & ~ignored
    assert wrong.any()
    assert red[wrong].mean() > 60 + red[~wrong].mean()  # JPEG bleeds a little into the neighbours
    assert errors[ignored].mean() < 0.7 * errors[~ignored & ~wrong].mean()


def test_truth_is_shown_in_the_models_classes(run: Path, data: Path, segmenter: Erring) -> None:
    order = (2, 0, 1)  # the data lists its classes in another order than the model, and lacks one
    pick = lambda values: tuple(values[i] for i in order)  # noqa: E731
    ClassTable(pick(NAMES), pick(COLORS), pick(INFO.table.raw), INFO.table.ignore).to_yaml(data / "classes.yaml")
    record = json.loads((run / "evaluation.json").read_text())["per_image"][0]
    (row,), _ = rows_of([record], segmenter, data)
    raw = np.array(Image.open(record["mask"]))
    known = raw != IGNORED_RAW
    shown = np.array(decoded(row["truth"]).convert("RGB"))
    np.testing.assert_array_equal(shown[known], np.array(COLORS)[raw[known]])


def test_the_pairs_most_confused_have_a_picture_with_those_pixels_alone_in_red(run: Path, data: Path) -> None:
    page = unescape(page_of(run))
    assert f"{NAMES[1]} predicted as {NAMES[2]}" in page
    (_, record, pair), *others = module.most_confused_pictures(json.loads((run / "evaluation.json").read_text()))
    assert pair == (1, 2) and not others  # `Erring` makes no other mistakes
    counts = [(np.array(Image.open(data / "masks" / f"p{number}.png"))[0] == 1).sum() for number in range(8)]
    assert record["name"] == f"p{int(np.argmax(counts))}"


def test_a_pairs_error_map_leaves_out_other_mistakes(data: Path, segmenter: Erring) -> None:
    record = {"name": "p0", "image": str(data / "images" / "p0.png"), "mask": str(data / "masks" / "p0.png"), "miou": 1}
    (all_wrong,), _ = rows_of([record], segmenter, data)
    (of_pair,), _ = rows_of([record], segmenter, data, (1, 2))
    (of_none,), _ = rows_of([record], segmenter, data, (2, 1))
    assert all_wrong["errors"] == of_pair["errors"] != of_none["errors"]


def test_a_picture_that_is_gone_is_named(run: Path, data: Path) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    best = max(evaluation["per_image"], key=lambda r: r["miou"])
    ((_, confused, _),) = module.most_confused_pictures(evaluation)
    assert best != confused
    Path(best["image"]).unlink()
    page = page_of(run)
    assert f"{best['name']} cannot be shown" in page
    assert page.count('<figure class="picture">') == 6


def test_data_that_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    change(run, data=str(tmp_path / "nowhere"))
    page = page_of(run)
    assert "cannot be drawn again" in page
    assert "<figure" not in page


def test_a_model_that_is_gone_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real segmenter, which finds no best.safetensors
    page = page_of(run)
    assert "cannot be drawn again" in page
    assert "There is no best.safetensors" in page


@pytest.mark.parametrize("count", range(8))
def test_best_and_worst_never_share_a_picture(count: int) -> None:
    scored = [{"name": str(i), "miou": i / 10} for i in range(count)]
    best, worst = best_and_worst([{"name": "unmeasured", "miou": None}, *scored])
    names = [record["name"] for record in best + worst]
    assert len(set(names)) == len(names) == min(count, 6)
    assert [record["miou"] for record in best + worst] == sorted((i["miou"] for i in best + worst), reverse=True)
    assert not count or best[0]["name"] == str(count - 1)


def test_metrics_alone_make_a_page_that_says_how_to_go_on(run: Path, data: Path) -> None:
    (run / "evaluation.json").unlink()
    page = unescape(page_of(run))
    assert "There is no evaluation.json" in page
    assert f"atrous evaluate '{run}/best.safetensors' {data} --split val --json '{run}/evaluation.json'" in page
    assert '<p class="figure">60.0' in page


def test_an_evaluation_alone_makes_a_page_that_says_how_to_go_on(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "config.yaml").unlink()
    page = page_of(run)
    assert "There is no line in metrics.jsonl" in page
    assert "There is no config.yaml" in page
    assert "atrous train RECIPE.yaml" in page
    assert '<svg class="chart"' not in page


def test_configuration_and_commands_are_on_the_page(run: Path) -> None:
    page = unescape(page_of(run))
    assert (run / "config.yaml").read_text() in page
    assert f"atrous train '{run}/config.yaml'" in page
    assert f"atrous report '{run}'" in page


def test_the_command_has_the_options_that_were_measured_with(run: Path) -> None:
    change(run, scales=[0.5, 1.0], flip=True, output_stride=8, engine="openvino", precision="bfloat16", layout="folder")
    page = unescape(page_of(run))
    options = "--layout folder --engine openvino --precision bfloat16 --scales 0.5,1 --flip --output-stride 8"
    assert f"--split val {options} --json '{run}/evaluation.json'" in page
    assert "openvino, bfloat16, scales 0.5 1, flip, output stride 8" in page


def test_the_page_says_where_it_is_and_how_to_write_it_there_again(run: Path, tmp_path: Path, capsys) -> None:
    page = report(run, out=tmp_path / "my page.html")
    assert f"written: {page}" in "".join(capsys.readouterr().out.splitlines())
    assert f"atrous report '{run}' --out '{page}'" in unescape(page.read_text())


def test_a_copied_run_is_measured_and_drawn_with_its_own_model(run: Path, monkeypatch) -> None:
    """The run's own file where it is the measured model, the recorded one where only that is; else nothing is drawn."""
    opened: list[Path] = []
    segmenter = module_segmenter()("any")
    monkeypatch.setattr(
        "atrous.inference.model_spec.Segmenter", lambda path, **options: opened.append(Path(path)) or segmenter
    )
    old, own = run.parent / "old" / "best.safetensors", run / "best.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"measured")
    shutil.copy(old, own)
    change(run, model=str(old), model_sha256=hashlib.sha256(b"measured").hexdigest())
    assert f"atrous evaluate '{own}'" in unescape(page_of(run)) and opened == [own]
    own.write_bytes(b"trained again")
    assert f"atrous evaluate {old}" in unescape(page_of(run)) and opened == [own, old]
    old.write_bytes(b"trained again, too")
    page = unescape(page_of(run))
    assert "the model changed after the scores were measured" in page
    assert f"atrous evaluate '{own}'" in page and "<figure" not in page and len(opened) == 2


def test_runs_that_were_measured_in_different_ways_are_told(run: Path, tmp_path: Path) -> None:
    other = copy_of(run, "other", 0.5)
    change(other, flip=True)
    html = report([run, other], out=tmp_path / "both.html").read_text(encoding="utf-8")
    assert "other: torch, float32, flip" in html


def test_warnings_about_the_data_are_on_the_page(run: Path) -> None:
    finding = {"kind": "x", "message": "Two <pictures> are alike.", "count": 7, "examples": ["a.png", "b.png"]}
    (run / "doctor.json").write_text(json.dumps({"warnings": [finding]}))
    page = page_of(run)
    assert "Two &lt;pictures&gt; are alike." in page
    assert "× 7" in page
    assert "a.png; b.png …" in page
    (run / "doctor.json").write_text('{"warnings": 3}')
    assert "are alike" not in page_of(run)


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="there is no run folder"):
        report(tmp_path / "nowhere")


def test_an_empty_folder_is_an_error_that_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"atrous train .*atrous evaluate"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a file of `atrous evaluate --json`"),
        ("[]", "not a file of `atrous evaluate --json`"),
        ('{"classes": [], "confusion": []}', "contains no classes"),
        ('{"classes": [{"name": "a"}], "confusion": [[1]]}', "without accuracy, color"),
        (json.dumps({"classes": [CLASS], "confusion": [[1, 2], [3, 4]]}), "1 classes, but a confusion matrix of"),
        (json.dumps({"classes": [{**CLASS, "color": "red"}], "confusion": [[1]]}), "not a file of `atrous evaluate"),
        (json.dumps({"classes": [CLASS], "confusion": [["a"]]}), "not a file of `atrous evaluate --json`"),
        (
            json.dumps({"classes": [CLASS], "confusion": [[1]], "per_image": [3]}),
            "not a file of `atrous evaluate --json`",
        ),
    ],
)
def test_a_damaged_evaluation_is_said_and_the_page_goes_on_without_it(run: Path, text: str, words: str) -> None:
    (run / "evaluation.json").write_text(text)
    page = unescape(page_of(run))
    assert words in page
    assert "Without it, the page has no scores per class and no pictures." in page
    assert f"--split val --json '{run}/evaluation.json' --overwrite" in page
    assert '<svg class="chart"' in page
    (run / "metrics.jsonl").unlink()
    with pytest.raises(AtrousError, match=r"Write it again: .*--overwrite"):
        report(run)


def test_a_damaged_evaluation_is_said_among_several_runs(run: Path, tmp_path: Path) -> None:
    other = copy_of(run, "other", 0.5)
    (other / "evaluation.json").write_text("{")
    page = unescape(report([run, other], out=tmp_path / "both.html").read_text(encoding="utf-8"))
    assert f"'{other}/evaluation.json' is not a file of `atrous evaluate --json`" in page


def test_a_page_that_cannot_be_written_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="Choose another --out"):
        report(run, out=tmp_path)


def test_short_times_are_said_in_seconds_and_long_ones_in_hours() -> None:
    said = [module.duration(seconds) for seconds in (0, 45, 600, 9000)]
    assert said == ["", "45 s", "10 min", "2.5 h"]


# Several runs


def copy_of(run: Path, name: str, miou: float, **settings: object) -> Path:
    other = run.parent / name
    shutil.copytree(run, other)
    change(other, miou=miou)
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**config, **settings}))
    return other


def test_several_runs_are_compared_on_one_page_the_best_first(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(run, miou=0.5)
    better = copy_of(run, "better", 0.625, optim={"lr": 0.5, "name": "<sgd>"}, loss={"dice": 1.0})
    page = report([run, better])
    assert page == Path("comparison.html")
    html = page.read_text(encoding="utf-8")
    assert "better is best, 12.5 points of mean IoU ahead of tiny &lt;run&gt;." in html
    assert html.index(">better<br>") < html.index(">tiny &lt;run&gt;<br>")
    rows = re.findall(r"<tr><td><code>(.*?)</code></td><td>(.*?)</td><td>(.*?)</td></tr>", html)
    assert rows == [("loss.dice", "1.0", "–"), ("optim.lr", "0.5", "–"), ("optim.name", "&lt;sgd&gt;", "–")]
    assert html.count('<svg class="chart"') == 2
    assert re.search(r"<td>&lt;b&gt;x&lt;/b&gt;</td><td><b>", html)
    assert "http" not in html.replace("http://www.w3.org", "")


def test_runs_on_different_data_and_small_differences_are_said(run, tmp_path):
    change(run, miou=0.5)
    other = copy_of(run, "other", 0.501)
    change(other, split="test")
    html = report([run, other], out=tmp_path / "both.html").read_text(encoding="utf-8")
    assert "may be chance" in html
    assert "cannot be compared" in html


def with_counts(run: Path, misses: list[int]) -> None:
    """Counts of two classes in each picture, of which so many pixels of class 0 are taken for class 1."""
    record = json.loads((run / "evaluation.json").read_text())
    for entry, missed in zip(record["per_image"], misses, strict=True):
        counts = [[0, 240 - missed, 240, 240 - missed], [1, 200, 200, 200 + missed]]
        entry.update(counts=counts, group=None)
    (run / "evaluation.json").write_text(json.dumps(record))


def page_of_two(run: Path, other: Path, out: Path) -> str:
    return unescape(report([run, other], out=out / "both.html", overwrite=True).read_text(encoding="utf-8"))


def test_the_best_two_runs_are_tested_on_their_pictures(run, tmp_path):
    change(run, miou=0.5)
    other = copy_of(run, "other", 0.62)
    with_counts(run, [40, 50, 45, 60, 55, 40, 50, 48])
    with_counts(other, [4, 5, 6, 5, 4, 6, 5, 4])
    page = page_of_two(run, other, tmp_path)
    assert re.search(r"other is better than tiny <run> \(mIoU \+0\.\d+, p = 0\.008\)", page)
    assert "The smallest difference in mIoU that these pictures could show" in page
    with_counts(other, [44, 46, 49, 56, 50, 45, 55, 43])
    assert "The difference may be chance (mIoU" in page_of_two(run, other, tmp_path)
    with_counts(other, [40, 50, 45, 60, 55, 40, 50, 48])
    assert "other and tiny <run> have the same counts" in page_of_two(run, other, tmp_path).replace(
        "tiny <run> and other", "other and tiny <run>"
    )


def test_why_two_runs_are_not_tested_is_said(run, tmp_path):
    change(run, miou=0.5)
    other = copy_of(run, "other", 0.62)
    with_counts(run, [40] * 8)
    assert (
        "not tested for chance: other has no pixel counts per picture. Measure again: atrous evaluate"
        in page_of_two(run, other, tmp_path)
    )
    with_counts(other, [4] * 8)
    record = json.loads((other / "evaluation.json").read_text())
    record["per_image"][0]["image"] = "/elsewhere/x.png"
    (other / "evaluation.json").write_text(json.dumps(record))
    assert "not tested for chance: the two runs were measured on different pictures." in page_of_two(
        run, other, tmp_path
    )
    record = json.loads((run / "evaluation.json").read_text())
    record["classes"] = [{**entry, "name": f"new {entry['name']}"} for entry in record["classes"]]
    (other / "evaluation.json").write_text(json.dumps(record))
    assert "not tested for chance: the two runs have different classes." in page_of_two(run, other, tmp_path)
    with_counts(other, [4] * 8)
    record = json.loads((run / "evaluation.json").read_text())
    record["per_image"][0]["counts"] = [[99, "x"]]
    (other / "evaluation.json").write_text(json.dumps(record))
    assert "the counts in evaluation.json are damaged" in page_of_two(run, other, tmp_path)


def test_a_run_without_scores_is_compared_last(run, tmp_path):
    other = run.parent / "begun"
    other.mkdir()
    (other / "config.yaml").write_text("name: begun\n")
    (other / "metrics.jsonl").write_text('{"kind": "train", "step": 10, "epoch": 1, "loss": 1.0}\n')
    html = report([other, run], out=tmp_path / "both.html").read_text(encoding="utf-8")
    assert html.index("tiny &lt;run&gt;<br>") < html.index("begun<br>")
    assert html.count('<svg class="chart"') == 2  # of validations that of the other run
