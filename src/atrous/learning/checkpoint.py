"""A training checkpoint: one safetensors file with everything needed to go on, written atomically."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.json_yaml import parse_json
from atrous.learning.average import WeightAverage
from atrous.model_file import write_safetensors
from atrous.models import Info, SegmentationModel


def save_checkpoint(
    path: Path,
    *,
    model: SegmentationModel,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    crf: nn.Module | None = None,
    random: Sequence[dict[str, Tensor]] = (),
    recipe: str = "",
) -> None:
    """Writes the state of a training run.

    Args:
        path: the file; at every moment it holds the old state or the new one, whole.
        model: whose weights and info are kept.
        average: of its weights, or None.
        optimizer: whose state is kept.
        progress: JSON-serialisable: epoch, step, best score, elapsed time.
        crf: trained with the model, or None.
        random: each process's `random_state()`; this one's alone where there are no others.
        recipe: the run's recipe as YAML, so that the checkpoint alone is enough to go on.

    Raises:
        AtrousError: the file cannot be written.
    """
    tensors = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.module.state_dict().items()}
    if crf is not None:
        tensors |= {f"crf.{name}": tensor for name, tensor in crf.state_dict().items()}
    for name, slots in zip(_names(optimizer, model, crf), _slots(optimizer), strict=True):
        tensors |= {f"optimizer.{name}.{slot}": value for slot, value in slots.items() if value is not None}
    for rank, states in enumerate(random or [random_state()]):
        tensors |= {f"random.{rank}.{kind}": state for kind, state in states.items()}
    record = {"info": model.info.to_dict(), "progress": progress, "optimizer": type(optimizer).__name__}
    record["recipe"] = recipe
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_safetensors(tensors, {"atrous-checkpoint": json.dumps(record)}, path)


def load_checkpoint(
    path: Path,
    *,
    model: SegmentationModel,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
    crf: nn.Module | None = None,
    rank: int = 0,
) -> dict[str, Any]:
    """Puts a checkpoint's state back, in place.

    Learning rates and weight decays stay as the optimiser has them, so that a recipe changed on resuming counts; what
    learns now and did not before starts without momentum.

    Args:
        path: written by `save_checkpoint`.
        model: gets the weights and the info.
        average: gets the averaged weights, or None.
        optimizer: gets its state.
        crf: gets its parameters, or None.
        rank: this process's, whose random state is put back if there was such a process.

    Returns:
        The progress that was saved.

    Raises:
        AtrousError: missing, damaged, or of another model.
    """
    if not path.is_file():
        raise AtrousError(f"nothing to resume: no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            record = parse_json((file.metadata() or {})["atrous-checkpoint"], str(path), finite=False)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        model.load_state_dict(_under("weights.", tensors))
        if average is not None:
            average.module.load_state_dict(_under("average.", tensors))
        layer = _under("crf.", tensors)
        if bool(layer) != (crf is not None):  # the optimiser's state would land on other parameters
            raise ValueError(f"it was trained {'with' if layer else 'without'} crf.trainable")
        if crf is not None:
            crf.load_state_dict(layer)
        if record["optimizer"] != type(optimizer).__name__:
            raise ValueError(f"its optim.name was {record['optimizer'].lower()}, which a resumed run keeps")
        slots: dict[str, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            parameter, _, slot = name.rpartition(".")
            slots.setdefault(parameter, {})[slot] = tensor
        names = _names(optimizer, model, crf)
        state = {index: slots[name] for index, name in enumerate(names) if name in slots}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        model.info = Info.from_dict(record["info"])
        if average is not None:
            average.module.info = model.info
        _put_random_state(_under(f"random.{rank}.", tensors))
        return record["progress"]
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise AtrousError(f"{path} is no checkpoint of this run, or is damaged: {error}") from error


def _names(optimizer: torch.optim.Optimizer, model: nn.Module, crf: nn.Module | None) -> list[str]:
    """What each of the optimiser's parameters is called, in its order: which are frozen may change on resuming."""
    parts = {"weights": model} | ({} if crf is None else {"crf": crf})
    names = {id(value): f"{part}.{name}" for part, module in parts.items() for name, value in module.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
