"""A training checkpoint: one safetensors file with everything needed to go on, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from atrous.errors import AtrousError, shown
from atrous.json_yaml import parse_json
from atrous.learning.checkpoint_parts import Stateful, put_together, take_apart
from atrous.model_file import write_safetensors
from atrous.models import Info, SegmentationModel
from atrous.run_folder import CHECKPOINT

#: Parts of a checkpoint that every training has.
OWN_PARTS = ("weights", "optimizer", "random")
#: Parts that a field of the recipe brings.
OF_RECIPE = {"average": "train.ema", "crf": "crf.trainable"}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of its training, besides the state that it puts back.

    Args:
        progress: as it was saved.
        recipe: the run's, as YAML; "" where it was saved without.
        processes: how many trained together.
    """

    progress: dict[str, Any]
    recipe: str
    processes: int


def checkpoint_of(run: Path) -> Path:
    """Where a run's folder keeps its checkpoint."""
    return run / CHECKPOINT


def check_names(state: Mapping[str, Stateful]) -> None:
    """Refuses parts of a training's state that a checkpoint could not keep.

    Args:
        state: parts by name.

    Raises:
        AtrousError: a name that is taken or is no identifier, or a part without `state_dict` and `load_state_dict`.
    """
    for name, part in state.items():
        if not isinstance(name, str) or not name.isidentifier() or name in OWN_PARTS:
            raise AtrousError(
                f"a part of a training's state is named by letters, digits and underscores, and not "
                f"{', '.join(OWN_PARTS)}; got {shown(name)}."
            )
        if not isinstance(part, Stateful):
            raise AtrousError(f"the state '{name}' needs state_dict() and load_state_dict(state), got {shown(part)}.")


def save_checkpoint(
    path: Path,
    *,
    model: SegmentationModel,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Stateful] | None = None,
    progress: dict[str, Any],
    random: Sequence[dict[str, Tensor]] = (),
    recipe: str = "",
) -> None:
    """Writes the state of a training run.

    Args:
        path: the file; at every moment it holds the old state or the new one, whole.
        model: whose weights and info are kept.
        optimizer: whose state is kept.
        state: what else is kept, by name, such as the moving average of the weights.
        progress: JSON-serialisable: epoch, step, best score, elapsed time.
        random: each process's `random_state()`; this one's alone where there are no others.
        recipe: the run's recipe as YAML, so that the checkpoint alone is enough to go on.

    Raises:
        AtrousError: the file cannot be written, or a state holds what a checkpoint does not keep.
    """
    tensors, plain = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}, dict[str, Any]()
    for name, part in (state or {}).items():
        own, plain[name] = take_apart(name, part.state_dict())
        tensors |= own
    for name, slots in zip(_names(optimizer, model, state or {}), _slots(optimizer), strict=True):
        tensors |= {f"optimizer.{name}.{slot}": value for slot, value in slots.items() if value is not None}
    for rank, states in enumerate(random or [random_state()]):
        tensors |= {f"random.{rank}.{kind}": state for kind, state in states.items()}
    record = {"info": model.info.to_dict(), "progress": progress, "optimizer": type(optimizer).__name__}
    record |= {"recipe": recipe, "state": plain}
    write_safetensors(_each_its_own(tensors), {"atrous-checkpoint": json.dumps(record)}, path)


