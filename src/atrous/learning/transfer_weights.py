"""Copies weights from a trained model: all weights that fit, and the rows of classes with the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from atrous import model_file, models
from atrous.checked_arguments import checked
from atrous.errors import AtrousError, counted
from atrous.learning.recipe import Recipe
from atrous.learning.recipe_sections import Model
from atrous.models import Info, SegmentationModel
from atrous.models.info import placeholder_table
from atrous.models.meta_device import on_meta_device
from atrous.models.model_checks import check_model


@checked
def start_from(model: SegmentationModel, source: SegmentationModel | str | Path) -> str:
    """Copies all weights whose name and shape match, and the mean and std of the trained model's inputs.

    Mean and std are copied only if both models have the same number of channels and the same dtype.

    Weights with one row per class (of the classifier, an auxiliary classifier, DeepLabV2's branches) are matched by
    class name: a class gets the rows of the class with the same name, for any order and number of classes. In a
    one-logit model, the logit is the score of the second class minus the score of the first class. So the row of the
    logit is the difference of two rows of the trained model. If the trained model has one logit, its row becomes two
    rows, of which the first is 0.

    Args:
        model: model to initialise in place; its info.classes are the names to match.
        source: trained model or its file, of the same or a similar architecture. The classes of two models with
            placeholder names ("class 0", …) match if both models have the same number of classes.

    Returns:
        A sentence that lists the weights that were copied and those that are newly initialised.

    Raises:
        AtrousError: no weight except biases and norms matches, or the file is not a model file.
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
    # biases do not show a match, because they may have the same length by chance
    if not any(tensor.ndim > 1 for tensor in fitting.values()):
        raise AtrousError(
            f"no weights of the given model fit: it is {source.info.architecture} over "
            f"{source.info.arguments.get('backbone')}, but the recipe requires {model.info.architecture} over "
            f"{model.info.arguments.get('backbone')}."
        )
    matched = matching_names(model.info, source.info)
    rows = _rows({name: state[name] for name in classwise}, given, (model.info, source.info), matched)
    model.load_state_dict({**fitting, **rows}, strict=False)
    new, old = model.info.preprocessing, source.info.preprocessing
    if len(new.mean) == len(old.mean) and new.dtype == old.dtype:
        model.info = replace(model.info, preprocessing=new.normalized_by(old.mean, old.std))
    return _sentence(state, fitting, rows, model.info, matched)


def network_of(info: Info, wanted: Model) -> Model:
    """Returns the recipe's model section with the network of a trained model from which training starts.

    The weights fit only the network of the trained model, because they were trained with its align_corners, padding,
    rates and dilation rule. The numbers of channels and classes are left out, because the data determine them.

    Args:
        info: metadata of the trained model.
        wanted: model section of the recipe; each of its `arguments` replaces the same argument of the trained model.
    """
    arguments = {**info.arguments, **wanted.arguments}
    own = {name: arguments.pop(name) for name in ("backbone", "output_stride")}
    for name in ("num_classes", "in_channels"):
        if name not in wanted.arguments:
            arguments.pop(name)
    return replace(wanted, architecture=info.architecture, pretrained=False, arguments=arguments, **own)


def with_network_of(start: str | Path, recipe: Recipe) -> Recipe:
    """Returns a recipe with the network of the model file from which training starts, and with the file's full path.

    Args:
        start: the model file.
        recipe: the recipe.

    Raises:
        AtrousError: the file is not a model file.
    """
    model = replace(recipe.model, init=str(Path(start).resolve()))
    return replace(recipe, model=network_of(model_file.read_info(start), model))


def classwise_names(model: SegmentationModel) -> set[str]:
    """Returns the names of the weights with one row per class: their shapes change with the number of classes."""
    arguments = {**model.info.arguments, "num_classes": model.info.arguments["num_classes"] + 1}
    with on_meta_device():
        wider = models.build(model.info.architecture, arguments).state_dict()
    return {name for name, tensor in model.state_dict().items() if tensor.shape != wider[name].shape}


def matching_names(new: Info, old: Info) -> list[str]:
    """Returns the names of the classes that both models have.

    Placeholder names ("class 0") match only the placeholder names of a model with the same number of classes.

    Args:
        new: metadata of the model to initialise.
        old: metadata of the trained model.
    """
    nameless = [info.classes == placeholder_table(info.arguments["num_classes"]).names for info in (new, old)]
    if any(nameless) and not (all(nameless) and len(new.classes) == len(old.classes)):
        return []
    matched = [name for name in new.classes if name in old.classes]
    one_logit = new.arguments["num_classes"] == 1
    return matched if not one_logit or len(matched) == 2 else []  # one logit needs the rows of both classes


def _rows(
    classwise: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    infos: tuple[Info, Info],
    matched: list[str],
) -> dict[str, Tensor]:
    """Returns the new model's class-wise weights with the trained rows of the matching classes.

    Args:
        classwise: class-wise weights of the new model, by name.
        given: all weights of the trained model, by name.
        infos: metadata of the new and of the trained model.
        matched: names of the matching classes.
    """
    new, old = infos
    filled = {}
    for name in classwise.keys() & given.keys() if matched else ():
        tensor, other = classwise[name].clone(), given[name]
        if other.shape != (old.arguments["num_classes"], *tensor.shape[1:]):
            continue
        if len(other) == 1:
            other = torch.cat([torch.zeros_like(other), other])  # the first class's score is 0
        row = dict(zip(old.classes, other.to(tensor), strict=True))
        if len(tensor) == 1:
            first, second = new.classes
            tensor[0] = row[second] - row[first]
        else:
            for index, class_name in enumerate(new.classes):
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
    """Returns a sentence with the weights that were copied and the weights that are newly initialised."""
    others = [name for name in info.classes if name not in matched]
    whole = len(fitting) + (0 if others else len(rows))
    kept = f"{whole} of {counted(len(state), 'weight')} are copied from the given model"
    if rows and others:
        layers = ", ".join(sorted({name.rpartition(".")[0] for name in rows}))
        kept += f"; in {layers} the classes {_some(matched)} keep their rows; newly initialised rows: {_some(others)}"
    fresh = sorted({name.rpartition(".")[0] for name in state if name not in fitting and name not in rows})
    return f"{kept}; newly initialised: {_some(fresh)}." if fresh else f"{kept}."


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
