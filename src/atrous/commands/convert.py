"""`atrous convert`: convert a checkpoint of another library to a model file.

Examples:
    atrous convert deeplabv3_mobilenet_v3_large.pth --out model.safetensors
    atrous convert mmseg.pth --classes classes.yaml --out model.safetensors
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from torch import Tensor

from atrous import model_file, models
from atrous.checked_arguments import checked
from atrous.console import console, write_json
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError, counted
from atrous.models import Info, SegmentationModel
from atrous.models.meta_device import on_meta_device
from atrous.overwrite_checks import check_outputs, json_output, model_output
from atrous.weights import detect_source, read_checkpoint, stored_normalisation, weight_sets
from atrous.weights.adapter import Adapted, check_fits, check_values, set_aside, some
from atrous.weights.read_checkpoint import Foreign
from atrous.weights.unmerged_lora import check_merged


@checked
def convert(
    file: Path | dict[str, Any],
    *,
    source: str | None = None,
    out: Path | None = None,
    architecture: str | None = None,
    backbone: str | None = None,
    output_stride: int | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    classes: Path | None = None,
    weights: str | None = None,
    json: Path | None = None,
    overwrite: bool = False,
    **arguments: Any,
) -> SegmentationModel:
    """Convert a checkpoint of another library to a model that predicts the same masks.

    No code in the file is run. The command lists the tensors of the checkpoint that the model does not use, and
    the layers that keep random weights. It stores both lists in info.provenance.

    Args:
        file: checkpoint (.pth, .pt, .bin, .safetensors, .npz, .tflite, .caffemodel) or Hugging Face folder; in Python
            also a state dict.
        source: library or repository that the checkpoint comes from: torchvision, smp, huggingface, tensorflow, mmseg,
            vainf, kazuto1011, timm-backbone or vgg16; guessed from the file when not given.
        out: model file to write, NAME.safetensors; without it, no model is written.
        architecture: architecture to build for a file that contains only a backbone: deeplabv1, deeplabv2, deeplabv3
            or deeplabv3plus.
        backbone: name of the backbone, for a file that does not name it.
        output_stride: output stride of the model, 8, 16 or 32; by default the output stride of the checkpoint.
        num_classes: number of classes, ≥ 1, for a file that contains only a backbone.
        in_channels: number of channels of the pictures, ≥ 1, for a file that contains only a backbone.
        classes: classes.yaml file with a name and a colour for each output class.
        weights: name of the set of weights to use if the file contains several, such as state_dict_ema; by default the
            first set whose name does not mean averaged weights or a teacher network.
        json: JSON file to write the report to: the converted model, the unused tensors, and the layers with random
            weights.
        overwrite: also replace files that atrous did not write; inputs are never replaced.
        arguments: further arguments of the architecture's class, such as dropout; in Python only.

    Returns:
        The module, in evaluation mode, with `.info`.

    Raises:
        AtrousError: the file is not a checkpoint, does not come from `source` or is incomplete, or an output may not be
            written.
    """
    _check_targets(file, out, json, classes, overwrite)
    table = ClassTable.from_yaml(classes) if classes is not None else None
    read = read_checkpoint.read(file) if isinstance(file, str | Path) else read_checkpoint.from_state_dict(file)
    if source is not None:
        detect_source.adapter_of(source)
    chosen = weight_sets.choose(read, source, weights)
    every = [key for held in read.sets.values() for key in held]
    check_merged(every if weights is None else chosen.keys.values(), read.name)
    tensors = {name: tensor for path, held in read.sets.items() for name, tensor in _named(path, held)}
    read = chosen.foreign
    source = source or detect_source.guess(read)
    named = {"backbone": backbone, "output_stride": output_stride, "num_classes": num_classes}
    named |= {"in_channels": in_channels, **arguments}
    given = {name: value for name, value in named.items() if value is not None}
    adapted = _adapt(read, source, given, architecture)
    if table is None and adapted.classes_fault:
        raise AtrousError(f"{adapted.classes_fault} Name the classes with --classes FILE, a classes.yaml.")
    adapted, model, fresh = _build(adapted, read, chosen)
    adapted = stored_normalisation.applied(adapted, model.info.preprocessing, tensors)
    model.info = _describe(model.info, adapted, table, {"source": source, "file": read.name, "fresh": fresh})
    report = {**_report(model), "notes": _notes(adapted, source, given, table)}
    _print(model.info, report)
    if out is not None:
        model_file.save_built(model, out)
        _print_next(Path(out), report)
    if json is not None:
        write_json({**report, "out": str(out) if out else None}, Path(json))
    return model


def _check_targets(
    file: Path | Mapping[str, Any], out: Path | None, json: Path | None, classes: Path | None, overwrite: bool
) -> None:
    """Checks before the conversion whether the model and the report may be written."""
    if out is not None:
        model_file.check_name(Path(out), "out")
    inputs = [Path(file)] if isinstance(file, str | Path) else []
    inputs = [each for path in inputs for each in (path, *read_checkpoint.files_of(path))]
    check_outputs(
        "convert",
        [model_output("out", out), json_output("json", json)],
        [*(("the file to convert", path) for path in inputs), ("the class table", classes)],
        overwrite=overwrite,
    )


def _adapt(read: Foreign, source: str, given: Mapping[str, Any], architecture: str | None) -> Adapted:
    """Converts the checkpoint by the adapter of its source, with the arguments that the user gave."""
    adapter = detect_source.adapter_of(source)
    file = read.name or "the state dict"
    others = detect_source.recognising(read)
    if others and source not in others:
        raise AtrousError(
            f"{file} is not from {source}: its keys are those of {' or '.join(others)}. Correct or omit --source."
        )
    named = {**given, "architecture": architecture} if architecture else dict(given)
    try:
        adapted = adapter.adapt(read, named)
    except AtrousError:
        raise
    except (KeyError, IndexError, StopIteration, ValueError, TypeError, RuntimeError, OverflowError) as error:
        # an adapter looks up weights by name and reads their shapes, so a missing weight raises one of these errors
        why = f"it lacks {error}" if isinstance(error, LookupError) else f"its shapes differ ({error})"
        raise AtrousError(
            f"{file} is not a DeepLab model of {source}, or is incomplete: {why}. Possible sources: "
            f"{', '.join(detect_source.SOURCES)}."
        ) from error
    if architecture not in (None, adapted.architecture):
        raise AtrousError(f"{file} is a {adapted.architecture}; it cannot become a {architecture}.")
    return adapted


def _build(
    adapted: Adapted, read: Foreign, chosen: weight_sets.Chosen
) -> tuple[Adapted, SegmentationModel, tuple[str, ...]]:
    """Returns the part of the checkpoint that fits, the model with its weights, and the names of its random weights."""
    with on_meta_device():  # a file with wrong widths must not build a network that fills the memory
        empty = models.build(adapted.architecture, adapted.arguments)
        fitting = set_aside(adapted, empty.state_dict(), read.state)
        if fitting.arguments != adapted.arguments:
            empty = models.build(fitting.architecture, fitting.arguments)
        adapted, fresh = fitting, check_fits(fitting, empty.state_dict())
    check_values(adapted)
    model = models.build(adapted.architecture, adapted.arguments)
    model.load_state_dict(adapted.state, strict=False)
    left_over = [chosen.keys.get(key, key) for key in adapted.left_over]
    adapted = replace(adapted, left_over=(*left_over, *chosen.beside), notes=(*chosen.notes, *adapted.notes))
    return adapted, model.eval(), fresh


def _named(path: str, held: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields each tensor under its key and under its full name; an unused tensor is listed under one of these names."""
    for key, tensor in held.items():
        yield key, tensor
        yield f"{path}.{key}", tensor


