"""`atrous explain`: draw maps that explain a model's predictions.

Examples:
    atrous explain runs/quickstart/best.safetensors photos/
    atrous explain model.safetensors street.jpg --classes Road,Car --out why/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.markup import escape

from atrous import charts, model_file
from atrous.atomic_write import write_text
from atrous.checked_arguments import checked
from atrous.commands._html_page import template
from atrous.console import console, progress_bar, warn_if_fresh
from atrous.data.class_colors import color_table
from atrous.data.dataset_spec import DatasetSpec
from atrous.data.file_of_picture import file_of_picture
from atrous.data.input_files import SceneFiles, input_folders
from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.data.volumes.slices import volume_name
from atrous.device import pick_device
from atrous.errors import AtrousError, SomeInputsFailed, counted, unknown_name
from atrous.explaining.explanation import ClassSeen, Explanation, PartSeen, explain_picture
from atrous.inference.exported_onnx_and_openvino import is_exported
from atrous.inference.model_spec import ModelSpec
from atrous.inference.picture_paths import find_pictures
from atrous.inference.prediction import visible
from atrous.inference.segmenter import Segmenter
from atrous.option_fields import given_to, taking
from atrous.overwrite_checks import (
    Output,
    check_is_folder,
    check_outputs,
    model_inputs,
    no_empty_folder,
    page_output,
    picture_output,
    save_picture,
)
from atrous.paths import failure_in_words
from atrous.version import __version__

#: Largest number of pictures on the page; each adds a few megabytes.
MOST_PICTURES = 40
#: Names of the network's parts on the page.
GROUPS = {"pyramid": "the pyramid", "decoder": "the decoder", "sides": "the side features"}

#: Colours of positions that raise a score (red) and of positions that lower it (blue).
FOR, AGAINST = (178, 24, 43), (33, 102, 172)


@dataclass(frozen=True, eq=False)
class Layer:
    """One map as a picture.

    Args:
        section: section of the page; for the maps of a class, the name of the class.
        name: name of the map.
        picture: H×W×3 uint8.
        index: class index for the map of a class; None for other maps.
    """

    section: str
    name: str
    picture: NDArray[np.uint8]
    index: int | None = None


@checked
@taking(DatasetSpec, "input")
@taking(ModelSpec, "crf", "range", "device")
def explain(
    model: Path,
    paths: list[Path],
    *,
    out: Path = Path("explained"),
    classes: list[str] | None = None,
    most: int = 4,
    tensorboard: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Explain a model's predictions on pictures, as one HTML page and as a PNG file for each map.

    For each picture, the maps show the certainty (entropy and margin), the effective receptive field and the changes by
    a CRF. For each class, they show its probability, its Grad-CAM, and the contributions of the ASPP branches and of
    the decoder inputs to its score.

    Args:
        model: model file to explain.
        paths: pictures, folders of pictures, or glob patterns.
        out: folder for the page, explanation.html, which also gets a folder of PNG files for each picture.
        classes: names of the classes to explain; by default the largest classes of each mask.
        most: largest number of classes to explain per mask, ≥ 1, if --classes is not given.
        tensorboard: also write the maps as TensorBoard logs to OUT/tensorboard.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        **options: input of `DatasetSpec`, and crf, range and device of `ModelSpec`.

    Returns:
        The path of the page.

    Raises:
        AtrousError: the model, a picture or a class does not exist; the model is an exported file; there are more than
            40 pictures; the settings of the CRF are unknown; or a file that atrous did not write would be replaced.
        SomeInputsFailed: some pictures could not be explained; the page contains all others.
    """
    if is_exported(model):
        raise AtrousError(f"{model} is an exported file, whose layers cannot be inspected: give the model file.")
    if most < 1:
        raise AtrousError(f"most must be 1 or more, got {most}.")
    spec = ModelSpec(model, engine="torch", precision="float32", **given_to(ModelSpec, options))
    check_is_folder("out", out)
    pictures = find_pictures(paths)
    if len(pictures) > MOST_PICTURES:
        raise AtrousError(
            f"one page explains at most {MOST_PICTURES} pictures, got {len(pictures)}: give fewer pictures."
        )
    folders = [out / f"{number:02}_{volume_name(path)}" for number, path in enumerate(pictures, 1)]
    check_outputs(
        "explain",
        [page_output("out", out / "explanation.html"), *_pictures_in(folders, out)],
        [*model_inputs(model), *(("a picture to explain", file_of_picture(path)) for path in pictures)],
        overwrite=overwrite,
    )
    network = model_file.load(model).to(pick_device(spec.device))
    warn_if_fresh(network.info.provenance)
    inputs = [one.name for one in network.info.preprocessing.inputs]
    scenes = SceneFiles(inputs, input_folders(options.get("input") or ()))
    segmenter = Segmenter(network, **spec.options)
    chosen = None if classes is None else [_index(name, network.info.classes) for name in classes]
    shown: list[dict[str, Any]] = []
    failures: list[str] = []
    with no_empty_folder(out), progress_bar() as progress:
        task = progress.add_task("explaining", total=len(pictures), note="")
        for number, (path, folder) in enumerate(zip(pictures, folders, strict=True), 1):
            try:
                picture = segmenter.read(scenes.of(path))
                image, taken = visible(picture.shown, picture.valid), segmenter.preparation.filled(picture)
                found = explain_picture(
                    network, taken, valid=picture.valid, classes=chosen, most=most, crf=segmenter.crf
                )
                layers = list(layers_of(found, network.info))
                _write(layers, image, folder, out / "tensorboard" if tensorboard else None, number)
                shown.append(_on_page(path, found, layers, image, network.info))
            except Exception as error:  # the other pictures are still explained
                failures.append(failure_in_words(path, error))
            progress.update(task, advance=1)
    for failure in failures:
        console.print(f"[red]skipped[/] {escape(failure)}")
    page = out / "explanation.html"
    if shown:
        html = template("explain.html.j2").render(
            pictures=shown, model=str(model), info=network.info, version=__version__
        )
        write_text(page, html)
        console.print(
            f"written: {escape(str(page))}, and {counted(sum(len(one['layers']) for one in shown), 'PNG')} in folders "
            "beside it"
        )
    if failures:
        raise SomeInputsFailed(f"{len(failures)} of {counted(len(pictures), 'picture')} could not be explained.")
    return page


