"""A model as one graph, from raw pictures to masks, and that graph as a file for other runtimes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import AtrousError, missing_extra
from atrous.inference.exported_file_engine import INFO_KEY, write_openvino
from atrous.inference.pipeline import Pipeline
from atrous.models import SegmentationModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from atrous.models.info import Info

#: What each format needs installed, as (package, extra), for writing a file and for running it.
NEEDED = {
    "onnx": (("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx")),
    "openvino": (("openvino", "openvino"),),
    "torch": (),
}

#: H×W of the pictures a graph is traced with; any that no dimension can be mistaken for another at.
TRACED_SIZE = (150, 203)


class ExportGraph(nn.Module):
    """A pipeline with the tail that makes masks: everything between a picture's bytes and its labels.

    Args:
        model: a paper's module with `.scores` and `.info`; put into evaluation mode.
        with_scores: give the low-resolution scores too.
    """

    def __init__(self, model: SegmentationModel, *, with_scores: bool = False) -> None:
        super().__init__()
        self.pipeline = Pipeline(model)
        self.align_corners = model.align_corners
        self.with_scores = with_scores
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """N×C×H×W raw values → labels, N×H×W uint8, and where asked for the scores, N×K×h×w float32."""
        scores = self.pipeline(image).float()
        logits = F.interpolate(scores, size=image.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        labels = logits.argmax(1) if scores.shape[1] > 1 else logits[:, 0] > 0
        labels = labels.to(torch.uint8)
        return (labels, scores) if self.with_scores else (labels,)


def check_installed(format: str) -> None:
    """Refuses a format, before the work, whose packages are missing.

    Raises:
        AtrousError: names the package and the command that installs it.
    """
    for package, extra in NEEDED[format]:
        if find_spec(package) is None:
            raise missing_extra(package, extra)


def trace(model: SegmentationModel, *, with_scores: bool = False) -> ExportedProgram:
    """The graph of a deployed model, for any number of pictures of any height and width.

    Args:
        model: on the CPU.
        with_scores: give the low-resolution scores too.

    Raises:
        AtrousError: a backbone whose graph cannot be had at dynamic sizes.
    """
    preprocessing = model.info.preprocessing
    dtype = torch.uint8 if preprocessing.dtype == "uint8" else torch.float32
    image = torch.zeros((2, preprocessing.channels, *TRACED_SIZE), dtype=dtype)
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(
                ExportGraph(model, with_scores=with_scores),
                (image,),
                dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
            )
    except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise AtrousError(
            f"{model.info.architecture} over {model.info.arguments['backbone']} cannot be exported: torch traces no "
            f"graph of it for pictures of any size: {_first_line(error)} ResNets, MobileNets, EfficientNets and VGG-16 "
            "can be."
        ) from error


def write(program: ExportedProgram, info: Info, format: str, path: Path, *, half: bool = False) -> None:
    """Writes a graph and what the model says about itself into a file.

    Args:
        program: as `trace` gives it.
        info: goes into the file's own metadata, as JSON.
        format: onnx, openvino (whose weights go into a .bin beside the file) or torch.
        path: where.
        half: for openvino, weights in 16 bits.

    Raises:
        AtrousError: the format has no such operation, or the disk is full.
    """
    record = json.dumps(info.to_dict())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if format == "onnx":
                _write_onnx(program, record, path, info.tasks[0].outputs)
            elif format == "openvino":
                _write_openvino(program, record, path, half, info.tasks[0].outputs)
            else:
                torch.export.save(program, path, extra_files={f"{INFO_KEY}.json": record})
    except AtrousError:
        raise
    except OSError as error:
        raise AtrousError(f"cannot write {path}: {error.strerror or error}.") from error
    except Exception as error:  # each exporter has errors of its own, openvino's derive from nothing narrower
        raise AtrousError(
            f"{info.architecture} over {info.arguments['backbone']} cannot be written as {format}: "
            f"{_first_line(error)} Try another --format."
        ) from error


def _write_onnx(program: ExportedProgram, record: str, path: Path, outputs: Sequence[str]) -> None:
    names = list(outputs[: len(program.graph_signature.user_outputs)])
    exported = torch.onnx.export(
        program, (), dynamo=True, input_names=["image"], output_names=names, external_data=False, verbose=False
    )
    assert exported is not None
    graph = exported.model_proto
    # The tracer's names of sizes are formulas, repeated for every inner map.
    del graph.graph.value_info[:]
    for value, sizes in zip((*graph.graph.input, *graph.graph.output), ("N H W", "N H W", "N h w"), strict=False):
        dimensions = value.type.tensor_type.shape.dim
        free = [dimension for dimension in dimensions if not dimension.HasField("dim_value")]
        for dimension, name in zip(free, sizes.split(), strict=True):
            dimension.dim_param = name
    graph.metadata_props.add(key=INFO_KEY, value=record)
    path.write_bytes(graph.SerializeToString())


def _write_openvino(program: ExportedProgram, record: str, path: Path, half: bool, outputs: Sequence[str]) -> None:
    import openvino

    model = openvino.convert_model(program)
    for output, name in zip(model.outputs, outputs, strict=False):
        output.get_tensor().set_names({name})
    write_openvino(model, record, path, half=half)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}".rstrip(".") + "."
