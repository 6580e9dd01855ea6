"""Reads the files of other libraries as plain tensors and metadata; no code in them is run.

The first bytes of a file determine its format. Its suffix is used only for .safetensors and .caffemodel files, and for
formats that are refused. A small file may claim huge content: it may unpack to a thousand times its size, or contain a
tensor that repeats one number until memory is full. So the size of the file limits the amount of data that is read.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from atrous.errors import AtrousError
from atrous.json_yaml import read_json
from atrous.models.wrapper_prefixes import without_wrappers
from atrous.overwrite_checks import ADAPTER_MARK
from atrous.weights import shards
from atrous.weights.caffe import read_caffemodel
from atrous.weights.find_state_dicts import find_state_dicts
from atrous.weights.shards import FOLDER_INDEXES
from atrous.weights.tflite_names import read_tflite
from atrous.weights.torch_unpickler import read_torch


@dataclass(frozen=True)
class Foreign:
    """The content of a file of another library.

    Args:
        state: tensors by the other library's names, without prefixes of wrappers such as `module.`. If the file has
            several dicts of tensors, these are the tensors of the first dict.
        config: metadata of the file. For a Hugging Face folder: its config.json, with preprocessor_config.json under
            "preprocessor". For a .tflite file: properties of its graph. For an OpenMMLab checkpoint: its metadata,
            under "meta". For a Lightning checkpoint: its arguments, under "hyper_parameters". Otherwise empty.
        name: name of the file or folder, for messages and provenance; empty for a state dict in memory.
        sets: path of a dict in the file, such as "state_dict" → the tensors of that dict, unchanged.
    """

    state: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    sets: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sets:
            object.__setattr__(self, "sets", {"": self.state})


#: A zip file may unpack to MOST_TIMES its size (weights hardly compress), or to MOST_BYTES if this is more.
MOST_TIMES, MOST_BYTES = 20, 2**28

#: Prefixes that Lightning and others often add to every key of the network.
PREFIXES = ("model.", "net.", "network.")

#: Bytes 4 to 8 of a TensorFlow Lite file.
TFLITE = b"TFL3"

#: First bytes of files that are often saved by mistake → the end of the error message.
MISTAKEN = (
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not a checkpoint: the download was redirected; fetch it again"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
    (rb"\x89HDF", "an HDF5 file (Keras), which cannot be read; save its weights as .npz or .safetensors"),
    (rb"\x1f\x8b", "gzip-compressed: unpack it first"),
    (rb"Rar!|7z\xbc\xaf", "a compressed archive: unpack it first"),
)


#: 16 or more bytes of plain text; no format of weights begins with them.
TEXT = re.compile(rb"[\t\n\r -~]{16,}")

#: Beginning of a file name suffix → kind of a file that cannot be read as weights.
UNREAD = {
    ".pb": "a TensorFlow graph",
    ".index": "part of a TensorFlow checkpoint",
    ".data-": "part of a TensorFlow checkpoint",
    ".meta": "part of a TensorFlow checkpoint",
    ".keras": "a Keras archive",
    ".onnx": "an ONNX graph",
}


def read(path: str | Path) -> Foreign:
    """Reads a checkpoint of another library without running anything in it.

    Args:
        path: a PyTorch file (.pth, .pt, .bin, .tar), .safetensors, .npz, .tflite, .caffemodel, or a Hugging Face
            folder with config.json.

    Returns:
        The tensors of the checkpoint, without wrappers and prefixes such as `module.`.

    Raises:
        AtrousError: the file is missing, empty, truncated, of an unknown format, contains code, is one of atrous's own
            files, or has no weights.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise AtrousError(f"no file at {path}.")
    with path.open("rb") as file:
        if file.read(8)[4:] == TFLITE:
            return Foreign(*read_tflite(path), path.name)
    if path.name in FOLDER_INDEXES:
        sets = {"": _read_shards(path)}
        record: dict[str, Any] = {}
    else:
        _refuse_one_shard(path)
        sets, record = _read_file(path)
    beside = path.name in FOLDER_FILES and (path.parent / "config.json").is_file()
    record = {**record, **_read_config(path.parent)} if beside else record
    return Foreign(_first_state(sets), record, path.name, sets)


