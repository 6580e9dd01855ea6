"""`atrous export`: write a model as ONNX, OpenVINO or PyTorch, for other programs.

Examples:
    atrous export model.safetensors --out model.onnx
    atrous export model.safetensors --format openvino --int8 --calibrate data/
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape

from atrous import model_file
from atrous.atomic_write import atomic_path, temporary_folder
from atrous.checked_arguments import checked
from atrous.console import console, warn_if_fresh
from atrous.data.dataset import Dataset
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.input_files import SceneFiles, input_folders
from atrous.data.pixels import fill_missing, to_depth
from atrous.data.sources.scene_files import read_scene
from atrous.errors import AtrousError, unknown_name
from atrous.inference import export_graph, exported_onnx_and_openvino, int8_quantisation
from atrous.inference.picture_paths import find_pictures
from atrous.inference.pipeline import Pipeline
from atrous.inference.segmenter import Segmenter
from atrous.learning.crf_search import evenly
from atrous.learning.evaluation import measure, open_to_measure, prepared, reader_for
from atrous.models import SegmentationModel
from atrous.models.info import Preprocessing
from atrous.models.layers import resize
from atrous.option_fields import taking
from atrous.overwrite_checks import Output, check_outputs

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}

#: (H, W) of the pictures on which an exported file is compared with its model: odd sides, a small picture, and a
#: typical training crop.
SIZES = ((129, 97), (64, 80), (384, 512))
#: Smallest share of pixels on which the exported file and the model must agree.
LEAST_AGREEMENT = 0.999
#: Two classes of a pixel are tied if their logits differ by less than this share of the range of the picture's logits;
#: rounding decides which of the two classes is predicted.
TIE = 1e-4
#: Largest number of pictures in the folder of --check that are compared.
MOST_CHECKED = 4
#: Number of training pictures on which the ranges of values are measured for int8.
CALIBRATED = 128

Labels = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """Agreement between two runtimes of a model on pictures of one size.

    Args:
        size: (H, W) in pixels.
        share: share of the pixels whose labels are equal or tied (see `TIE`), 0–1.
        classes: number of classes that occur in the model's masks.
    """

    size: tuple[int, int]
    share: float
    classes: int


@checked
@taking(DatasetSpec)
def export(
    model: Path,
    *,
    format: str | None = None,
    out: Path | None = None,
    scores: bool = False,
    half: bool = False,
    check: Path | None = None,
    int8: bool = False,
    calibrate: Path | None = None,
    max_drop: float = 0.5,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Write a model as one graph from raw pictures to masks, and check that the graph predicts the same masks.

    Args:
        model: model file to export.
        format: file format: onnx, openvino (a .xml and a .bin file) or torch (a .pt2 file, for other programs only);
            by default the format that the suffix of `out` names.
        out: file to write, .onnx, .xml or .pt2; by default the name of the model file with the suffix of the format.
        scores: add the low-resolution logits as an output; --scales, --flip and --crf of other verbs need this output.
        half: store the weights in 16 bits (openvino only); this halves the file and hardly changes the masks.
        check: picture or folder of pictures on which the masks are compared; synthetic pictures when not given.
        int8: compute in 8-bit integers (openvino and onnx only); the file has a quarter to a third of the size, and
            OpenVINO runs it faster. The float32 model and the int8 file are measured on `calibrate`.
        calibrate: folder of a labelled dataset, in any layout; int8 takes the ranges of values from its training
            pictures, and measures the scores on its validation pictures.
        max_drop: largest loss of mean IoU by int8, 0–100 points; a file that loses more is not written.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: fields of `DatasetSpec`: how `calibrate` is read; input also applies to `check`.

    Returns:
        The path of the file written.

    Raises:
        AtrousError: the model does not exist; the file may not be written; a package is missing; the masks differ on
            more than 0.1 % of the pixels of any size; or int8 loses more than `max_drop`. Then nothing is written.
    """
    format, out = _format_and_file(model, format, out)
    targets = [out, out.with_suffix(".bin")] if format == "openvino" else [out]
    check_outputs(
        "export",
        [Output("out", target, "exported file", _is_ours) for target in targets],
        [
            ("the model itself, not an exported file of atrous", model),
            ("the pictures of check", check),
            ("the data set", calibrate),
        ],
        overwrite=overwrite,
    )
    if half and format != "openvino":
        raise AtrousError(f"half is for openvino, which converts the weights back at run time; got format {format}.")
    if calibrate is not None and not int8:
        raise AtrousError(
            f"calibrate is {calibrate}, but only int8 uses it: give --int8 too, or leave --calibrate out."
        )
    for name in ("layout", "groups"):
        if options.get(name) is not None and calibrate is None:
            raise AtrousError(f"{name} is for the dataset of --calibrate: give --calibrate too, or leave {name} out.")
    export_graph.check_installed(format)
    dataset = _check_int8(format, half, max_drop, model, calibrate, options) if int8 else None
    module = model_file.load(model)
    warn_if_fresh(module.info.provenance)
    images = _check_images(check, module.info.preprocessing, input_folders(options.get("input") or ()))
    program = export_graph.trace(module, with_scores=scores)
    try:
        with temporary_folder(out) as folder:
            draft = folder / out.name
            export_graph.write(program, module.info, format, draft, half=half)
            labels = _labels(program.module()) if format == "torch" else _open(format, draft)
            agreements = agreements_of(module, labels, images)
            _refuse_other_masks(agreements, model, format, half)
            if dataset is not None:
                draft = _in_int8(draft, module, dataset, max_drop)
            for file in (draft.with_suffix(".bin"), draft):  # the .xml is written last, because programs open the .xml
                if file.exists():
                    with atomic_path(out.with_suffix(file.suffix), sync=True) as part:
                        file.replace(part)
    except OSError as error:
        raise AtrousError(f"cannot write {out}: {error.strerror or error}. An earlier file is unchanged.") from error
    _print(out, model, agreements, int8, scores)
    return out


