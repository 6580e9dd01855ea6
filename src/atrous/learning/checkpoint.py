"""Training checkpoints: one safetensors file with everything that is needed to resume, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
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

#: Parts that every checkpoint has.
OWN_PARTS = ("weights", "optimizer", "random")
#: Name of an optional part of a checkpoint → field of the recipe that decides whether the part exists.
OF_RECIPE = {
    "average": "train.ema",
    "crf": "crf.trainable",
    "teacher": "distill.teacher",
    "low_rank": "train.learn lora",
}


@dataclass(frozen=True)
class Checkpoint:
    """Progress and recipe of a run, from its checkpoint; `load_checkpoint` restores the other parts in place.

    Args:
        progress: progress of the run, as it was saved.
        recipe: recipe of the run, as YAML; "" if the checkpoint has none.
        processes: number of processes that trained together.
    """

    progress: dict[str, Any]
    recipe: str
    processes: int


def checkpoint_of(run: Path) -> Path:
    """Returns the path of the checkpoint in a run's folder."""
    return run / CHECKPOINT


def check_names(state: Mapping[str, Stateful]) -> None:
    """Checks that a checkpoint can store the parts of a run's state.

    Args:
        state: parts by name.

    Raises:
        AtrousError: a name is reserved or not an identifier, or a part lacks `state_dict` or `load_state_dict`.
    """
    for name, part in state.items():
        if not isinstance(name, str) or not name.isidentifier() or name in OWN_PARTS:
            raise AtrousError(
                "the name of a part of a run's state must consist of letters, digits and underscores, and must not be "
                f"{' or '.join(OWN_PARTS)}; got {shown(name)}."
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
        path: path of the file. It is replaced atomically, so it always contains a complete state.
        model: model whose weights and metadata are stored.
        optimizer: optimiser whose state is stored.
        state: further parts to store, by name, such as the moving average of the weights.
        progress: values that JSON can store, such as epoch, step, best score and elapsed time.
        random: result of `random_state` in each process, by rank; empty to store the state of this process only.
        recipe: recipe of the run as YAML; with it, the checkpoint alone is enough to resume.

    Raises:
        AtrousError: the file cannot be written, or a state contains a value that a checkpoint cannot store.
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
    """Restores the states from a checkpoint, in place.

    Learning rates and weight decays are not restored, so a resumed run uses those of its current recipe.
    Parameters that were frozen before and are trainable now start without momentum.

    Args:
        path: checkpoint written by `save_checkpoint`.
        model: model that gets the weights and the metadata.
        optimizer: optimiser that gets its state.
        state: further parts that get their states, by the names under which they were saved.
        rank: rank of this process; its random state is restored if the checkpoint has one for this rank.

    Returns:
        The progress, the recipe and the number of processes that were saved.

    Raises:
        AtrousError: the checkpoint is missing, is damaged, or belongs to another run.
    """
    wanted = state or {}
    with _reading(path):
        record, tensors = _read(path)
        model.load_state_dict(put_together("weights", tensors, None))
        plain = _parts(record, tensors)
        _check_parts(plain.keys(), wanted.keys())
        for name, part in wanted.items():
            part.load_state_dict(put_together(name, tensors, plain.get(name)))
        if record["optimizer"] != type(optimizer).__name__:
            raise ValueError(f"its optim.name is {record['optimizer'].lower()}, which must not change on resuming")
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


def saved_info(run: Path) -> Info:
    """Returns the metadata of a run's model from its checkpoint, without reading the weights.

    Args:
        run: folder of the run.

    Raises:
        AtrousError: the run has no checkpoint, or a damaged one.
    """
    path = checkpoint_of(run)
    with _reading(path), safe_open(path, framework="pt") as file:
        return Info.from_dict(_record(file, path)["info"])


def last_weights(run: Path) -> dict[str, Tensor]:
    """Returns the latest weights of a run, from which the run resumes; not the best weights, and not the averaged ones.

    Args:
        run: folder of the run.

    Raises:
        AtrousError: the run has no checkpoint, or a damaged one.
    """
    path = checkpoint_of(run)
    with _reading(path):
        return put_together("weights", _read(path)[1], None)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Checks that a checkpoint exists; errors of a damaged or unsuitable checkpoint become an AtrousError."""
    if not path.is_file():
        raise AtrousError(f"nothing to resume: no checkpoint at {path}.")
    try:
        yield
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise AtrousError(f"{path} is not a checkpoint of this run, or is damaged: {error}") from error


def _each_its_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Moves tensors to the CPU; copies tensors that share memory, which the file format does not allow."""
    found, taken = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in taken else own
        taken.add(place)
    return found


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a checkpoint: its JSON record and all its tensors."""
    with safe_open(path, framework="pt") as file:
        return _record(file, path), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _record(file: Any, path: Path) -> dict[str, Any]:
    """Returns the JSON record of an open checkpoint."""
    return parse_json((file.metadata() or {})["atrous-checkpoint"], str(path), finite=False)


def _parts(record: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the JSON values of each part of the state, by name.

    Older checkpoints lack these values. Their parts are recognised by the names of the tensors.
    """
    if "state" in record:
        return record["state"]
    return {name: None for name in OF_RECIPE if any(key.startswith(f"{name}.") for key in tensors)}


def _check_parts(stored: Set[str], wanted: Set[str]) -> None:
    """Checks that the run has the same parts as the checkpoint.

    Only the moving average may be missing from the run, because the weights do not depend on it.

    Raises:
        ValueError: the parts differ.
    """
    for name in sorted(stored ^ wanted):
        how = "with" if name in stored else "without"
        if name in OF_RECIPE and (how, name) != ("with", "average"):
            raise ValueError(f"it was trained {how} {OF_RECIPE[name]}")
        if name not in OF_RECIPE:
            raise ValueError(f"it was trained {how} the state or term '{name}': resume it with the same Extension")


def _names(optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Stateful]) -> list[str]:
    """Returns the names of the optimiser's parameters, in the optimiser's order.

    States are stored by name, because a resumed run may freeze other parameters.
    """
    names: dict[int, str] = {}
    for part, module in {"weights": model, **state}.items():
        if isinstance(module, nn.Module):
            for name, value in module.named_parameters():
                names.setdefault(id(value), f"{part}.{name}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in names for parameter in parameters):
        raise AtrousError("the optimiser has a parameter that belongs to neither the model nor a module in the state.")
    return [names[id(parameter)] for parameter in parameters]


def _slots(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """Returns the optimiser's state of each parameter, in the optimiser's order."""
    state: Any = optimizer.state  # the optimiser has no entry for parameters that had no gradient so far
    return [state.get(parameter, {}) for group in optimizer.param_groups for parameter in group["params"]]


def random_state() -> dict[str, Tensor]:
    """Returns the states of torch's random number generators, which dropout uses, by device."""
    gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() and torch.cuda.is_initialized() else {}
    return {"cpu": torch.get_rng_state(), **gpu}


def _put_random_state(states: dict[str, Tensor]) -> None:
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