def from_state_dict(given: Mapping[str, Any]) -> Foreign:
    """Reads a state dict or a checkpoint's dict that is already in memory, as `read` reads a file.

    Args:
        given: name → tensor, or a checkpoint's dict that contains such a dict.

    Raises:
        AtrousError: the dict contains no weights.
    """
    sets = find_state_dicts(given, "the given dict")
    return Foreign(_first_state(sets), _record(given), sets=sets)


#: Files of weights in a Hugging Face folder; the first that exists is read.
FOLDER_FILES = ("model.safetensors", *FOLDER_INDEXES[:1], "pytorch_model.bin", *FOLDER_INDEXES[1:])
FOLDER_RECORDS = ("config.json", "preprocessor_config.json")


def _read_folder(folder: Path) -> Foreign:
    if not (folder / "config.json").is_file():
        raise AtrousError(f"{folder} is a folder without config.json. Give a file, or a Hugging Face model's folder.")
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            found = read(folder / name)
            return Foreign(found.state, _read_config(folder), folder.resolve().name, found.sets)
    raise AtrousError(f"{folder} has a config.json but no weights; it needs one of {', '.join(FOLDER_FILES)}.")


def _read_config(folder: Path) -> dict[str, Any]:
    config, processor = (folder / name for name in FOLDER_RECORDS)
    record = _mapping_in(config)
    return {**record, "preprocessor": _mapping_in(processor)} if processor.is_file() else record


