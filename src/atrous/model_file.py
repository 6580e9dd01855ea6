"""Saves and loads a model as one safetensors file that also contains its architecture, classes and preprocessing.

The file is a plain safetensors file, and its metadata has two entries: "atrous" is the record of the model, its `Info`
as JSON. "sha256" is the checksum of this JSON and of all weights, which detects altered or damaged files. The file
format contains no pickles.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from atrous.atomic_write import atomic_path
from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.json_yaml import parse_json
from atrous.model_state_dict import kept_state
from atrous.models.model_checks import check_model
from atrous.overwrite_checks import (
    ADAPTER_MARK,
    MAX_HEADER_BYTES,
    PICTURES_AND_VOLUMES,
    check_replaceable,
    is_our_model,
)

if TYPE_CHECKING:
    from torch import Tensor

    from atrous.models import SegmentationModel
    from atrous.models.info import Info


@checked
def save(model: SegmentationModel, path: str | Path, *, half: bool = False, overwrite: bool = False) -> None:
    """Writes a model file atomically: at any time, the path holds the complete old file or the complete new file.

    A model that `load` could not restore as the same network is refused before the old file is changed. For this check,
    one small picture is run through the model and through the model rebuilt from the file's content.

    Args:
        model: a module with `.info`. Wrappers of torch.compile and DataParallel are removed. Pruned weights are
            stored as their product with the pruning mask. The module's mode, gradients and buffers do not change.
        path: the file to write; its folder is created if missing.
        half: store the convolutions' weights in 16 bits (float16), for half the size; norms and biases do not change.
        overwrite: also replace a file that is not a model file of atrous.

    Raises:
        AtrousError: the existing file is not a model file of atrous, or the file cannot be written; a weight is too
            large for 16 bits or not finite; the model's weights do not fit its record; or a model loaded from the
            file would give other scores.
    """
    from atrous.roundtrip_check import check_rebuilt  # imports torch, which is not needed to read a record

    check_replaceable(path, "model file", is_our_model, overwrite=overwrite)
    plain = check_model(model, wrapped=True)
    info, tensors = contents(plain)
    if half:
        tensors = {name: _halved(name, tensor) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    check_rebuilt(plain)
    _write(info, tensors, Path(path))


def save_built(model: SegmentationModel, path: Path) -> None:
    """Writes a model that this program built from its record; unlike `save`, does not compare scores.

    Args:
        model: a module with `.info`, as built from its record; only the values of its weights may differ.
        path: the file to write; an existing file is replaced.

    Raises:
        AtrousError: the file cannot be written, a weight does not fit the record or is not finite, or the record is
            not valid.
    """
    info, tensors = contents(model)
    _write(info, tensors, path)


def contents(model: SegmentationModel) -> tuple[str, dict[str, Tensor]]:
    """Returns the record of a model as JSON, and its weights by name.

    Args:
        model: a module with `.info`, as built from its record.

    Raises:
        AtrousError: a weight does not fit the record or is not finite, or the record is not valid.
    """
    return _record_text(model.info), kept_state(model, model.info)


def _write(info: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    write_safetensors(tensors, {"atrous": info, "sha256": checksum(info, tensors)}, path)


def _check_crf(info: Info) -> None:
    """Checks that the CRF settings in a record are valid."""
    from atrous.crf.settings import make_crf  # imports torch, which is not needed to read a record

    if info.crf is None:
        return
    try:
        crf = make_crf(info.crf)
    except AtrousError as error:
        raise AtrousError(f"the CRF in the model's info is not valid: {error} Nothing was written.") from error
    if crf.compatibility is not None and len(crf.compatibility) != len(info.classes):
        raise AtrousError(
            f"the CRF in the model's info has a compatibility matrix for {len(crf.compatibility)} classes, but the "
            f"model has {len(info.classes)} classes. Nothing was written."
        )


def _record_text(info: Info) -> str:
    """Returns a model's record as JSON, after a check that it can be read again."""
    _check_crf(info)
    try:
        text = json.dumps(info.to_dict(), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise AtrousError(f"the model's info cannot be written as JSON: {error}. Nothing was written.") from error
    if len(text) > MAX_HEADER_BYTES // 2:  # this limit leaves space for escaped quotes and for the rest of the header
        raise AtrousError(
            f"the model's info is {len(text)} characters long, more than the {MAX_HEADER_BYTES // 2} that a model file "
            "can store: shorten it."
        )
    type(info).from_dict(parse_json(text, "the model's info"))
    return text


@checked
def load(path: str | Path, *, output_stride: int | None = None) -> SegmentationModel:
    """Reads a model file and rebuilds its model, in evaluation mode.

    Args:
        path: the model file, as written by `save`.
        output_stride: output stride of the model, 8, 16 or 32, with the same weights; None for the saved output stride.

    Returns:
        The module, with `.info`.

    Raises:
        AtrousError: the file is not a model file, is truncated, or was altered after it was saved; or the model does
            not support the output stride.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from atrous import models
    from atrous.models.meta_device import on_meta_device

    path = Path(path)
    metadata = _read_metadata(path)
    info = _parse_info(metadata, path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AtrousError(f"{path} is truncated or damaged: {error}.") from error
    if metadata.get("sha256") != checksum(metadata["atrous"], tensors):
        raise AtrousError(f"{path} was altered or damaged after it was saved: its checksum does not match.")
    # checked before the network is built, because a wrong record may describe a network that fills the memory
    with on_meta_device():
        _check_shapes(tensors, models.build(info.architecture, info.arguments).state_dict(), path)
    model = models.build(info.architecture, info.arguments)
    model.load_state_dict(tensors)
    model.info = info
    if output_stride is not None:
        model.set_output_stride(output_stride)
    return model.eval()


def _halved(name: str, weight: Tensor) -> Tensor:
    halved = weight.half()
    if not halved.isfinite().all():
        raise AtrousError(f"{name} holds weights beyond ±65504, the limit of 16-bit floats: save with half=False.")
    return halved


def check_name(path: Path, flag: str) -> None:
    """Checks, before long work starts, that the path of a model file has the suffix .safetensors.

    Args:
        path: the model file to write.
        flag: the argument that gives the path.

    Raises:
        AtrousError: the name of the file does not end in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise AtrousError(f"{flag} is {path}; the name of a model file must end in .safetensors.")


def read_info(path: str | Path) -> Info:
    """Reads the record of a model file, without its weights.

    Args:
        path: the model file.

    Raises:
        AtrousError: the file is not a model file.
    """
    path = Path(path)
    return _parse_info(_read_metadata(path), path)


def digest_of_file(path: str | Path) -> str:
    """Returns the SHA-256 of a model file's bytes, which is equal for copies and differs after any change.

    Args:
        path: the model file.

    Raises:
        AtrousError: the file is not a model file.
    """
    _read_metadata(Path(path))
    return sha256_of(path)


def sha256_of(path: str | Path) -> str:
    """Returns the SHA-256 of the bytes of any file, as 64 hexadecimal digits.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_safetensors(tensors: Mapping[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Writes a safetensors file atomically: a temporary file in the same folder is written, synced and renamed.

    Args:
        tensors: the tensors by name.
        metadata: the metadata of the file, as texts by name.
        path: the file to write; an existing file is replaced.

    Raises:
        AtrousError: the disk is full or the folder is not writable; an existing file is unchanged.
    """
    from safetensors.torch import save as to_bytes

    try:
        with atomic_path(path, sync=True) as part:
            part.write_bytes(to_bytes(dict(tensors), metadata))
    except OSError as error:
        raise AtrousError(f"cannot write {path}: {error.strerror or error}. An existing file is unchanged.") from error


def _read_metadata(path: Path) -> dict[str, str]:
    """Reads the metadata of a model file without torch."""
    if path.is_dir():
        inside = path / "best.safetensors"
        if (path / "config.json").is_file() and not inside.is_file():
            raise AtrousError(
                f"{path} is a folder of another library (it has a config.json), not a model file. Convert it first: "
                f"atrous convert {path} --out model.safetensors."
            )
        raise AtrousError(
            f"{path} is a folder, not a model file." + (f" The run's model is {inside}." if inside.is_file() else "")
        )
    if not path.is_file():
        beside = get_close_matches(path.name, sorted(file.name for file in path.parent.glob("*.safetensors")))
        hint = f" Did you mean {path.parent / beside[0]}?" if beside else ""
        if path.parent.name == "zoo" and not path.parent.is_dir():
            hint = (
                " The models of zoo/ are in the repository of atrous, not in the installed package: copy the file from "
                "the repository."
            )
        raise AtrousError(f"no model file at {path}.{hint}")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size):
                raise ValueError("no safetensors header")
            metadata = parse_json(file.read(length), str(path)).get("__metadata__", {})
    except (ValueError, AttributeError) as error:  # AtrousError is a ValueError
        cure = f"Convert checkpoints of other libraries first: atrous convert {path} --out model.safetensors."
        if path.name.lower().endswith(tuple(PICTURES_AND_VOLUMES)):
            cure = "It is named like a picture or a volume: give the model first, and then the pictures or volumes."
        raise AtrousError(
            f"{path} is not a model file (a model file is a .safetensors file written by atrous). {cure}"
        ) from error
    if isinstance(metadata, dict) and ADAPTER_MARK in metadata:
        raise AtrousError(
            f"{path} is an adapter, which needs the model file that it changes: atrous merge BASE "
            f"{shlex.quote(str(path))} --out model.safetensors, or in Python Segmenter(BASE, adapter=...)."
        )
    if not isinstance(metadata, dict) or "atrous" not in metadata:
        raise AtrousError(f"{path} is a safetensors file, but not one written by atrous: it has no model record.")
    return metadata


def _parse_info(metadata: dict[str, str], path: Path) -> Info:
    from atrous.models.info import Info

    try:
        return Info.from_dict(parse_json(metadata["atrous"], "its record"))
    except (ValueError, TypeError, AttributeError) as error:  # AtrousError is a ValueError
        raise AtrousError(f"{path}: {error}") from error


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Checks that a file has the weights of the network in its record."""
    shapes, wanted = ({name: tuple(tensor.shape) for name, tensor in state.items()} for state in (tensors, expected))
    differing = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
    if differing:
        first = differing[0]
        raise AtrousError(
            f"{path} holds weights that do not fit its own architecture: '{first}' has shape "
            f"{shapes.get(first, 'none')} in the file, but {wanted.get(first, 'none')} in the network"
            + (f", and {len(differing) - 1} more differ." if len(differing) > 1 else ".")
        )


def checksum(info: str, tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of a record and of the names, types, shapes and values of tensors.

    Args:
        info: the record as JSON.
        tensors: the tensors by name.
    """
    import torch

    digest = hashlib.sha256(info.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