def load_checkpoint(
    path: Path,
    *,
    model: SegmentationModel,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Stateful] | None = None,
    rank: int = 0,
) -> Checkpoint:
    """Puts a checkpoint's state back, in place.

    Learning rates and weight decays stay as the optimiser has them, so that a recipe changed on resuming counts; what
    learns now and did not before starts without momentum.

    Args:
        path: written by `save_checkpoint`.
        model: gets the weights and the info.
        optimizer: gets its state.
        state: what else gets its state, by the names it was saved by.
        rank: this process's, whose random state is put back if there was such a process.

    Returns:
        The progress that was saved, and of which training.

    Raises:
        AtrousError: missing, damaged, or of another training.
    """
    wanted = state or {}
    if not path.is_file():
        raise AtrousError(f"nothing to resume: no checkpoint at {path}.")
    try:
        record, tensors = _read(path)
        model.load_state_dict(put_together("weights", tensors, None))
        plain = _parts(record, tensors)
        _check_parts(plain.keys(), wanted.keys())
        for name, part in wanted.items():
            part.load_state_dict(put_together(name, tensors, plain.get(name)))
        if record["optimizer"] != type(optimizer).__name__:
            raise ValueError(f"its optim.name was {record['optimizer'].lower()}, which a resumed run keeps")
        slots: dict[str, dict[str, Tensor]] = {}
        for name, tensor in put_together("optimizer", tensors, None).items():
            parameter, _, slot = name.rpartition(".")
            slots.setdefault(parameter, {})[slot] = tensor
        names = _names(optimizer, model, wanted)
        kept = {index: slots[name] for index, name in enumerate(names) if name in slots}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": kept})
        model.info = Info.from_dict(record["info"])
        _put_random_state(put_together(f"random.{rank}", tensors, None))
        processes = sum(name.startswith("random.") and name.endswith(".cpu") for name in tensors)
        return Checkpoint(record["progress"], record.get("recipe", ""), max(1, processes))
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise AtrousError(f"{path} is no checkpoint of this run, or is damaged: {error}") from error


def last_weights(run: Path) -> dict[str, Tensor]:
    """The weights with which a run goes on, as they are now: not those of its best validation, nor their average.

    Args:
        run: the run's folder.

    Raises:
        AtrousError: no checkpoint, or a damaged one.
    """
    path = checkpoint_of(run)
    if not path.is_file():
        raise AtrousError(f"no checkpoint at {path}.")
    try:
        return put_together("weights", _read(path)[1], None)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise AtrousError(f"{path} is no checkpoint, or is damaged: {error}") from error


def _each_its_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory, copied where two share it, which the file format does not have."""
    found, taken = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in taken else own
        taken.add(place)
    return found


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record of a checkpoint and all its tensors."""
    with safe_open(path, framework="pt") as file:
        record = parse_json((file.metadata() or {})["atrous-checkpoint"], str(path), finite=False)
        return record, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _parts(record: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What JSON keeps of each part of the state, by name; older checkpoints do not list them."""
    if "state" in record:
        return record["state"]
    return {name: None for name in OF_RECIPE if any(key.startswith(f"{name}.") for key in tensors)}


def _check_parts(stored: Set[str], wanted: Set[str]) -> None:
    """Refuses to go on without a part of the state, or with one that was not there.

    An average of the weights may be left behind, because they do not depend on it.

    Raises:
        ValueError: the parts differ.
    """
    for name in sorted(stored ^ wanted):
        how = "with" if name in stored else "without"
        if name in OF_RECIPE and (how, name) != ("with", "average"):
            raise ValueError(f"it was trained {how} {OF_RECIPE[name]}")
        if name not in OF_RECIPE:
            raise ValueError(f"it was trained {how} a state or term '{name}' of a program: resume it with that program")


def _names(optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Stateful]) -> list[str]:
    """What each of the optimiser's parameters is called, in its order: which are frozen may change on resuming."""
    names: dict[int, str] = {}
    for part, module in {"weights": model, **state}.items():
        if isinstance(module, nn.Module):
            for name, value in module.named_parameters():
                names.setdefault(id(value), f"{part}.{name}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in names for parameter in parameters):
        raise AtrousError("the optimiser has a parameter that is neither the model's nor of a module in the state.")
    return [names[id(parameter)] for parameter in parameters]


def _slots(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """What the optimiser keeps of each parameter, in its order."""
    state: Any = optimizer.state  # without an entry for what has had no gradient yet
    return [state.get(parameter, {}) for group in optimizer.param_groups for parameter in group["params"]]


def random_state() -> dict[str, Tensor]:
    """The state of torch's generators that dropout draws from, by their device."""
    gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() and torch.cuda.is_initialized() else {}
    return {"cpu": torch.get_rng_state(), **gpu}


def _put_random_state(states: dict[str, Tensor]) -> None:
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