def _pictures_in(folders: Sequence[Path], out: Path) -> Iterator[Output | None]:
    """Yields every PNG file in the folder of each picture, because the names of the maps are not known yet."""
    for folder in folders:
        there = {path.name for path in folder.glob("*.png")} if folder.is_dir() else set[str]()
        for name in sorted(there | {"picture.png"}):
            yield picture_output("out", folder / name, out)


def layers_of(found: Explanation, info: Any) -> Iterator[Layer]:
    """Yields every map of an explanation as a picture, in the order of the page.

    Args:
        found: the explanation.
        info: the info of the model, with the names and colours of the classes.
    """
    colors = color_table(info.colors)  # pixels without data are black
    yield Layer("answer", "mask", colors[found.mask])
    if found.refined is not None and found.refined_entropy is not None:
        yield Layer("answer", "mask after the CRF", colors[found.refined])
        changed = np.where((found.refined != found.mask)[..., None], colors[found.refined], np.uint8(235))
        yield Layer("answer", "what the CRF changed", changed)
    yield Layer("certainty", "entropy", heat(found.entropy))
    yield Layer("certainty", "margin, small ones bright", heat(1 - found.margin))
    if found.refined_entropy is not None:
        yield Layer("certainty", "entropy after the CRF", heat(found.refined_entropy))
    yield Layer("reach", "effective receptive field", heat(_brightened(found.reach)))
    if found.classes:
        for part, shade in _scaled(found.classes[0].parts, "energy"):
            yield Layer(f"what {GROUPS[part.group]} gives", part.name, heat(shade))
    for seen in found.classes:
        name = info.classes[seen.index]
        yield Layer(name, "probability", heat(seen.probability), seen.index)
        yield Layer(name, "Grad-CAM", heat(seen.grad_cam), seen.index)
        for part, shade in _scaled(seen.parts, "contribution"):
            yield Layer(name, f"{part.group}: {part.name}", for_and_against(shade), seen.index)


