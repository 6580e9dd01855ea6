"""`atrous predict`: write masks of new pictures.

Examples:
    atrous predict runs/quickstart/best.safetensors photos/ --overlay
    atrous predict model.safetensors 'photos/*.jpg' --out masks/ --flip
    atrous predict model.safetensors map.tif --tile 1024 --memory 4
"""

from __future__ import annotations

import glob
from collections import Counter, deque
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.markup import escape

from atrous.arguments import checked
from atrous.console import console, progress_bar, told_if_interrupted, warn_if_fresh, write_json
from atrous.data.file_kinds import kinds_of
from atrous.data.geotiff import GeoTiffSink, GeoTiffSource, has_place_tags, needs_windows
from atrous.data.labels import IGNORE_INDEX
from atrous.data.passed_over import passed_over_notes
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.read_ahead import in_background
from atrous.data.unread_folders import folders_with_pictures
from atrous.errors import AtrousError, SomeInputsFailed, counted
from atrous.inference.any_size import AnySize
from atrous.inference.memory import limit_bytes
from atrous.inference.picture_input import Found, doubt_of_alpha, doubts_of_files
from atrous.inference.prediction import Prediction, table_of
from atrous.inference.runner import info_of
from atrous.inference.segmenter import Segmenter
from atrous.inference.tiles import Counted
from atrous.outputs import (
    check_is_folder,
    check_outputs,
    is_our_picture,
    json_output,
    model_inputs,
    no_empty_folder,
    picture_output,
    save_picture,
)
from atrous.picture_marks import is_marked

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from atrous.models.info import Info

#: Masks that may wait for the disk before the network waits for it.
WRITES_WAITING = 8
#: Subfolders with pictures that are named, because they are not searched.
SUBFOLDERS = 4
#: Classes that the last sentence names.
MOST_SHOWN = 8