def _describe(info: Info, adapted: Adapted, table: ClassTable | None, record: dict[str, Any]) -> Info:
    """Returns the model's info with preprocessing, classes and provenance."""
    info = replace(
        info,
        preprocessing=adapted.preprocessing or info.preprocessing,
        provenance={**record, "left_over": list(adapted.left_over), "fresh": list(record["fresh"])},
    )
    table = table or adapted.classes
    if table is None:
        return info
    if len(table) != len(info.classes):
        raise AtrousError(f"the class table has {counted(len(table), 'class')}, but the model has {len(info.classes)}.")
    return info.with_table(table)


def _notes(adapted: Adapted, source: str, given: Mapping[str, Any], table: ClassTable | None) -> list[str]:
    """Returns the assumptions that the conversion made, as sentences for the user to check."""
    untold = [name for name in adapted.untold if name not in given]
    notes = []
    if untold:
        values = ", ".join(f"{name} {adapted.arguments[name]}" for name in untold)
        notes.append(
            f"Arguments that the file does not store have the usual values of {source}: {values}. Give the true values "
            "if they differ."
        )
    if adapted.classes_of and table is None:
        notes.append(
            f"The class names are assumed to be those of {adapted.classes_of}, which has the same number of classes; "
            "--classes FILE gives other names."
        )
    if adapted.classes is None and table is None and adapted.fills == ("",):
        notes.append("The file does not name its classes; give a classes.yaml with --classes FILE.")
    return [*notes, *adapted.notes]


def _report(model: SegmentationModel) -> dict[str, Any]:
    info = model.info
    return {
        **info.provenance,
        "architecture": info.architecture,
        "arguments": info.arguments,
        "classes": list(info.classes),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _print(info: Info, report: Mapping[str, Any]) -> None:
    names = f"{info.classes[0]} … {info.classes[-1]}" if len(info.classes) > 3 else ", ".join(info.classes)
    left, fresh = report["left_over"], sorted({name.partition(".")[0] for name in report["fresh"]})
    console.print(
        escape(
            f"{info.architecture} over {info.arguments['backbone']}, from {report['source']}: {len(info.classes)} "
            f"classes ({names}), {report['parameters'] / 1e6:.1f} M parameters; "
            + (f"unused: {some(left)}" if left else "nothing unused")
            + (f"; random weights: {', '.join(fresh)}." if fresh else ".")
        )
    )
    for note in report["notes"]:
        console.print(escape(note))


def _print_next(out: Path, report: Mapping[str, Any]) -> None:
    """Prints the next command: predict with the model, or train the layers with random weights."""
    words = f"atrous train RECIPE --init {out}" if report["fresh"] else f"atrous predict {out} PICTURES"
    console.print(escape(f"written: {out}. Next: {words}"))
