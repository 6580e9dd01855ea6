"""Starting from a trained model: every weight that fits, and the rows of every class of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from atrous import model_file, models
from atrous.checked_arguments import checked
from atrous.errors import AtrousError, counted
from atrous.learning.recipe import Model
from atrous.models import Info, SegmentationModel
from atrous.models.info import placeholder_table
from atrous.models.model_checks import check_model


@checked
def start_from(model: SegmentationModel, source: SegmentationModel | str | Path) -> str:
    """Copies every weight that fits, by name and shape, and the input scaling it was trained with.

    Weights that have one row per class (of the classifier, an auxiliary one, DeepLabV2's branches) are matched by the
    classes' names: whatever their order and number, a class of the same name keeps its rows. Of a one-logit model,
    the logit is the second class's score over the first's, so it starts from two rows and gives two.

    Args:
        model: changed in place; its info.classes are the names to match.
        source: a trained model or its file, of the same architecture or a like one. Two models that were never told
            their classes match where they have equally many.

    Returns:
        A sentence that says what was kept and what is fresh.

    Raises:
        AtrousError: nothing fits, or no model file.
    """
    check_model(model)
    source = model_file.load(source) if isinstance(source, str | Path) else check_model(source)
    state, given = model.state_dict(), source.state_dict()
    classwise = classwise_names(model)
    fitting = {
        name: tensor
        for name, tensor in given.items()
        if name in state and name not in classwise and state[name].shape == tensor.shape
    }
    if not any(tensor.ndim > 1 for tensor in fitting.values()):  # a bias of the same length is no likeness
        raise AtrousError(
            f"nothing of the given model fits: it is {source.info.architecture} over "
            f"{source.info.arguments.get('backbone')}, the recipe asks for {model.info.architecture} over "
            f"{model.info.arguments.get('backbone')}."
        )
    matched = matching_names(model.info, source.info)
    rows = _rows({name: state[name] for name in classwise}, given, (model.info, source.info), matched)
    model.load_state_dict({**fitting, **rows}, strict=False)
    ours, theirs = model.info.preprocessing, source.info.preprocessing
    if len(ours.mean) == len(theirs.mean) and ours.dtype == theirs.dtype:
        model.info = replace(model.info, preprocessing=ours.normalized_by(theirs.mean, theirs.std))
    return _sentence(state, fitting, rows, model.info, matched)


def network_of(info: Info, wanted: Model) -> Model:
    """The recipe's model section for training that starts from a trained model: that model's own network.

    Its weights fit no other, and its corners, padding, rates and dilation rule are those they were trained with. The
    data decide the channels and the number of classes.

    Args:
        info: the given model's.
        wanted: the recipe's section, of which `arguments` count, one by one, over the given model's.
    """
    arguments = {**info.arguments, **wanted.arguments}
    own = {name: arguments.pop(name) for name in ("backbone", "output_stride")}
    for name in ("num_classes", "in_channels"):
        if name not in wanted.arguments:
            arguments.pop(name)
    return replace(wanted, architecture=info.architecture, pretrained=False, arguments=arguments, **own)


def classwise_names(model: SegmentationModel) -> set[str]:
    """Names of the weights that have a row per class: those whose shape changes with the number of classes."""
    arguments = {**model.info.arguments, "num_classes": model.info.arguments["num_classes"] + 1}
    with torch.device("meta"):
        wider = models.build(model.info.architecture, arguments).state_dict()
    return {name for name, tensor in model.state_dict().items() if tensor.shape != wider[name].shape}


def matching_names(ours: Info, theirs: Info) -> list[str]:
    """The classes that both models have, by name.

    Placeholders ("class 0") are nobody's names: they match only another model's placeholders, if equally many.
    """
    nameless = [info.classes == placeholder_table(info.arguments["num_classes"]).names for info in (ours, theirs)]
    if any(nameless) and not (all(nameless) and len(ours.classes) == len(theirs.classes)):
        return []
    matched = [name for name in ours.classes if name in theirs.classes]
    one_logit = ours.arguments["num_classes"] == 1
    return matched if not one_logit or len(matched) == 2 else []  # half of a difference is none


def _rows(
    classwise: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    infos: tuple[Info, Info],
    matched: list[str],
) -> dict[str, Tensor]:
    """Our class-wise weights with the rows of the matching classes in them."""
    ours, theirs = infos
    filled = {}
    for name in classwise.keys() & given.keys() if matched else ():
        tensor, other = classwise[name].clone(), given[name]
        if other.shape != (theirs.arguments["num_classes"], *tensor.shape[1:]):
            continue
        if len(other) == 1:
            other = torch.cat([torch.zeros_like(other), other])  # the first class's score is 0
        row = dict(zip(theirs.classes, other.to(tensor), strict=True))
        if len(tensor) == 1:
            first, second = ours.classes
            tensor[0] = row[second] - row[first]
        else:
            for index, class_name in enumerate(ours.classes):
                if class_name in matched:
                    tensor[index] = row[class_name]
        filled[name] = tensor
    return filled


def _sentence(
    state: Mapping[str, Tensor],
    fitting: Mapping[str, Tensor],
    rows: Mapping[str, Tensor],
    info: Info,
    matched: list[str],
) -> str:
    """What was kept and what is fresh."""
    others = [name for name in info.classes if name not in matched]
    whole = len(fitting) + (0 if others else len(rows))
    kept = f"{whole} of {counted(len(state), 'weight')} start from the given model"
    if rows and others:
        layers = ", ".join(sorted({name.rpartition(".")[0] for name in rows}))
        kept += f"; in {layers} the classes {_some(matched)} keep their rows; fresh rows: {_some(others)}"
    fresh = sorted({name.rpartition(".")[0] for name in state if name not in fitting and name not in rows})
    return f"{kept}; fresh: {_some(fresh)}." if fresh else f"{kept}."


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
