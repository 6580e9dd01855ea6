"""Files beside pictures that are not read, and why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from atrous.data.pictures import PICTURE_SUFFIXES

#: What belongs beside pictures and is none: texts, settings, and what systems leave.
_ENDINGS = """
.txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .md .rst .html .htm .log .ini .cfg .db .lst .list .py .ipynb
.sh .xlsx .xls .ods .doc .docx .lnk .url .tfw .jgw .pgw .wld .prj .ovr .cpg .cache
.bak .tmp .shp .shx .dbf .geojson .xmp .thm .aae .wav .mp3
"""
_NO_PICTURES = frozenset(_ENDINGS.split())
_CURES = {
    (".heic", ".heif", ".hif"): "convert them, for example with `magick mogrify -format png *.heic`",
    (
        ".dng",
        ".nef",
        ".cr2",
        ".cr3",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
        ".raw",
    ): "develop these camera files as TIFF or PNG",
    (".svg", ".pdf", ".eps", ".ai"): "they are drawings or pages: export them as PNG",
    (".npy", ".npz", ".mat", ".h5", ".hdf5", ".pt", ".pkl"): "they are arrays: save them as PNG or TIFF",
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"): "they are videos: save frames as PNG",
    (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar"): "they are archives: unpack them",
    (".part", ".crdownload", ".download"): "they are downloads that were not finished: load them again",
    (".psd", ".xcf", ".kra"): "they are layered drawings: export them as PNG",
    (
        ".nii",
        ".nii.gz",
        ".dcm",
        ".mha",
        ".mhd",
        ".nrrd",
    ): "they are medical volumes or slices: export slices as PNG or TIFF",
}


def passed_over(folder: Path) -> list[Path]:
    """The files of a folder that may be pictures and are of no format that is read, sorted."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    return sorted(path for path in files if ending_of(path) not in PICTURE_SUFFIXES | _NO_PICTURES)


def passed_over_notes(folders: Iterable[Path]) -> tuple[str, ...]:
    """A sentence for each folder and kind of file that is passed over there, with the cure.

    Args:
        folders: where pictures and masks are.
    """
    notes = []
    for folder in folders:
        kinds: dict[str, list[Path]] = {}
        for path in passed_over(folder):
            kinds.setdefault(ending_of(path), []).append(path)
        for ending, files in kinds.items():
            cure = next((cure for endings, cure in _CURES.items() if ending in endings), "convert them to PNG or TIFF")
            named = f"ending in {ending}" if ending else "without an ending"
            shown = files[0].name if len(files) == 1 else f"{files[0].name}, …"
            notes.append(
                f"{folder}: passed over, because this format is not read: {len(files)} {named} ({shown}); {cure}."
            )
    return tuple(notes)


def ending_of(path: Path) -> str:
    """The suffix in lower case, with that before ``.gz``."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