@checked
def predict(
    model: Path,
    paths: list[Path],
    *,
    out: Path = Path("predictions"),
    overlay: bool = False,
    raw: bool = False,
    crf: str | None = None,
    json: Path | None = None,
    scales: list[float] | None = None,
    flip: bool = False,
    output_stride: int | None = None,
    range: list[float] | None = None,
    engine: str = "auto",
    tile: int | None = None,
    overlap: int | None = None,
    memory: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Segment pictures and write their masks.

    Args:
        model: a model file.
        paths: pictures, folders of pictures, or glob patterns.
        out: folder for the masks, named like the pictures with .png; GeoTIFFs' masks are GeoTIFFs, .tif.
        overlay: also write each picture with its mask's colours over it and their names below, as NAME.overlay.png.
        raw: write the values that the training masks had, instead of class indices with a palette.
        crf: refine the masks by a fully connected CRF with these settings: model (those that the model file stores), a
            preset (deeplabv1, deeplabv2, pydensecrf), or NAME=VALUE,… such as deeplabv2,iterations=5.
        json: JSON file to write the results to: of each picture its mask, the classes' shares of the pixels with data
            and, where there are others, their share of the picture; or its error.
        scales: resize factors of the picture, such as 0.5,0.75,1,1.25,1.5,1.75 (the papers'); the probabilities at all
            of them are averaged.
        flip: average the probabilities of each picture and its mirror image.
        output_stride: output stride to run at, 8, 16 or 32; smaller is finer and slower; by default the model's own.
        range: values LOW,HIGH of the pictures that count as black and white, such as 0,4095 for 12 bits stored in 16;
            by default the limits of the pictures' type.
        engine: runtime of the network: openvino, torch, or auto for the faster of those installed.
        tile: side of a tile in pixels; larger pictures are cut into tiles; by default only those that memory does not
            hold.
        overlap: pixels that neighbouring tiles share; by default a quarter of the tile, at most 512.
        memory: memory to use, in GB; by default half of what is free.
        device: device to run on: auto, cpu, cuda, cuda:N or mps.
        precision: number format to compute in: float32, bfloat16, or auto for the faster of the two.
        overwrite: replace files that atrous did not write, too; inputs are never replaced.

    Returns:
        The masks written, in the order of the pictures.

    Raises:
        AtrousError: no model, no pictures, unknown settings of the CRF, or a folder with files that predict did not
            write and would overwrite.
        SomeInputsFailed: some pictures could not be read; all others are done.
    """
    check_is_folder("out", out)
    pictures = find_pictures(paths)
    info = info_of(Path(model))
    most = limit_bytes(memory) / 4  # as read, and as the model takes it, must leave room for the network
    windowed = {path for path in pictures if _holds(needs_windows, path, most)}
    deep = raw and not _fits_png(info)
    targets = _targets(pictures, out, {path: ".tif" if deep or path in windowed else ".png" for path in pictures})
    masks = [mask for target in targets.values() for mask in (target, *([_overlay(target)] if overlay else []))]
    check_outputs(
        "predict",
        [*(picture_output("out", mask, out) for mask in masks), json_output("json", json)],
        [*model_inputs(model), *(("a picture to segment", path) for path in pictures)],
        overwrite=overwrite,
    )
    segmenter = Segmenter(
        model,
        engine=engine,
        device=device,
        precision=precision,
        scales=scales or (1.0,),
        flip=flip,
        output_stride=output_stride,
        crf=crf,
        range=range,
    )
    warn_if_fresh(segmenter.info.provenance)
    preprocessing = segmenter.info.preprocessing
    segmenter.warn_of(doubts_of_files(kinds_of(pictures, preprocessing.pages), preprocessing))
    any_size = AnySize(segmenter, tile=tile, overlap=overlap, memory=memory, say=_say, limits=segmenter.limits)
    lost = [path for path in pictures if path not in windowed and _holds(has_place_tags, path)]
    if lost:
        _say(
            f"no coordinates in the masks of {counted(len(lost), 'GeoTIFF')} without rasterio: pip install "
            f"'atrous[geo]'"
        )
    read = partial(_read, windowed=windowed, segmenter=segmenter)
    records, pending = [], deque[Future[str | None]]()
    told = told_if_interrupted(lambda: _done_before(records, len(pictures), out, json))
    with told, no_empty_folder(out), progress_bar() as progress, ThreadPoolExecutor(1) as writer:
        task = progress.add_task("predicting", total=len(pictures), note="")
        for path, image in zip(pictures, in_background(read, pictures), strict=True):
            record: dict = {"image": str(path)}
            records.append(record)
            tiles = progress.add_task(path.name, total=None, note="", visible=False)
            show = partial(_show, progress, tiles)
            try:
                if isinstance(image, Exception):
                    raise image
                if isinstance(image, GeoTiffSource):
                    record |= _segment_windows(any_size, image, targets[path], raw, show)
                    continue
                mask = any_size(segmenter.filled(image), image.valid, name=str(path), progress=show)
                prediction = Prediction(mask, image.shown, segmenter.info)
                pending.append(writer.submit(_write, prediction, targets[path], overlay, raw, record))
            except Exception as error:  # a decoder's own, or no memory: the other pictures are done
                record["error"] = failure_in_words(path, error)
            finally:
                progress.remove_task(tiles)
                progress.update(task, advance=1)
            while len(pending) > WRITES_WAITING:  # a disk slower than the network must not fill the memory
                pending.popleft().result()
        while pending:
            pending.popleft().result()
    if overlay and windowed:
        _say(f"no overlay of {counted(len(windowed), 'GeoTIFF')}: a geographic viewer shows the mask over the picture")
    failures = [record for record in records if "error" in record]
    for record in failures:
        console.print(f"[red]skipped[/] {escape(record['error'])}")
    if json is not None:
        write_json({"model": str(model), "pictures": records}, json)
    console.print(f"{counted(len(records) - len(failures), 'mask')} in {escape(str(out))}{escape(_found(records))}")
    if failures:
        raise SomeInputsFailed(
            f"{len(failures)} of {counted(len(pictures), 'picture')} could not be used; the others are done."
        )
    return [targets[path] for path in pictures]


def _done_before(records: Sequence[dict], total: int, out: Path, json: Path | None) -> str:
    """What was written before an interruption."""
    done = sum("mask" in record for record in records)
    more = "" if json is None else f" {json} is not."
    return f"{done:,} of {counted(total, 'mask')} {'is' if done == 1 else 'are'} written in {out}, each whole.{more}"


def failure_in_words(path: Path, error: Exception) -> str:
    """A sentence that names the picture, and for an error that is not ours its type.

    Args:
        path: the picture.
        error: what was raised while it was read or worked on.
    """
    words = str(error) if isinstance(error, AtrousError | RuntimeError) else f"{type(error).__name__}: {error}"
    return words if str(path) in words else f"{path}: {words}"


def _holds(question: Callable[..., bool], path: Path, *more: float) -> bool:
    """The answer about a file; False for one so damaged that there is none, which reading it will tell."""
    try:
        return question(path, *more)
    except Exception:
        return False


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Files, the pictures in folders and what glob patterns match, each once, in order.

    In a folder, pictures that atrous wrote are passed over, even those that somebody changed afterwards: masks may lie
    beside the pictures. Subfolders are not searched; those that hold pictures are named.

    Raises:
        AtrousError: a path that is nothing, or no picture in the end.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            matches = _in_folder(path)
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]  # noqa: PTH207 (absolute patterns)
            if not matches:
                raise AtrousError(f"{path}: no such file or folder, and no file matches it as a pattern.")
        found |= dict.fromkeys(matches)
    below = _pictures_below([Path(path) for path in paths])
    if not found:
        known = ", ".join(sorted(PICTURE_SUFFIXES))
        raise AtrousError(f"no pictures in {', '.join(map(str, paths))}; known are {known}. {below}".rstrip())
    if below:
        _say(below)
    return list(found)


def _in_folder(folder: Path) -> list[Path]:
    """The pictures of a folder; says which files are passed over."""
    candidates = sorted(file for file in folder.iterdir() if _is_picture(file))
    marked = [file for file in candidates if is_marked(file)]
    written = [file for file in marked if is_our_picture(file)]
    changed = [file for file in marked if file not in set(written)]
    if written:
        _say(f"{counted(len(written), 'picture')} in {folder} passed over: written by atrous")
    if changed:
        shown = changed[0].name if len(changed) == 1 else f"{changed[0].name}, …"
        _say(
            f"{counted(len(changed), 'picture')} in {folder} passed over: written by atrous and changed afterwards, so "
            f"probably corrected masks ({shown}); to segment one, give it by its name"
        )
    for note in passed_over_notes([folder]):
        console.print(escape(note))
    return [file for file in candidates if file not in set(marked)]


def _pictures_below(given: Sequence[Path]) -> str:
    """A sentence that names the subfolders which hold pictures and are not given, or ""."""
    folders = [path for path in given if path.is_dir()]
    known = {folder.resolve() for folder in folders}
    found = (one for folder in folders for one in folders_with_pictures(folder, _is_to_predict))
    below = dict(islice((one for one in found if one[0].resolve() not in known), SUBFOLDERS + 1))
    if not below:
        return ""
    named = ", ".join(f"{folder} ({counted(count, 'picture')})" for folder, count in list(below.items())[:SUBFOLDERS])
    return f"Subfolders are not searched; give those that are meant: {named}{' …' if len(below) > SUBFOLDERS else ''}."


def _is_to_predict(path: Path) -> bool:
    return path.is_file() and not is_marked(path)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _targets(pictures: Sequence[Path], out: Path, suffixes: Mapping[Path, str]) -> dict[Path, Path]:
    """Where each mask goes; pictures of the same name from different folders keep their folder's name.

    Raises:
        AtrousError: a mask would overwrite a picture.
    """
    stems = Counter(path.stem for path in pictures)
    targets, taken = {}, {path.resolve() for path in pictures}
    for path, suffix in suffixes.items():
        name = path.stem if stems[path.stem] == 1 else f"{path.parent.name}_{path.name}"
        if (out / f"{name}{suffix}").resolve() == path.resolve():
            raise AtrousError(f"the mask of {path} would overwrite it: give another folder with --out.")
        while (out / f"{name}{suffix}").resolve() in taken or _overlay(out / f"{name}{suffix}").resolve() in taken:
            name += "_"
        targets[path] = out / f"{name}{suffix}"
        taken |= {targets[path].resolve(), _overlay(targets[path]).resolve()}
    return targets


def _overlay(target: Path) -> Path:
    return target.with_suffix(".overlay.png")


def _read(path: Path, windowed: Container[Path], segmenter: Segmenter) -> Found | GeoTiffSource | Exception:
    preprocessing = segmenter.info.preprocessing
    try:
        if path in windowed:
            return GeoTiffSource(path, len(preprocessing.mean), preprocessing.pages)
        return segmenter.read(path)
    except Exception as error:  # raised when its turn comes, and noted as this picture's
        return error


def _segment_windows(
    any_size: AnySize, source: GeoTiffSource, target: Path, raw: bool, show: Callable[[int, int], object]
) -> dict:
    """Writes one GeoTIFF's mask; what its record says about it."""
    info = any_size.segmenter.info
    with closing(source), GeoTiffSink(target, source, table_of(info), raw) as file:
        sink = Counted(file)
        work = any_size.windows(source, sink, name=str(source.path), progress=show)
        if source.alpha_may_be_a_channel:
            any_size.segmenter.warn_of([doubt_of_alpha(source.path)])
    return {"mask": str(target), **_shares(sink.counts, info), "work": asdict(work)}


def _say(line: str) -> None:
    console.print(f"[yellow]note[/] {escape(line)}")


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total, visible=total > 1)


def _write(prediction: Prediction, target: Path, overlay: bool, raw: bool, record: dict) -> None:
    """Writes one picture's files; its record says what was written and what failed."""
    try:
        if raw:
            save_picture(Image.fromarray(prediction.raw_mask()), target)
        else:
            prediction.save(target, overwrite=True)  # was asked for before the work
        counts = np.bincount(prediction.mask.ravel(), minlength=256)
        record |= {"mask": str(target), **_shares(counts, prediction.info)}
        if overlay:
            save_picture(prediction.overlay(legend=True), _overlay(target))
    except Exception as error:  # a full disk, or what no such file can hold: the other masks are written
        record["error"] = f"{target} cannot be written: {error or type(error).__name__}"


def _fits_png(info: Info) -> bool:
    """Whether every raw value of the model's classes fits a PNG; negative and large ones need a TIFF."""
    return table_of(info).decode(np.zeros((1, 1), np.uint8)).dtype in (np.uint8, np.uint16)


def _found(records: Sequence[dict]) -> str:
    """The classes of all masks by their mean share of a picture, the largest first, and how much has no data."""
    done = [record for record in records if "error" not in record]
    shares = [record["share"] for record in done if record.get("no_data", 0) < 1]
    void = sum(record.get("no_data", 0) for record in done) / max(len(done), 1)
    said = [f"{void:.1%} without data"] if void else []
    if shares:
        means = {name: sum(share[name] for share in shares) / len(shares) for name in shares[0]}
        largest = sorted((name for name in means if means[name]), key=lambda name: -means[name])
        more = f" and {len(largest) - MOST_SHOWN} more classes" if len(largest) > MOST_SHOWN else ""
        said.insert(0, ", ".join(f"{name} {means[name]:.1%}" for name in largest[:MOST_SHOWN]) + more)
    return ": " + "; ".join(said) if said else ""


def _shares(counts: np.ndarray, info: Info) -> dict[str, Any]:
    """Each class's share of the pixels that have data, from how many pixels hold each of 256 labels.

    Where some have none, their share of the picture is there, too.
    """
    of_classes = counts[: len(info.classes)]
    total = max(int(of_classes.sum()), 1)
    void = int(counts[IGNORE_INDEX]) / max(int(counts.sum()), 1)
    share = {name: count / total for name, count in zip(info.classes, of_classes.tolist(), strict=True)}
    return {"share": share, **({"no_data": void} if void else {})}
