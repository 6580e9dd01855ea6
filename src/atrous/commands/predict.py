"""`atrous predict`: masks for new pictures."""

from __future__ import annotations

import glob
import json as json_format
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from rich.markup import escape

from atrous.console import console, progress_bar
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.errors import AtrousError, SomeInputsFailed
from atrous.inference.segmenter import Prediction, Segmenter, as_array


def predict(
    model: Path,
    paths: list[Path],
    *,
    out: Path = Path("predictions"),
    overlay: bool = False,
    raw: bool = False,
    json: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> list[Path]:
    """Segment pictures and write their masks.

    Args:
        model: a model file.
        paths: pictures, folders of pictures, or glob patterns.
        out: folder for the masks, named like the pictures with .png.
        overlay: also write each picture with its mask's colours over it, as NAME.overlay.png.
        raw: write the values that the training masks had, instead of class indices with a palette.
        json: file to write what was done to: each picture, its mask, its share of pixels per class, or its error.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto for the fastest here, float32 or bfloat16.

    Returns:
        The masks written, in the order of the pictures.

    Raises:
        AtrousError: no model, no pictures.
        SomeInputsFailed: some pictures could not be read; all others are done.
    """
    pictures = find_pictures(paths)
    targets = _targets(pictures, out)
    segmenter = Segmenter(model, device=device, precision=precision)
    records, failures, written = [], 0, []
    with progress_bar() as progress, ThreadPoolExecutor(1) as writer:
        task = progress.add_task("predicting", total=len(pictures), note="")
        writes: list[Future] = []
        for path, image in zip(pictures, _read_ahead(pictures), strict=True):
            record: dict = {"image": str(path)}
            try:
                if isinstance(image, AtrousError):
                    raise image
                prediction = Prediction(segmenter.segment(segmenter.prepare(image)), image, segmenter.info)
                writes.append(writer.submit(_write, prediction, targets[path], overlay, raw))
                record |= {"mask": str(targets[path]), "share": _shares(prediction)}
                written.append(targets[path])
            except AtrousError as error:
                failures += 1
                record["error"] = str(error)
                console.print(f"[red]skipped[/] {escape(str(error))}")
            records.append(record)
            progress.update(task, advance=1)
        for write in writes:
            write.result()
    if json is not None:
        json.write_text(json_format.dumps({"model": str(model), "pictures": records}, indent=1))
    console.print(f"{len(written)} masks in {escape(str(out))}")
    if failures:
        raise SomeInputsFailed(f"{failures} of {len(pictures)} pictures could not be used; the others are done.")
    return written


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Files, the pictures in folders and what glob patterns match, each once, in order.

    Raises:
        AtrousError: a path that is nothing, or no picture in the end.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (absolute patterns)
            if not matches:
                raise AtrousError(f"{path}: no such file or folder, and no file matches it as a pattern.")
        found |= dict.fromkeys(matches)
    if not found:
        raise AtrousError(
            f"no pictures in {', '.join(map(str, paths))}; known are {', '.join(sorted(PICTURE_SUFFIXES))}."
        )
    return list(found)


def _targets(pictures: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where each mask goes; pictures of the same name from different folders keep their folder's name."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AtrousError(f"cannot make the folder {out}: {error.strerror}.") from error
    stems = [path.stem for path in pictures]
    targets, taken = {}, set()
    for path in pictures:
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}_{path.name}"
        while name in taken:
            name += "_"
        taken.add(name)
        targets[path] = out / f"{name}.png"
    return targets


def _read_ahead(pictures: Sequence[Path]) -> Iterator[np.ndarray | AtrousError]:
    """Pictures in order, each decoded while the one before is segmented; an unreadable one is its error."""
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(_read, pictures[0])
        for path in pictures[1:]:
            current, upcoming = upcoming, reader.submit(_read, path)
            yield current.result()
        yield upcoming.result()


def _read(path: Path) -> np.ndarray | AtrousError:
    try:
        return as_array(path)
    except AtrousError as error:
        return error


def _write(prediction: Prediction, target: Path, overlay: bool, raw: bool) -> None:
    if raw:
        _write_raw(prediction.raw_mask(), target)
    else:
        prediction.save(target)
    if overlay:
        prediction.overlay().save(target.with_suffix(".overlay.png"))


def _write_raw(mask: np.ndarray, target: Path) -> None:
    """PNG where it holds the values; TIFF for negative or large ones."""
    fits_png = mask.dtype in (np.uint8, np.uint16)
    Image.fromarray(mask).save(target if fits_png else target.with_suffix(".tif"))


def _shares(prediction: Prediction) -> dict[str, float]:
    counts = np.bincount(prediction.mask.ravel(), minlength=len(prediction.info.classes))
    return {
        name: count / prediction.mask.size for name, count in zip(prediction.info.classes, counts.tolist(), strict=True)
    }