def file_names(layers: Sequence[Layer]) -> list[str]:
    """Returns a file name for each layer; equal names, such as those of the classes "a b" and "a/b", are numbered.

    Args:
        layers: all layers of one picture.
    """
    names: list[str] = []
    for layer in layers:
        words = f"{layer.section}_{layer.name}".replace("×", "x")
        stem = re.sub(r"[^\w]+", "_", words).strip("_").lower()
        taken = sum(re.fullmatch(rf"{re.escape(stem)}(_\d+)?\.png", name) is not None for name in names)
        names.append(f"{stem}_{taken + 1}.png" if taken else f"{stem}.png")
    return names


def heat(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns a map as H×W×3 uint8 colours: black for 0, then violet and orange, and yellow for 1.

    Args:
        values: H×W, 0–1.
    """
    shades = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return np.asarray(cv2.applyColorMap(shades, cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)


def for_and_against(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns a map as H×W×3 uint8 colours: blue for negative, white for zero, red for positive values.

    Args:
        values: H×W, −1 to 1.
    """
    strength = np.abs(values).clip(0, 1)[..., None]
    ink = np.where((values > 0)[..., None], np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    return (255 - strength * (255 - ink)).round().astype(np.uint8)


def _scaled(parts: Sequence[PartSeen], attribute: str) -> Iterator[tuple[PartSeen, NDArray[np.float32]]]:
    """Yields each part's map divided by the largest value of its group, so that branches can be compared."""
    for _, members in groupby(parts, key=lambda part: part.group):
        group = list(members)
        largest = max(float(np.abs(getattr(part, attribute)).max()) for part in group)
        yield from ((part, getattr(part, attribute) / max(largest, 1e-12)) for part in group)


def _brightened(reach: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns a receptive field whose small values are made brighter, because a few pixels have most of its weight."""
    return np.sqrt(reach / max(float(np.percentile(reach, 99.9)), 1e-12))


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise unknown_name("class", name, names)
    return list(names).index(name)


def _write(layers: Sequence[Layer], picture: NDArray, folder: Path, board: Path | None, number: int) -> None:
    save_picture(Image.fromarray(picture), folder / "picture.png")
    for layer, name in zip(layers, file_names(layers), strict=True):
        save_picture(Image.fromarray(layer.picture), folder / name)
    if board is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(board)) as writer:
        for layer in [Layer("picture", "as it is", picture), *layers]:
            writer.add_image(f"{folder.name}/{layer.section}/{layer.name}", layer.picture, number, dataformats="HWC")


def _on_page(path: Path, found: Explanation, layers: Sequence[Layer], image: NDArray, info: Any) -> dict[str, Any]:
    """Returns the template values of one picture."""
    uris = [
        {
            "section": layer.section,
            "name": layer.name,
            "index": layer.index,
            "uri": charts.photo_uri(charts.shrink(layer.picture), sharp_colors=True),
        }
        for layer in layers
    ]
    height, width = found.mask.shape
    known = found.mask != IGNORE_INDEX
    pixels = max(int(known.sum()), 1)
    return {
        "name": path.name,
        "size": f"{width}×{height}",
        "uri": charts.photo_uri(charts.shrink(image)),
        "layers": uris,
        "sections": [list(members) for _, members in groupby(uris, key=lambda one: (one["section"], one["index"]))],
        "entropy": float(found.entropy[known].sum()) / pixels,
        "unsure": float((found.margin[known] < 0.2).sum()) / pixels,
        "changed": None if found.refined is None else float((found.refined != found.mask).sum()) / pixels,
        "radii": found.radii,
        "classes": {seen.index: _class_on_page(seen, pixels, info) for seen in found.classes},
    }


def _class_on_page(seen: ClassSeen, pixels: int, info: Any) -> dict[str, Any]:
    largest = max([abs(part.share) for part in seen.parts], default=0.0) or 1.0
    return {
        "color": "rgb({}, {}, {})".format(*info.colors[seen.index]),
        "share": seen.pixels / pixels,
        "probability": float(seen.probability.mean()),
        "parts": [
            {"name": part.name, "group": part.group, "share": part.share, "width": abs(part.share) / largest}
            for part in seen.parts
        ],
    }