def agreements_of(model: SegmentationModel, labels: Labels, images: Sequence[np.ndarray]) -> list[Agreement]:
    """Compares the masks of an exported model with those of the model itself, in float32.

    A pixel with two different labels still counts as equal if the model's logits of these labels are tied (see `TIE`).

    Args:
        model: the model, in evaluation mode, on the CPU.
        labels: the exported model as a function from H×W×C raw values to H×W uint8 class indices.
        images: pictures, H×W×C raw values each.

    Returns:
        The agreement for each size, in the order of the first picture of the size.
    """
    pipeline = Pipeline(model)
    equal: dict[tuple[int, int], list[np.ndarray]] = {}
    found: dict[tuple[int, int], set[int]] = {}
    for image in images:
        size = (image.shape[0], image.shape[1])
        with torch.inference_mode():
            low = pipeline(torch.tensor(image).permute(2, 0, 1)[None])
            logits = resize(low, size, model.align_corners)[0]
            if len(logits) == 1:
                logits = torch.cat([torch.zeros_like(logits), logits])
        theirs = torch.tensor(labels(image)).long()
        known = theirs < len(logits)
        chosen = logits.gather(0, theirs.clamp(max=len(logits) - 1)[None])[0]
        tie = TIE * float(logits.max() - logits.min())
        equal.setdefault(size, []).append((known & (logits.amax(0) - chosen <= tie)).numpy())
        found.setdefault(size, set()).update(logits.argmax(0).unique().tolist())
    return [Agreement(size, float(np.mean(shares)), len(found[size])) for size, shares in equal.items()]


