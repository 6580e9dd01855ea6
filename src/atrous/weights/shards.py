"""Reads the index of weights that are stored in several files (shards), as Hugging Face's libraries write it.

Source: huggingface_hub/serialization/_base.py: {"metadata": …, "weight_map": {key: file}}, files NAME-00001-of-00003.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from atrous.errors import AtrousError
from atrous.json_yaml import read_json

#: File names of indexes.
FOLDER_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


def read_index(index: Path) -> dict[Path, set[str]]:
    """Reads which files an index lists, and which weights are in each of them.

    Args:
        index: path of the JSON file; the listed files are in the same folder.

    Returns:
        File → keys of its weights.

    Raises:
        AtrousError: the file is not an index, a listed name leads out of the folder, a listed file is missing, or the
            folder has a further shard that is not listed.
    """
    record = read_json(index)
    named = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise AtrousError(f'{index} is not an index of weights: it has no "weight_map" from weights to files.')
    files: dict[Path, set[str]] = {}
    for key, file in named.items():
        if file in ("", ".", "..") or re.search(r"[\\/:\0]", file):
            raise AtrousError(
                f"{index} lists the file {file[:100]!r}; all its files must be in the folder of the index."
            )
        files.setdefault(index.parent / file, set()).add(key)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise AtrousError(
            f"{index.parent} lacks {', '.join(missing)}, which {index.name} lists: fetch the folder again."
        )
    extra = [part.name for part in parts_beside(index) if part not in files]
    if extra:
        raise AtrousError(
            f"{index.parent} contains {', '.join(extra)}, which {index.name} does not list: the files are from two "
            "versions. Fetch the folder again."
        )
    return files


def check_shard(file: Path, held: Collection[str], named: Collection[str]) -> None:
    """Compares the weights in a file with those that the index lists for it.

    Args:
        file: path of the shard, for messages.
        held: keys of the weights that the file contains.
        named: keys that the index lists for the file.

    Raises:
        AtrousError: the keys differ.
    """
    for words, keys in (
        ("lacks", {*named} - {*held}),
        ("contains, though the index does not list it,", {*held} - {*named}),
    ):
        if keys:
            raise AtrousError(
                f"{file} {words} '{min(keys)}'{f' and {len(keys) - 1} more' if keys - {min(keys)} else ''}."
            )


def parts_beside(index: Path) -> list[Path]:
    """Lists the files in the folder of an index that have the names of its shards.

    Args:
        index: path of the index; it need not exist.
    """
    stem, _, suffix = index.name.removesuffix(".index.json").rpartition(".")
    if not index.parent.is_dir():
        return []
    names = ((PART.fullmatch(file.name), file) for file in sorted(index.parent.iterdir()))
    return [file for name, file in names if name and (name[1], name[4]) == (stem, f".{suffix}")]


def index_of(file: Path) -> Path | None:
    """Returns the index in the folder of a shard; None if the file is not a shard or has no index.

    Args:
        file: path of a file of weights.
    """
    part = PART.fullmatch(file.name)
    if part is None:
        return None
    index = file.with_name(f"{part[1]}{part[4]}.index.json")
    return index if index.is_file() else None
