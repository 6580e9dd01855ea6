"""Finds the files that are skipped in folders of pictures, and explains how to convert them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.volumes.series_places import holds_dicom
from atrous.data.volumes.volume_files import SUFFIXES
from atrous.errors import counted

#: Suffixes of files that are not pictures but often occur in folders of pictures, such as texts and settings.
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
    (".part", ".crdownload", ".download"): "these downloads are incomplete: download them again",
    (".psd", ".xcf", ".kra"): "they are layered drawings: export them as PNG",
    (".dcm",): "they are DICOM files: move the slices of each series into a folder of their own",
}


#: Suffixes of known formats; files with other suffixes may be DICOM files.
KNOWN_ENDINGS = frozenset(PICTURE_SUFFIXES) | _NO_PICTURES | {*SUFFIXES, ".gz"}


def passed_over(folder: Path) -> list[Path]:
    """Returns the files of a folder that may be pictures in a format that is not read, sorted."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    unread = (path for path in files if ending_of(path) not in PICTURE_SUFFIXES | _NO_PICTURES | {*SUFFIXES})
    unread = (path for path in unread if not _holds_voxels(path))
    return sorted(path for path in unread if path.suffix.lower() != ".zip" or not holds_dicom(path, below=True))


def _holds_voxels(path: Path) -> bool:
    """Returns whether a file has the voxels of a header beside it, such as ``scan.raw`` of ``scan.mhd``."""
    name = path.name.removesuffix(".gz")
    if not name.lower().endswith((".raw", ".zraw", ".img")):
        return False
    return any(path.with_name(name.rpartition(".")[0] + suffix).exists() for suffix in (".mhd", ".nhdr"))


def passed_over_notes(folders: Iterable[Path], read: Collection[Path] = ()) -> tuple[str, ...]:
    """Returns a sentence for each folder and each suffix of skipped files; it states how to convert the files.

    Args:
        folders: the folders that contain pictures and masks.
        read: files that are read although their suffix is unusual; they are not reported.
    """
    notes = []
    for folder in folders:
        kinds: dict[str, list[Path]] = {}
        for path in (one for one in passed_over(folder) if one not in read):
            kinds.setdefault(ending_of(path), []).append(path)
        for ending, files in kinds.items():
            cure = next((cure for endings, cure in _CURES.items() if ending in endings), "convert them to PNG or TIFF")
            named = f"ending in {ending}" if ending else "without a suffix"
            shown = files[0].name if len(files) == 1 else f"{files[0].name}, …"
            be = "is" if len(files) == 1 else "are"
            notes.append(
                f"{folder}: {counted(len(files), 'file')} {named} ({shown}) {be} skipped, because atrous does not read "
                f"this format; {cure}."
            )
    return tuple(notes)


def ending_of(path: Path) -> str:
    """Returns the suffix in lower case; ``.nii.gz`` counts as one suffix."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