def _mapping_in(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise AtrousError(f"{path} is not a model's configuration: it is not a JSON object.")
    return record


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Returns the tensors of all files that an index lists."""
    found: dict[str, Tensor] = {}
    for file, keys in shards.read_index(index).items():
        held = _read_file(file)[0]
        state = next(iter(held.values()))
        shards.check_shard(file, state.keys(), keys)
        found |= state
    return found


def _refuse_one_shard(path: Path) -> None:
    index = shards.index_of(path)
    if index is not None:
        raise AtrousError(f"{path} contains only a part of the weights: give the folder, {path.parent}, or {index}.")


def files_of(path: Path) -> list[Path]:
    """Lists every file that `read` may read for a path: the file itself, or weights, shards and JSON of its folder.

    Args:
        path: argument of `read`; the listed files need not exist.
    """
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name not in FOLDER_FILES:
        return [path]
    parts = [part for name in FOLDER_INDEXES for part in shards.parts_beside(folder / name)]
    return [path, *(folder / name for name in (*FOLDER_FILES, *FOLDER_RECORDS)), *parts]


def _read_file(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Returns the dicts of tensors by their path in the file, and the metadata stored with them."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise AtrousError(f"{path} is empty: 0 bytes.")
    for pattern, sentence in MISTAKEN:
        if re.match(pattern, head, re.IGNORECASE):
            raise AtrousError(f"{path} is {sentence}.")
    if TEXT.fullmatch(head):
        raise AtrousError(f"{path} is a text file, not a checkpoint: it begins {head[:30].decode('ascii')!r}.")
    for beginning, kind in UNREAD.items():
        if path.suffix.startswith(beginning):
            raise AtrousError(
                f"{path} is {kind}, which cannot be read; save its weights by name as .npz or .safetensors."
            )
    reader = _reader(path, head)
    try:
        found, unpacked = reader(path), _unpacked(path, head)
    except AtrousError:
        raise
    except Exception as error:  # zip, pickle, torch, NumPy, flatbuffers raise any type for a damaged file
        raise AtrousError(
            f"{path} is truncated or damaged, or not a checkpoint of PyTorch, safetensors, NumPy, TensorFlow Lite or "
            f"Caffe ({_first_line(error)})."
        ) from error
    return find_state_dicts(found, str(path), unpacked), _record(found)


def _unpacked(path: Path, head: bytes) -> int:
    """Returns the size of a file in bytes; for a zip file, the size of its unpacked entries.

    The first bytes decide whether the file is a zip file, because any file may end like one.
    """
    if not head.startswith(b"PK"):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _record(found: Any) -> dict[str, Any]:
    """Returns the metadata stored with the weights: OpenMMLab's classes and configuration, or Lightning's arguments."""
    records = {key: found.get(key) for key in ("meta", "hyper_parameters")} if isinstance(found, Mapping) else {}
    return {key: record for key, record in records.items() if isinstance(record, Mapping)}


def _reader(path: Path, head: bytes) -> Callable[[Path], Any]:
    """Returns the reader for a file with these first bytes."""
    if head[5:9] == b"\0\0\0{" or path.suffix == ".safetensors":  # .safetensors: a length of eight bytes, then JSON
        return _read_safetensors
    if head.startswith(b"PK"):
        return _read_zip
    if path.suffix == ".caffemodel":
        return read_caffemodel
    if path.suffix == ".npz":
        raise AtrousError(f"{path} is not a .npz file or is damaged: its first bytes are not those of a zip file.")
    return read_torch


def _read_zip(path: Path) -> Any:
    """Reads a zip file, which is either PyTorch's or NumPy's .npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _check_unpacked(path, sum(entry.file_size for entry in archive.infolist()))
            damaged = archive.testzip()  # torch itself does not compare checksums
    except zipfile.BadZipFile as error:
        raise AtrousError(f"{path} is truncated or damaged: {error}. Fetch it again.") from error
    if damaged:
        raise AtrousError(f"{path} is damaged: its entry {damaged!r} does not match its checksum. Fetch it again.")
    if any(name.endswith("constants.pkl") for name in names):
        raise AtrousError(
            f"{path} is a TorchScript program, not weights. Save the weights with the code that made it: "
            "torch.save(model.state_dict(), file)."
        )
    if any(name.endswith("data.pkl") for name in names):
        return read_torch(path)
    if names and all(name.endswith(".npy") for name in names):
        return _read_npz(path)
    raise AtrousError(f"{path} is a zip file, but neither PyTorch's nor NumPy's: unpack it and give the file in it.")


def _check_unpacked(path: Path, unpacked: int) -> None:
    size = path.stat().st_size
    if unpacked > max(MOST_TIMES * size, MOST_BYTES):
        raise AtrousError(
            f"{path} has {size} bytes and would unpack to {unpacked}. Weights never compress so well: it may be a zip "
            "bomb. If you trust the file, save it uncompressed with the code that made it."
        )


def _read_safetensors(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "atrous" in metadata:
                raise AtrousError(
                    f"{path} is already a model file of atrous and needs no conversion. Use it directly: "
                    f"atrous predict {path} PICTURES."
                )
            if ADAPTER_MARK in metadata:
                raise AtrousError(
                    f"{path} is an adapter of atrous. Join it with the model file that it changes: atrous merge BASE "
                    "ADAPTER --out model.safetensors."
                )
            if "atrous-checkpoint" in metadata:
                raise AtrousError(
                    f"{path} is a training checkpoint of atrous. The model is best.safetensors in the run's folder. "
                    "To continue the training: atrous train --resume RUN."
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise AtrousError(f"{path} is truncated or damaged ({_first_line(error)}).") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as archive:  # object arrays, which are pickles, are refused
        arrays = {name: archive[name] for name in archive.files}
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}
    return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in numbers.items()}


def single(tensor: Tensor) -> Tensor:
    """Returns the tensor without its gradient; floating-point numbers become float32."""
    tensor = Tensor.detach(tensor)
    return tensor.float() if tensor.is_floating_point() else tensor


def _first_state(sets: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the tensors of the first dict, by keys without names of wrappers and without the prefixes `PREFIXES`."""
    state = next(iter(sets.values()))
    bare = {without_wrappers(key): key for key in state}
    keys = bare if len(bare) == len(state) else {key: key for key in state}
    keys.pop("n_averaged", None)  # the step counter of torch.optim.swa_utils.AveragedModel
    while shared := next((prefix for prefix in PREFIXES if keys and all(key.startswith(prefix) for key in keys)), None):
        keys = {key.removeprefix(shared): theirs for key, theirs in keys.items()}
    return {key: single(state[theirs]) for key, theirs in keys.items()}


def _first_line(error: Exception) -> str:
    # Before these words, torch's message advises loading the file together with its code, which is unsafe.
    line = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    line = "".join(sign if sign.isprintable() else "?" for sign in line)  # the message may quote bytes of the file
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
