"""The index of weights that lie in several files, as Hugging Face's libraries write it.

Source: huggingface_hub/serialization/_base.py: {"metadata": …, "weight_map": {key: file}}, files NAME-00001-of-00003.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from atrous.errors import AtrousError
from atrous.json_yaml import read_json

#: Names of indexes.
FOLDER_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


def read_index(index: Path) -> dict[Path, set[str]]:
    """Which files an index names, and which weights each of them holds.

    Args:
        index: the JSON file; those it names lie beside it.

    Returns:
        File → keys.

    Raises:
        AtrousError: no index, a name that leads out of the folder, a file that is not there, or one beside it of the
            same kind that the index does not name.
    """
    record = read_json(index)
    named = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise AtrousError(f'{index} is no index of weights: it has no "weight_map" from weights to files.')
    files: dict[Path, set[str]] = {}
    for key, file in named.items():
        if file in ("", ".", "..") or re.search(r"[\\/:\0]", file):
            raise AtrousError(
                f"{index} names the file {file[:100]!r}; those of a folder of weights lie in that folder."
            )
        files.setdefault(index.parent / file, set()).add(key)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise AtrousError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names: fetch it again.")
    extra = [part.name for part in parts_beside(index) if part not in files]
    if extra:
        raise AtrousError(
            f"{index.parent} holds {', '.join(extra)}, which {index.name} does not name: the files are of two "
            "versions. Fetch the folder anew."
        )
    return files


def check_shard(file: Path, held: Collection[str], named: Collection[str]) -> None:
    """Compares the weights in a file with those that the index names in it.

    Raises:
        AtrousError: they are not the same.
    """
    for words, keys in (("lacks", {*named} - {*held}), ("holds, against the index,", {*held} - {*named})):
        if keys:
            raise AtrousError(
                f"{file} {words} '{min(keys)}'{f' and {len(keys) - 1} more' if keys - {min(keys)} else ''}."
            )


def parts_beside(index: Path) -> list[Path]:
    """The files beside an index whose names say that they are parts of what it lists."""
    stem, _, suffix = index.name.removesuffix(".index.json").rpartition(".")
    if not index.parent.is_dir():
        return []
    names = ((PART.fullmatch(file.name), file) for file in sorted(index.parent.iterdir()))
    return [file for name, file in names if name and (name[1], name[4]) == (stem, f".{suffix}")]


def index_of(file: Path) -> Path | None:
    """The index beside a file that is one of several parts; None for another file."""
    part = PART.fullmatch(file.name)
    if part is None:
        return None
    index = file.with_name(f"{part[1]}{part[4]}.index.json")
    return index if index.is_file() else None
