"""Every verb works in every locale: texts are UTF-8 whatever it says, and names that are no text get through."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.cli import main
from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable

SOURCE = Path(atrous.__file__).parent
ROOT = Path(__file__).parents[1]
CHECKED = sorted(
    path
    for folder in (SOURCE, *(ROOT / name for name in ("benchmarks", "docs", ".ci", "tests/parity")))
    for path in folder.rglob("*.py")
)
PLAIN = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
LOCALES = {"GBK": ("zh_CN", "GBK"), "cp1250": ("pl_PL", "CP1250"), "Shift-JIS": ("ja_JP", "SHIFT_JIS")}


def opens_text_in_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding that the locale happens to have."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = {keyword.arg for keyword in call.keywords}
    constants = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    modes = constants + [keyword.value.value for keyword in call.keywords if isinstance(keyword.value, ast.Constant)]
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute) and "encoding" not in words
    if name in ("open", "fdopen", "NamedTemporaryFile", "TextIOWrapper"):
        module = (
            call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
        )
        modules = ("os", "Image", "rasterio", "spec", "tarfile", "tifffile", "webbrowser", "zipfile")
        other = module in (*modules, "archive")  # members of a zip are read as bytes
        text = name != "NamedTemporaryFile" or any(isinstance(mode, str) and mode in ("w", "r", "w+") for mode in modes)
        binary = any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)
        opened = ast.unparse(call.func).removesuffix(".open")
        specs = ("measured_data(", "spec_to_measure(", "side.measured")  # which open models and datasets
        opener = opened == "build_opener()" or "spec" in opened.lower() or opened.startswith(specs)
        return text and not binary and not other and not opener and "encoding" not in words
    if name in ("run", "Popen", "check_output") and words & {"text", "universal_newlines"}:
        return "encoding" not in words
    return False


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: "/".join(path.parts[-3:]))
def test_text_files_name_their_encoding(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    wrong = [f"{path}:{call.lineno}" for call in calls if opens_text_in_the_locale(call)]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("p.read_text()", True),
        ("open(p)", True),
        ("p.open('wb')", False),
        ("p.open('a')", True),
        ("p.open(encoding='utf-8')", False),
    ],
)
def test_the_check_finds_what_it_looks_for(text, wrong):
    assert opens_text_in_the_locale(ast.parse(text).body[0].value) == wrong  # pyright: ignore


def dataset(root: Path) -> Path:
    """Six pictures whose folder, names and classes are in no locale of them all, one with a name that is no text."""
    rng = np.random.default_rng(0)
    stems = ("é1", "日本", "łąka", "d", "e", os.fsdecode(b"\xe9"))
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for stem in stems:
        with (root / f"images/{stem}.png").open("wb") as file:
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file, "png")
        with (root / f"masks/{stem}.png").open("wb") as file:
            Image.fromarray(rng.integers(0, 2, (32, 32), dtype=np.uint8)).save(file, "png")
    (root / "splits/train.txt").write_bytes("\n".join(stems[:4]).encode("utf-8"))
    (root / "splits/val.txt").write_bytes(b"e.png\n\xe9.png\n")
    ClassTable(("straße", "車"), default_colors(2), ((0,), (1,))).to_yaml(root / "classes.yaml")
    return root


@pytest.fixture(params=["C", *LOCALES])
def environment(request, tmp_path) -> dict[str, str]:
    """The variables of a locale that is not UTF-8; skips where it cannot be made."""
    if request.param == "C":
        return PLAIN
    language, charset = LOCALES[request.param]
    if shutil.which("localedef") is None:
        pytest.skip("no localedef")
    made = tmp_path / "locales" / f"{language}.{charset}"
    made.parent.mkdir()
    subprocess.run(["localedef", "-c", "-i", language, "-f", charset, made], capture_output=True, check=False)
    if not made.is_dir():
        pytest.skip(f"localedef makes no {made.name} here")
    return {"LOCPATH": str(made.parent), "LC_ALL": made.name, "PYTHONUTF8": "0"}


def atrous_in(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "atrous", *map(os.fsencode, map(os.fspath, words))],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


def test_doctor_in_any_locale(environment, tmp_path):
    root = dataset(tmp_path / "dätä")
    done = atrous_in(environment, "doctor", root, "--json", tmp_path / "é.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "é.json").read_text(encoding="utf-8"))
    assert told["images"] == {"train": 4, "val": 2}
    assert [one["name"] for one in told["classes"]] == ["straße", "車"]


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["C"], indirect=True)
def test_train_evaluate_predict_and_report_in_any_locale(environment, tmp_path):
    root, run = dataset(tmp_path / "dätä"), tmp_path / "lauf é"
    recipe = tmp_path / "rezept ü.yaml"
    recipe.write_text("# é 日本\nname: ü\nmodel: {backbone: mobilenetv2_050, pretrained: false}\n", encoding="utf-8")
    options = ["--augment.crop", "[32,32]", "--train.batch_size", "2", "--data.workers", "0", "--train.epochs", "1"]
    for words in (
        ("train", recipe, "--data.root", root, "--out", run, *options),
        ("train", "--resume", run, "--train.epochs", "2"),
        ("evaluate", run / "best.safetensors", root, "--json", tmp_path / "scores.json"),
        ("predict", run / "best.safetensors", root / "images", "--out", tmp_path / "masks é"),
        ("report", run),
    ):
        done = atrous_in(environment, *words)
        assert done.returncode == 0, (words, (done.stdout + done.stderr).decode(errors="replace"))
    assert len(list((tmp_path / "masks é").iterdir())) >= 6


def test_a_name_that_is_no_text(tmp_path, capsys):
    root = dataset(tmp_path / os.fsdecode(b"d\xe9"))
    assert main(["doctor", str(root), "--json", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))["root"] == str(root)
    assert "no errors" in capsys.readouterr().out
