"""`atrous convert`: make a model file of a checkpoint of another library.

Examples:
    atrous convert deeplabv3_mobilenet_v3_large.pth --out model.safetensors
    atrous convert mmseg.pth --classes classes.yaml --out model.safetensors
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor

from atrous import model_file, models
from atrous.checked_arguments import checked
from atrous.console import console, write_json
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError, counted
from atrous.models import Info, SegmentationModel
from atrous.overwrite_checks import check_outputs, json_output, model_output
from atrous.weights import detect_source, read_checkpoint, stored_normalisation, weight_sets
from atrous.weights.adapter import Adapted, check_fits, check_values, set_aside, some
from atrous.weights.read_checkpoint import Foreign
from atrous.weights.unmerged_adapters import check_merged


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
    """Make a model of a checkpoint from another library, with the same pixels as there.

    Nothing in the file is run. What has no place here, and what stays fresh, is said and kept in info.provenance.

    Args:
        file: a checkpoint (.pth, .pt, .bin, .safetensors, .npz, .tflite, .caffemodel) or a Hugging Face folder; in
            Python also a state dict.
        source: where the checkpoint comes from: torchvision, smp, huggingface, tensorflow, mmseg, vainf, kazuto1011,
            timm-backbone or vgg16; guessed from the file when not given.
        out: the model file to write, NAME.safetensors; nothing is written when not given.
        architecture: paper to build for a file that holds a backbone alone: deeplabv1, deeplabv2, deeplabv3 or
            deeplabv3plus.
        backbone: name of the backbone, where the file does not tell.
        output_stride: output stride of the model, 8, 16 or 32; by default the source's.
        num_classes: number of classes, for a file that holds a backbone alone.
        in_channels: number of channels of the pictures, for a file that holds a backbone alone.
        classes: a classes.yaml with names and colours, one for each output.
        weights: name of the set of weights to take where the file holds several, such as state_dict_ema; by default
            the first that is not named as an average or a teacher.
        json: JSON file to write the report to: what was converted, what was left over, and what stays random.
        overwrite: replace files that atrous did not write, too; inputs are never replaced.
        arguments: of the architecture's class, in Python only, such as dropout.

    Returns:
        The module, in evaluation mode, with `.info`.

    Raises:
        AtrousError: not a checkpoint, not of this source, not complete, or nothing may be written there.
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
    """Before the work: whether the model and its report may be written there."""
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
    """The adapter's answer, with what the user named in it."""
    adapter = detect_source.adapter_of(source)
    file = read.name or "the state dict"
    others = detect_source.recognising(read)
    if others and source not in others:
        raise AtrousError(f"{file} is not {source}'s: its keys are those of {' or '.join(others)} (--source).")
    named = {**given, "architecture": architecture} if architecture else dict(given)
    try:
        adapted = adapter.adapt(read, named)
    except AtrousError:
        raise
    except (KeyError, IndexError, StopIteration, ValueError, TypeError, RuntimeError, OverflowError) as error:
        # an adapter looks for weights by name and takes their shapes apart
        why = f"it lacks {error}" if isinstance(error, LookupError) else f"its shapes are others ({error})"
        raise AtrousError(
            f"{file} is no DeepLab of {source}, or is incomplete: {why}. Possible sources: "
            f"{', '.join(detect_source.SOURCES)}."
        ) from error
    if architecture not in (None, adapted.architecture):
        raise AtrousError(f"{file} is a {adapted.architecture}; it cannot become a {architecture}.")
    return adapted


def _build(
    adapted: Adapted, read: Foreign, chosen: weight_sets.Chosen
) -> tuple[Adapted, SegmentationModel, tuple[str, ...]]:
    """What of the checkpoint fits, the model with its weights, and the names of those that stay fresh."""
    with torch.device("meta"):  # a file of wrong widths shall not make a network that fills the memory
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
    """Tensors by both names under which they may be left over."""
    for key, tensor in held.items():
        yield key, tensor
        yield f"{path}.{key}", tensor


def _describe(info: Info, adapted: Adapted, table: ClassTable | None, record: dict[str, Any]) -> Info:
    """The model's info: preprocessing, classes and where it comes from."""
    info = replace(
        info,
        preprocessing=adapted.preprocessing or info.preprocessing,
        provenance={**record, "left_over": list(adapted.left_over), "fresh": list(record["fresh"])},
    )
    table = table or adapted.classes
    if table is None:
        return info
    if len(table) != len(info.classes):
        raise AtrousError(
            f"the class table has {counted(len(table), 'class')}; the model separates {len(info.classes)}."
        )
    return info.with_table(table)


def _notes(adapted: Adapted, source: str, given: Mapping[str, Any], table: ClassTable | None) -> list[str]:
    """What was taken for granted, for the user to judge."""
    untold = [name for name in adapted.untold if name not in given]
    notes = []
    if untold:
        values = ", ".join(f"{name} {adapted.arguments[name]}" for name in untold)
        notes.append(f"Not told by the file, so as {source} mostly has it: {values}. Name what was otherwise.")
    if adapted.classes_of and table is None:
        notes.append(f"Classes taken for {adapted.classes_of}'s by their number; --classes FILE names others.")
    if adapted.classes is None and table is None and adapted.fills == ("",):
        notes.append("The file does not name its classes; --classes FILE, a classes.yaml, does.")
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
            + (f"left over, not needed: {some(left)}" if left else "nothing left over")
            + (f"; fresh: {', '.join(fresh)}." if fresh else ".")
        )
    )
    for note in report["notes"]:
        console.print(escape(note))


def _print_next(out: Path, report: Mapping[str, Any]) -> None:
    """What to do with the file: predict with it, or train what is still fresh."""
    words = f"atrous train RECIPE --init {out}" if report["fresh"] else f"atrous predict {out} PICTURES"
    console.print(escape(f"written: {out}. Next: {words}"))