def draw(size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """Returns a synthetic picture with soft shading, edges and texture, with values as in training.

    Args:
        size: (H, W) in pixels.
        preprocessing: the model's preprocessing, with the means, standard deviations and pixel type of the picture.

    Returns:
        H×W×C uint8, or float32 for models of pictures with more than 8 bits.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    channels = []
    for _ in preprocessing.mean:
        waves = [np.sin(rng.uniform(2, 14) * x + rng.uniform(2, 14) * y + rng.uniform(0, 6)) for _ in range(3)]
        discs = [np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 1)) < rng.uniform(0.05, 0.3) for _ in range(6)]
        shades = rng.normal(0, 1.5, len(discs))
        channels.append(sum(waves) / 2 + sum(s * d for s, d in zip(shades, discs, strict=True)))
    image = np.stack(channels, -1) + rng.normal(0, 0.1, (*size, len(channels)))
    image = image * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)
    return _as_input(image, preprocessing.dtype)


def _as_input(image: np.ndarray, dtype: str) -> np.ndarray:
    """Converts an H×W×C array to the type of the graph's input; for integer types, rounds and clips it."""
    if dtype == "float32":
        return image.astype(np.float32)
    whole = image.round().clip(0, np.iinfo(dtype).max)
    return whole.astype(np.uint8 if dtype == "uint8" else np.float32)


def _format_and_file(model: Path, format: str | None, out: Path | None) -> tuple[str, Path]:
    """Returns the format and the file; if only one of them was given, the other is derived from it."""
    if format is None:
        if out is None:
            raise AtrousError(
                f"give --format ({', '.join(SUFFIXES)}), or an --out that ends in {', '.join(SUFFIXES.values())}."
            )
        format = next((name for name, suffix in SUFFIXES.items() if suffix == out.suffix.lower()), None)
        if format is None:
            raise AtrousError(f"out is {out}; an exported file's name ends in {', '.join(SUFFIXES.values())}.")
    if format not in SUFFIXES:
        raise unknown_name("format", format, SUFFIXES)
    out = out or model.with_suffix(SUFFIXES[format])
    if out.suffix.lower() != SUFFIXES[format]:
        raise AtrousError(f"out is {out}; the name of a file of format {format} ends in {SUFFIXES[format]}.")
    return format, out


def _is_ours(out: Path) -> bool:
    """Returns whether atrous exported a file, so that it may be replaced; no code in the file is run."""
    if out.suffix.lower() == ".bin":
        return exported_onnx_and_openvino.is_weights_of(out.with_suffix(".xml"), out)
    if out.suffix.lower() == ".pt2":
        try:
            with zipfile.ZipFile(out) as file:
                return any(Path(name).name == f"{exported_onnx_and_openvino.INFO_KEY}.json" for name in file.namelist())
        except (OSError, zipfile.BadZipFile):
            return False
    try:
        exported_onnx_and_openvino.read_info(out)
    except AtrousError:
        return False
    return True


def _check_images(check: Path | None, preprocessing: Preprocessing, folders: Mapping[str, str]) -> list[np.ndarray]:
    """Returns pictures at every size of `SIZES`: the given pictures resized, or synthetic ones."""
    if check is None:
        return [draw(size, preprocessing) for size in SIZES]
    images, scenes = [], SceneFiles([one.name for one in preprocessing.inputs], folders)
    for path in find_pictures([check])[:MOST_CHECKED]:
        image, valid, _ = read_scene(list(scenes.of(path).values()), preprocessing.inputs)
        image = fill_missing(to_depth(image, preprocessing.dtype), valid, preprocessing.mean)
        for height, width in SIZES:
            rows = np.linspace(0, image.shape[0] - 1, height).round().astype(int)
            columns = np.linspace(0, image.shape[1] - 1, width).round().astype(int)
            images.append(_as_input(image[rows][:, columns], preprocessing.dtype))
    return images


def _labels(module: torch.nn.Module) -> Labels:
    """Returns a function that predicts masks with a traced program.

    atrous never reads a .pt2 file, because it contains pickles. So the check runs the program that the file was
    written from.
    """

    def labels(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.tensor(image).permute(2, 0, 1)[None])[0][0].numpy()

    return labels


def _open(format: str, path: Path) -> Labels:
    return (exported_onnx_and_openvino.OnnxGraph if format == "onnx" else exported_onnx_and_openvino.OpenVinoGraph)(
        path
    ).labels


def _refuse_other_masks(agreements: Sequence[Agreement], model: Path, format: str, half: bool) -> None:
    if all(agreement.share >= LEAST_AGREEMENT for agreement in agreements):
        return
    cure = (
        "Export without --half."
        if half
        else "Try another --format. If its masks agree, this is a bug: please report it."
    )
    raise AtrousError(
        f"the masks of the {format} file differ from those of {model}: they agree on {_words(agreements)}, but must "
        f"agree on at least {LEAST_AGREEMENT:.1%}. Nothing was written. {cure}"
    )


def _check_int8(
    format: str, half: bool, max_drop: float, model: Path, calibrate: Path | None, options: Mapping[str, Any]
) -> Dataset:
    """Checks whether the options of int8 can be combined, and returns the dataset of --calibrate."""
    if format == "torch" or half:
        raise AtrousError("int8 is for --format openvino or onnx, without --half.")
    if calibrate is None:
        raise AtrousError("int8 needs --calibrate DATA, a labelled dataset with training and validation pictures.")
    if not 0 <= max_drop <= 100:
        raise AtrousError(f"max_drop must be 0 to 100 points of mean IoU, got {max_drop}.")
    int8_quantisation.check_installed()
    info = model_file.read_info(model)
    dataset = open_to_measure(
        DatasetSpec(calibrate, **options), info.provenance, info.preprocessing.image, resampled=True
    )
    for split in ("train", "val"):
        dataset.split(split)
    return dataset


def _in_int8(draft: Path, module: SegmentationModel, dataset: Dataset, max_drop: float) -> Path:
    """Quantises a file to 8 bits; each attempt keeps more layers in floating point, until the score is high enough."""
    items = dataset.split("val")
    segmenter = Segmenter(module, engine="torch", precision="float32", device="cpu")
    console.print(f"measuring on the {len(items)} validation pictures of {escape(str(dataset.root))}")
    before = measure(segmenter, dataset, items).confusion.miou
    chosen = evenly(dataset.split("train"), CALIBRATED)
    images = [_as_batch(prepared(segmenter, reader_for(segmenter, dataset)(item))) for item in chosen]
    drops = {}
    for attempt in int8_quantisation.ATTEMPTS:
        target = draft.with_name(f"int8-{len(drops)}{draft.suffix}")
        kept = int8_quantisation.quantise(draft, images, attempt, target)
        after = measure(Segmenter(target), dataset, items).confusion.miou
        drops[attempt] = 100 * (before - after)
        console.print(
            f"int8 with {attempt} in floating point ({len(kept)} convolutions): mIoU {after:.4f}; in float32 "
            f"{before:.4f}"
        )
        if drops[attempt] <= max_drop:
            for file in (target.with_suffix(".bin"), target):
                if file.exists():
                    file.replace(draft.with_suffix(file.suffix))
            if kept:
                console.print(f"layers in floating point: {escape(', '.join(kept))}")
            return draft
    raise AtrousError(
        f"int8 loses at least {min(drops.values()):.2f} points of mean IoU; --max-drop allows {max_drop:g}. "
        "Nothing was written."
    )


def _as_batch(image: np.ndarray) -> np.ndarray:
    """Converts an H×W×C picture to 1×C×H×W of the type of the graph's input."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.uint8 if image.dtype == np.uint8 else np.float32)[None]


def _print(out: Path, model: Path, agreements: Sequence[Agreement], int8: bool, scores: bool) -> None:
    files = [out.with_suffix(".bin"), out] if out.suffix.lower() == ".xml" else [out]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    before = "Before the conversion to int8, its" if int8 else "Its"
    console.print(
        escape(
            f"written: {out}, {megabytes:.1f} MB. {before} masks agree with those of {model} in float32: "
            f"{_words(agreements)}."
        )
    )
    if max(agreement.classes for agreement in agreements) == 1:
        console.print(
            "All compared masks contain only one class, so the check shows little: give your own pictures with --check."
        )
    if exported_onnx_and_openvino.is_exported(out):
        if not scores:
            console.print("The file returns labels only: --scales, --flip and --crf need an export with --scores.")
        console.print(escape(f"Next: atrous predict {out} PICTURES"))


def _words(agreements: Sequence[Agreement]) -> str:
    # Rounded down, so that only full agreement is shown as 100 %.
    shares = (f"{int(each.share * 1e5) / 1e3:g} % at {each.size[0]}×{each.size[1]}" for each in agreements)
    return f"{', '.join(shares)} of the pixels"
