"""Saves and loads adapters: small files with the changes of a fine-tuned model to its base, a model file.

`atrous train` writes an adapter if `train.learn` is lora. It contains the factors of the low-rank changes
(arXiv:2106.09685) and all other weights that were trained. It names its base by the checksum of the base's file. Like a
model file, it is a plain safetensors file without pickles. Its metadata has two entries: "atrous_adapter" is a JSON
object with the checksum of the base and the record of the fine-tuned model. "sha256" is the checksum of this JSON and
of all tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atrous import model_file
from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.json_yaml import parse_json
from atrous.overwrite_checks import ADAPTER_MARK, safetensors_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from atrous.models import SegmentationModel
    from atrous.models.info import Info

#: Suffixes of the names of the factors A and B of a weight.
DOWN, UP = ".lora_down", ".lora_up"


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter file.

    Args:
        info: metadata of the fine-tuned model.
        base_sha256: SHA-256 of the bytes of the base's file.
        tensors: factors and whole weights, by name.
    """

    info: Info
    base_sha256: str
    tensors: Mapping[str, Tensor]


def save_adapter(
    model: SegmentationModel, factors: Mapping[str, Sequence[Tensor]], kept: Sequence[str], base_sha256: str, path: Path
) -> None:
    """Writes an adapter file; an existing file is replaced.

    Args:
        model: the fine-tuned model, as built from its record.
        factors: factors A (rank × columns) and B (rows × rank) of each changed weight, by the name of the weight.
        kept: names of weights that are those of the base, and are left out.
        base_sha256: SHA-256 of the bytes of the base's file.
        path: the file to write.

    Raises:
        AtrousError: the file cannot be written, or a weight does not fit the record or is not finite.
    """
    info, tensors = model_file.contents(model)
    found = {name: tensor for name, tensor in tensors.items() if name not in factors and name not in kept}
    for name, (down, up) in factors.items():
        found |= {f"{name}{DOWN}": down.detach().cpu().clone(), f"{name}{UP}": up.detach().cpu().clone()}
    record = json.dumps({"base_sha256": base_sha256, "info": parse_json(info, "the model's info")})
    model_file.write_safetensors(found, {ADAPTER_MARK: record, "sha256": model_file.checksum(record, found)}, path)


def read_adapter(path: str | Path) -> Adapter:
    """Reads an adapter file.

    Args:
        path: the file.

    Raises:
        AtrousError: the file is missing, is no adapter, or was damaged or altered.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from atrous.models.info import Info

    path = Path(path)
    if not path.is_file():
        raise AtrousError(f"no adapter at {path}: give the adapter.safetensors of a run with train.learn lora.")
    metadata = safetensors_metadata(path)
    if ADAPTER_MARK not in metadata:
        raise AtrousError(f"{path} is not an adapter: give the adapter.safetensors of a run with train.learn lora.")
    try:
        tensors = load_file(path)
        record = parse_json(metadata[ADAPTER_MARK], "its record")
        if metadata.get("sha256") != model_file.checksum(metadata[ADAPTER_MARK], tensors):
            raise ValueError("its checksum does not match")
        return Adapter(Info.from_dict(record["info"]), str(record["base_sha256"]), tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise AtrousError(f"{path} was altered or damaged after it was saved: {error}.") from error


@checked
def load_adapted(base: str | Path, adapter: str | Path) -> SegmentationModel:
    """Builds the fine-tuned model of an adapter, in evaluation mode.

    Args:
        base: the model file from which the training started.
        adapter: the adapter file.

    Returns:
        The module, with `.info`. Its weights are those of the best.safetensors beside which the adapter was written, up
        to the rounding of float32.

    Raises:
        AtrousError: a file is missing or damaged, the base is not that of the adapter, or the adapter does not fit it.
    """
    import torch

    from atrous import models
    from atrous.models.meta_device import on_meta_device

    given = read_adapter(adapter)
    if given.base_sha256 != (digest := model_file.digest_of_file(base)):
        raise AtrousError(
            f"{adapter} changes a model file with the sha256 {given.base_sha256}, but {base} has {digest}: give the "
            "model file from which the training of the adapter started."
        )
    of_base, info = model_file.load(base).state_dict(), given.info
    with on_meta_device():  # a wrong record may describe a network that fills the memory
        expected = models.build(info.architecture, info.arguments).state_dict()
    state: dict[str, Tensor] = {}
    for name, wanted in expected.items():
        if (weight := _weight(name, given.tensors, of_base)) is None or weight.shape != wanted.shape:
            raise AtrousError(
                f"{adapter} does not fit {base}: the weight {name} is missing, is not finite, or has another shape."
            )
        state[name] = weight
    used = {f"{name}{end}" for name in expected for end in ("", DOWN, UP)}
    if unknown := sorted(given.tensors.keys() - used):
        raise AtrousError(f"{adapter} does not fit {base}: it contains {unknown[0]}, which the network does not have.")
    model = models.build(info.architecture, info.arguments)
    with torch.no_grad():
        model.load_state_dict(state)
    model.info = info
    return model.eval()


def _weight(name: str, tensors: Mapping[str, Tensor], of_base: Mapping[str, Tensor]) -> Tensor | None:
    """Returns a weight of the fine-tuned model; None if the adapter and the base do not define it."""
    down, up, base, whole = tensors.get(f"{name}{DOWN}"), tensors.get(f"{name}{UP}"), of_base.get(name), name in tensors
    if down is None and up is None:
        return tensors[name] if whole else base
    if down is None or up is None or base is None or whole or base.ndim < 2 or down.ndim != 2 or up.ndim != 2:
        return None
    fits = up.shape[1] == down.shape[0] and (up.shape[0], down.shape[1]) == tuple(base.flatten(1).shape)
    if not fits or not down.is_floating_point() or up.dtype != down.dtype:
        return None
    weight = base + (up @ down).view_as(base)
    return weight if weight.isfinite().all() else None
