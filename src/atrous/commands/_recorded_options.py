"""How a run's scores were measured, as evaluation.json records it: to measure or to draw masks the same way again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from atrous.inference.engine import ENGINES
from atrous.inference.exported import is_exported
from atrous.run_folder import Record, Run

#: Recorded options that change masks, beside the model.
OPTIONS = ("engine", "precision", "scales", "flip", "output_stride", "range", "crf")


def measured_model(run: Run) -> Path:
    """The model that was measured where it is still there; else the run's best."""
    recorded = run.evaluation.get("model")
    return Path(recorded) if isinstance(recorded, str) and Path(recorded).is_file() else run.model_file


def measured_layout(run: Run) -> str | None:
    """The layout that the data set was read in: as recorded, or as in training where it is the same data."""
    settings = run.settings("data")
    trained_on_it = Path(settings.get("root") or "").resolve() == Path(run.data).resolve()
    return run.evaluation.get("layout") or (settings.get("layout") if trained_on_it else None)


def segmenter_options(run: Run) -> dict[str, Any]:
    """The arguments of a `Segmenter` that gives the masks which were measured."""
    recorded = {name: run.evaluation[name] for name in OPTIONS if run.evaluation.get(name)}
    if recorded.get("engine") not in ENGINES or is_exported(measured_model(run)):
        recorded.pop("engine", None)  # an exported file has its own
    return recorded


def evaluate_command(run: Run, *, overwrite: bool = False) -> str:
    """What to type to measure again, with the same options.

    Args:
        run: whose evaluation.json is to be made.
        overwrite: replace what is there.
    """
    recorded = run.evaluation
    words: list[str | Path] = ["atrous", "evaluate", measured_model(run), run.data or "DATA"]
    words += ["--split", recorded.get("split") or "val"]
    if recorded.get("layout"):
        words += ["--layout", recorded["layout"]]
    options = segmenter_options(run)
    if options.get("engine", "torch") != "torch":
        words += ["--engine", options["engine"]]
    if options.get("precision", "float32") != "float32":
        words += ["--precision", options["precision"]]
    if "scales" in options:
        words += ["--scales", ",".join(f"{scale:g}" for scale in options["scales"])]
    if "flip" in options:
        words.append("--flip")
    if "output_stride" in options:
        words += ["--output-stride", str(options["output_stride"])]
    if "range" in options:
        words.append(f"--range={','.join(f'{value:g}' for value in options['range'])}")
    if "crf" in options:
        stored = options["crf"] == run.model_info.get("crf")
        words += ["--crf", "model" if stored else json.dumps(options["crf"])]
    words += ["--json", run.folder / "evaluation.json", *(["--overwrite"] if overwrite else [])]
    return " ".join(shlex.quote(str(word)) for word in words)


def options_in_words(evaluation: Record) -> str:
    """The recorded options in words, such as "torch, float32, scales 0.5 1, flip"; "" where nothing was recorded."""
    scales, stride, values = (evaluation.get(name) for name in ("scales", "output_stride", "range"))
    parts = [
        evaluation.get("engine"),
        evaluation.get("precision"),
        "scales " + " ".join(f"{scale:g}" for scale in scales) if scales else None,
        "flip" if evaluation.get("flip") else None,
        f"output stride {stride}" if stride else None,
        "range " + " ".join(f"{value:g}" for value in values) if values else None,
        "CRF" if evaluation.get("crf") else None,
    ]
    return ", ".join(filter(None, parts))
