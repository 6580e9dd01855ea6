"""Detects exports of labelling tools with outlines or boxes but no masks, and explains how to export masks."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from atrous.data.layouts.folder_names import IMAGE_FOLDERS
from atrous.data.pictures import PICTURE_SUFFIXES

_SUFFIXES = frozenset({".txt", ".json", ".jsonl", ".ndjson", ".geojson", ".manifest", ".xml", ".csv"})
_DEPTH = 4  # number of levels of folders that are searched below the dataset's folder, as in gtFine/train/aachen
_FILES = 20  # largest number of files that are examined in a folder
_BYTES = 1 << 18  # number of bytes that are examined at the beginning and at the end of a file

_NEEDED = (
    "Masks are needed: for each picture a PNG of the same size, in which each pixel is the number of its class "
    "(docs/data.md, 'Outlines instead of masks')"
)
#: How to get masks from each kind of label file.
_CURES = {
    "roboflow": "In Roboflow, export the version again in the format 'Semantic Segmentation Masks'",
    "coco": (
        "The labelling tool may export masks, too: CVAT as 'Segmentation mask 1.1', Roboflow as 'Semantic "
        "Segmentation Masks', Label Studio as 'Brush labels to PNG'; otherwise pycocotools draws them (COCO.annToMask)"
    ),
    "labelme": (
        "labelme's labelme2voc.py (in its examples/semantic_segmentation) draws masks: python labelme2voc.py FOLDER "
        "voc --labels labels.txt --noobject; then use the folder voc as the dataset"
    ),
    "yolo": (
        "YOLO's format has no masks. Export again from the labelling tool: Roboflow as 'Semantic Segmentation Masks', "
        "CVAT as 'Segmentation mask 1.1'"
    ),
    "cvat": "In CVAT, export the task or project in the format 'Segmentation mask 1.1', with 'Save images'",
    "via": (
        "VIA exports no masks. Export the regions from VIA as COCO, import this file into CVAT and export from CVAT as "
        "'Segmentation mask 1.1'; or draw the regions into pictures yourself"
    ),
    "label_studio": (
        "In Label Studio, export brush labels as 'Brush labels to PNG'; export polygons as 'COCO' and draw them with "
        "pycocotools (COCO.annToMask)"
    ),
    "supervisely": "In Supervisely, run the app 'Export as masks', which writes masks_machine/ beside ann/",
    "darwin": "In V7 Darwin, export in the format 'Semantic mask'",
    "datumaro": (
        "Datumaro draws masks: datum convert -if datumaro -i FOLDER -f voc_segmentation -o voc -- --save-media; then "
        "use the folder voc as the dataset"
    ),
    "labelbox": (
        "Labelbox exports links to masks: download the file of each 'mask': {'url': …} with your key, and merge the "
        "objects of each picture into one PNG"
    ),
    "superannotate": (
        "In SuperAnnotate's SDK, prepare_export(project, include_fuse=True) exports pictures of the outlines, in the "
        "colours of the classes"
    ),
    "rle": (
        "Decode each run-length code into a PNG. A code is a list of pairs: the start and the length of a run, in "
        "pixels. Pixels are numbered from 1, column by column, from top to bottom"
    ),
    "bdd100k": "bdd100k's toolkit draws masks: python -m bdd100k.label.to_mask -m sem_seg -i LABELS -o masks",
    "geojson": "rasterio.features.rasterize draws the outlines into an array with each picture's size and transform",
    "sagemaker": (
        "'Semantic segmentation' jobs in Ground Truth write PNG masks; a key that ends in -ref contains their paths. "
        "Copy the masks from S3 into masks/, under the names of their pictures"
    ),
    "voc_boxes": "Boxes contain no outlines, so masks must be drawn: label the pictures again with polygons or a brush",
    "cityscapes": (
        "cityscapesScripts draws masks: CITYSCAPES_DATASET=FOLDER python -m "
        "cityscapesscripts.preparation.createTrainIdLabelImgs"
    ),
}


def label_export_told(root: Path) -> str | None:
    """Returns sentences on the labels in a folder without masks, and on how to get masks from the labelling tool.

    Args:
        root: the dataset's folder.

    Returns:
        The sentences, or None if no labels of a labelling tool are recognised.
    """
    if sentence := _supervisely_masks(root):
        return sentence
    for path in _texts(root):
        kind, what = _kind(path, root)
        if kind is not None:
            return f"{path} contains {what}, which are not masks. {_NEEDED}. {_CURES[kind]}."
    return None


def _supervisely_masks(root: Path) -> str | None:
    """Returns the commands that link a Supervisely project, with one mask folder per dataset, into one dataset."""
    parts = [path.parent for path in sorted(root.glob("*/masks_machine")) if path.is_dir()]
    pairs = [(part, next((part / name for name in IMAGE_FOLDERS if (part / name).is_dir()), None)) for part in parts]
    found = [(part, images) for part, images in pairs if images is not None]
    if not found:
        return None
    into = shlex.quote(str(root.parent / f"{root.name}_masks"))
    commands = [f"mkdir -p {into}/images {into}/masks"]
    for part, images in found:
        for source, target in ((images, "images"), (part / "masks_machine", "masks")):
            commands.append(f"ln -s {shlex.quote(str(source.resolve()))}/* {into}/{target}/")
    tables = [root / name for name in ("obj_class_to_machine_color.json", "meta.json") if (root / name).is_file()]
    commands += [f"cp {shlex.quote(str(table))} {into}/" for table in tables[:1]]
    names = ", ".join(part.name for part, _ in found)
    return (
        f"{root} is a Supervisely project with masks in the folders of its datasets ({names}). These commands link "
        f"all pictures and masks into one folder: {' && '.join(commands)}; then use {into} as the dataset."
    )


def _texts(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yields files of a folder and its subfolders that may contain labels, up to ``_FILES`` of each folder."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)
    files = [Path(entry.path) for entry in entries if entry.is_file()]
    texts = [path for path in files if path.suffix.lower() in _SUFFIXES and os.access(path, os.R_OK)]
    yield from texts[:_FILES]
    for entry in entries if depth else ():
        if entry.is_dir() and not entry.is_symlink():
            yield from _texts(Path(entry.path), depth - 1)


def _kind(path: Path, root: Path) -> tuple[str | None, str]:
    """Returns the key in ``_CURES`` and a description of the labels in a file; (None, "") if none are recognised."""
    text, suffix = _ends(path), path.suffix.lower()
    if suffix == ".txt":
        return _yolo(text) if _may_be_yolo(path, root) else (None, "")
    if suffix == ".xml":
        return _xml(text)
    if suffix == ".csv":
        head = text.partition("\n")[0]
        if {"encodedpixels", "rle", "rle_mask", "encoding"} & set(re.findall(r"\w+", head.lower())):
            return "rle", "run-length codes of masks"
        return ("via", "VIA's regions") if "region_shape_attributes" in head else _roboflow(path, "boxes")
    return _json(path, text)


def _may_be_yolo(path: Path, root: Path) -> bool:
    """Returns whether a file is below a folder ``label…``, or has the stem of a picture in or beside its folder."""
    if any(part.lower().startswith("label") for part in path.relative_to(root).parts[:-1]):
        return True
    folder = path.parent
    beside = [one for one in folder.parent.iterdir() if one.is_dir()] if folder != root else []
    return any((one / (path.stem + suffix)).exists() for one in (folder, *beside) for suffix in PICTURE_SUFFIXES)


def _yolo(text: str) -> tuple[str | None, str]:
    """Recognises lines with a class and coordinates from 0 to 1: four numbers for a box, six or more for a polygon."""
    lines = [line.split() for line in text.splitlines()[:50] if line.strip()]
    number = re.compile(r"-?\d*\.?\d+(e-?\d+)?")
    if not lines or not all(line[0].isdigit() and all(map(number.fullmatch, line[1:])) for line in lines):
        return None, ""
    if not all(len(line) > 4 and all(-0.01 <= float(part) <= 1.01 for part in line[1:5]) for line in lines):
        return None, ""
    if any(len(line) >= 7 for line in lines):
        return "yolo", "YOLO's polygons"
    return "yolo", "YOLO's boxes"


def _xml(text: str) -> tuple[str | None, str]:
    if re.search(r"<(polygon|mask|polyline|box|ellipse)\s[^>]*(label|points|rle|xtl|frame)=", text):
        return "cvat", "CVAT's outlines (XML)"
    if "<bndbox>" in text and "<annotation" in text:
        return "voc_boxes", "boxes in the form of Pascal VOC"
    return None, ""


def _json(path: Path, text: str) -> tuple[str | None, str]:
    keys = set(re.findall(r'"(\w+)"\s*:', text))
    if path.suffix.lower() == ".manifest" or '"source-ref"' in text:
        return ("sagemaker", "SageMaker's labels") if '"source-ref"' in text else (None, "")
    if path.suffix.lower() == ".geojson" or re.search(r'"type"\s*:\s*"FeatureCollection"', text):
        return ("geojson", "outlines as GeoJSON") if {"features", "geometry"} & keys else (None, "")
    if "poly2d" in keys:
        return "bdd100k", "outlines in the form of BDD100K"
    if {"data_row", "projects"} <= keys or '"Labeled Data"' in text:
        return "labelbox", "Labelbox's labels"
    if {"instances", "metadata"} <= keys and keys & {"className", "classId"}:
        return "superannotate", "SuperAnnotate's outlines"
    if {"items", "categories", "annotations"} <= keys:
        return "datumaro", "Datumaro's annotations"
    if path.name.lower().endswith("_polygons.json") and {"imgHeight", "objects"} & keys:
        return "cityscapes", "outlines in the form of Cityscapes"
    if "shapes" in keys and keys & {"imagePath", "imageData", "shape_type"}:
        return "labelme", "labelme's outlines"
    if keys & {"_via_img_metadata", "_via_settings", "shape_attributes", "all_points_x"}:
        return "via", "VIA's regions"
    if keys & {"polygonlabels", "brushlabels", "rectanglelabels"} or {"annotations", "result", "data"} <= keys:
        return "label_studio", "Label Studio's tasks (JSON)"
    if {"objects", "size"} <= keys and keys & {"classTitle", "geometryType", "description"}:
        return "supervisely", "Supervisely's outlines"
    if {"item", "annotations"} <= keys and keys & {"slots", "schema_ref", "dataset"}:
        return "darwin", "V7 Darwin's outlines"
    if path.name.lower().startswith("_annotations"):
        return _roboflow(path, "outlines (COCO)" if "coco" in path.name.lower() else "boxes")
    if re.search(r'"images"\s*:\s*\[', text) and keys & {"segmentation", "segments_info", "bbox", "categories"}:
        return "coco", "outlines in the form of COCO"
    return None, ""


def _roboflow(path: Path, what: str) -> tuple[str | None, str]:
    return ("roboflow", f"Roboflow's {what}") if path.name.lower().startswith("_annotations") else (None, "")


def _ends(path: Path) -> str:
    """Returns the beginning of a text file, and also the end if the file is long."""
    with path.open("rb") as file:
        content = file.read(_BYTES)
        if (size := path.stat().st_size) > _BYTES:
            file.seek(max(_BYTES, size - _BYTES))
            content += b"\n" + file.read()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return content.decode(encoding, errors="replace")
