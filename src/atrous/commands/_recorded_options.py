"""Records the options of a measurement in evaluation.json, and reads them to repeat the measurement or its masks."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atrous.console import note
from atrous.data.dataset_spec import DatasetSpec
from atrous.errors import AtrousError
from atrous.inference.choose_engine import ENGINES
from atrous.inference.dataset_case_ids import without_reasons
from atrous.inference.exported_onnx_and_openvino import is_exported
from atrous.inference.model_spec import ModelSpec
from atrous.model_file import sha256_of
from atrous.overwrite_checks import JSON_KEY, MARK
from atrous.run_folder import Record, Run

if TYPE_CHECKING:
    from atrous.data.dataset import Dataset
    from atrous.inference.segmenter import Segmenter
    from atrous.inference.volume_parts import VolumeParts
    from atrous.models.info import Info

#: Recorded options that determine how pictures are cut into tiles.
TILING = ("tile", "overlap", "memory")
#: Recorded options that remove connected parts of the masks of volumes.
PARTS = ("largest_part", "smallest_part")
#: Options that are recorded if they differ from the defaults.
GIVEN = ("scales", "flip", "output_stride", "range", *TILING)
#: Recorded options that change masks; engine, precision and crf are recorded with the values that were really used.
OPTIONS = ("engine", "precision", *GIVEN, "crf")


def recorded_options(spec: ModelSpec) -> Record:
    """Returns the options of the model as evaluation.json records them.

    Args:
        spec: specification with which the model was opened.
    """
    usual = ModelSpec(spec.path)
    return {name: _plain(getattr(spec, name)) for name in GIVEN if getattr(spec, name) != getattr(usual, name)}


def recorded_run(
    model: Path, data: Path, split: str, reading: DatasetSpec, images: int, segmenter: Segmenter, spec: ModelSpec
) -> Record:
    """Returns the first entries of a file of results: the model, the data, and how the network was run.

    Args:
        model: path of the model.
        data: folder of the dataset.
        split: name of the measured split.
        reading: specification with which the dataset was read.
        images: number of pictures of the split.
        segmenter: segmenter that ran the model.
        spec: specification of the model.
    """
    return {
        JSON_KEY: MARK,
        "model": str(model),
        "model_sha256": sha256_of(model),
        "data": str(Path(data).resolve()),
        "split": split,
        **recorded_reading(reading),
        "images": images,
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
        **recorded_options(spec),
    }


def recorded_reading(spec: DatasetSpec) -> Record:
    """Returns the options of the dataset as evaluation.json records them.

    Args:
        spec: specification with which the dataset was read.
    """
    return {name: _plain(value) for name in ("layout", "input", "groups") if (value := getattr(spec, name))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def measured_model(run: Run) -> Path | None:
    """Returns the file of the measured model: the run's best.safetensors or the file at the recorded path.

    If a checksum is recorded, the first of these two files with this checksum is returned. If no checksum is recorded,
    the file at the recorded path is preferred. The result is None if neither file exists, or if neither file has the
    checksum.
    """
    recorded, digest = run.evaluation.get("model"), run.evaluation.get("model_sha256")
    there = [path for path in (run.model_file, Path(str(recorded or run.model_file))) if path.is_file()]
    if digest:
        return next((path for path in there if sha256_of(path) == digest), None)
    return there[-1] if there else None


def was_trained_here(run: Run) -> bool:
    """Returns whether a training wrote the run; if not, the folder is that of an evaluation of a given model.

    Args:
        run: the run of the page.
    """
    model = Path(run.evaluation.get("model") or run.model_file)
    was_moved = model.name == run.model_file.name and not model.is_file()  # with the folder of the run
    return bool(run.config or run.train or run.val) or was_moved or model.resolve() == run.model_file.resolve()


def measured_data(run: Run) -> DatasetSpec:
    """Returns the specification of the measured dataset, with the recorded options.

    Raises:
        AtrousError: `DatasetSpec` refuses the recorded options.
    """
    layout, groups = (_measured_with(run, name) for name in ("layout", "groups"))
    return DatasetSpec(Path(run.data), layout, run.evaluation.get("input"), groups)


def _measured_with(run: Run, name: str) -> Any:
    """Returns the recorded option of the dataset; if it is not recorded, the option of a training on the same data."""
    settings = run.settings("data")
    trained_on_it = Path(settings.get("root") or "").resolve() == Path(run.data).resolve()
    return run.evaluation.get(name) or (settings.get(name) if trained_on_it else None)


def measured_spec(run: Run) -> ModelSpec:
    """Returns the specification with which the model predicts the measured masks again.

    Raises:
        AtrousError: `ModelSpec` refuses the recorded options.
    """
    return ModelSpec(measured_model(run) or run.model_file, **measured_options(run))


def opened_again(run: Run, noun: str) -> tuple[Segmenter, Dataset]:
    """Opens the measured model and the measured dataset with the recorded options, so that masks and scores agree.

    Args:
        run: the run of the page.
        noun: word for the measured pictures in messages, in the plural.

    Raises:
        AtrousError: the model changed, or the model or the dataset cannot be opened.
    """
    words, ids = f"The {noun} cannot be drawn again:", run.evaluation.get("case_ids")
    if measured_model(run) is None and run.model_file.is_file():
        raise AtrousError(f"{words} the model changed after the scores were measured.")
    with_paths = all(Path(record["image"]).is_absolute() for record in run.evaluation.get("per_image", []))
    try:
        if ids and not with_paths and not Path(ids).is_file():
            raise AtrousError(f"evaluation.json names case ids instead of files. Give --case-ids, the table {ids}.")
        segmenter = measured_spec(run).open(note)
        with without_reasons(Path(run.data), private=bool(ids)):
            dataset = measured_data(run).open(segmenter.info.preprocessing.image)
        if ids and not with_paths:
            raise AtrousError("measured volumes are missing in the data set.")
        return segmenter, dataset
    except (AtrousError, OSError) as error:
        raise AtrousError(f"{words} {error}") from error


def measured_options(run: Run) -> Record:
    """Returns the recorded fields of `ModelSpec`."""
    recorded = {name: run.evaluation[name] for name in OPTIONS if run.evaluation.get(name) is not None}
    if recorded.get("engine") not in ENGINES or is_exported(measured_model(run) or run.model_file):
        recorded.pop("engine", None)  # the format of an exported file determines its engine
    return recorded


def measured_parts(run: Run, info: Info) -> VolumeParts | None:
    """Returns which connected parts were kept in the measured masks of volumes; None if all were kept.

    Args:
        run: the run of the page.
        info: metadata of the measured model.

    Raises:
        AtrousError: the recorded options do not fit the model.
    """
    from atrous.inference.volume_parts import parts_to_keep

    recorded = run.evaluation.get("volumes", {})
    largest, smallest = (tuple(recorded.get(name, ())) for name in PARTS)
    return parts_to_keep(largest, smallest, info) if largest or smallest else None


def evaluate_command(run: Run, *, overwrite: bool = False) -> str:
    """Returns the command that measures the run again, with the same options.

    Args:
        run: the run whose evaluation.json the command writes.
        overwrite: whether the command contains --overwrite.
    """
    recorded = run.evaluation
    words: list[str | Path] = ["atrous", "evaluate", measured_model(run) or run.model_file, run.data or "DATA"]
    words += ["--split", recorded.get("split") or "val"]
    if recorded.get("layout"):
        words += ["--layout", recorded["layout"]]
    if recorded.get("input"):
        words += ["--input", ",".join(recorded["input"])]
    if groups := _measured_with(run, "groups"):
        words += ["--groups", groups]
    options = measured_options(run)
    if options.get("engine", "torch") != "torch":
        words += ["--engine", options["engine"]]
    if options.get("precision", "float32") != "float32":
        words += ["--precision", options["precision"]]
    if "scales" in options:
        words += ["--scales", ",".join(f"{scale:g}" for scale in options["scales"])]
    if options.get("flip"):
        words.append("--flip")
    if "output_stride" in options:
        words += ["--output-stride", str(options["output_stride"])]
    if "range" in options:
        words.append(f"--range={','.join(f'{value:g}' for value in options['range'])}")
    for name in TILING:
        words += [f"--{name}", f"{options[name]:g}"] if name in options else []
    if "crf" in options:
        stored = options["crf"] == run.model_info.get("crf")
        words += ["--crf", "model" if stored else json.dumps(options["crf"])]
    volumes = recorded.get("volumes") or {}
    if volumes.get("tolerance_mm", 1.0) not in (1.0, None):
        words += ["--tolerance", f"{volumes['tolerance_mm']:g}"]
    for name in PARTS:
        words += [f"--{name.replace('_', '-')}", ",".join(volumes[name])] if volumes.get(name) else []
    words += ["--case-ids", recorded["case_ids"]] if recorded.get("case_ids") else []
    words += ["--json", run.folder / "evaluation.json", *(["--overwrite"] if overwrite else [])]
    return " ".join(shlex.quote(str(word)) for word in words)


def commands(run: Run, out: Path | None = None) -> list[str]:
    """Returns the commands that train, measure and report the run again; a given model is not trained.

    Args:
        run: the run of the page.
        out: path of the page; None for report.html in the run's folder.
    """
    table = run.evaluation.get("case_ids")
    more = (f" --case-ids {shlex.quote(table)}" if table else "") + (f" --out {shlex.quote(str(out))}" if out else "")
    config, folder = (shlex.quote(str(path)) for path in (run.folder / "config.yaml", run.folder))
    train = [f"atrous train {config}" if run.config else "atrous train RECIPE.yaml"] if was_trained_here(run) else []
    return [*train, evaluate_command(run, overwrite=bool(run.damaged)), f"atrous report {folder}{more}"]


def missing(run: Run, out: Path | None = None) -> dict[str, list[str]]:
    """Returns sentences about the missing files of a run, grouped by the command that writes the files.

    For a given model, files of a training are not missing.

    Args:
        run: the run of the page.
        out: path of the page; None for report.html in the run's folder.
    """
    if not was_trained_here(run):
        return {}
    train, evaluate, _ = commands(run, out)
    found: dict[str, list[str]] = {}
    lost = f"{run.damaged} Without it," if run.damaged else "There is no evaluation.json:"
    for is_there, command, words in (
        (run.evaluation, evaluate, f"{lost} the page has no scores per class and no pictures."),
        (run.train or run.val, train, "There is no line in metrics.jsonl: the page has no curves."),
        (run.config, train, "There is no config.yaml: the settings are not known."),
        (run.model_file.is_file(), train, "There is no best.safetensors: the model cannot predict again."),
    ):
        if not is_there:
            found.setdefault(command, []).append(words)
    return found


def options_in_words(evaluation: Record) -> str:
    """Returns the recorded options as text, such as "torch, float32, scales 0.5 1, flip"; "" if none are recorded."""
    scales, stride, values = (evaluation.get(name) for name in ("scales", "output_stride", "range"))
    parts = [
        evaluation.get("engine"),
        evaluation.get("precision"),
        "scales " + " ".join(f"{scale:g}" for scale in scales) if scales else None,
        "flip" if evaluation.get("flip") else None,
        f"output stride {stride}" if stride else None,
        "range " + " ".join(f"{value:g}" for value in values) if values else None,
        *(f"{name} {evaluation[name]:g}" for name in TILING if evaluation.get(name) is not None),
        "CRF" if evaluation.get("crf") else None,
    ]
    return ", ".join(filter(None, parts))
