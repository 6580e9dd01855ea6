"""Quantises an exported file to 8-bit integers by NNCF, with calibration pictures and without further training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atrous.errors import missing_extra
from atrous.inference.exported_onnx_and_openvino import INFO_KEY, write_openvino
from atrous.inference.openvino_core import openvino_core

#: Layers that stay in floating point, for each attempt. 8 bits reduce the accuracy most in depthwise convolutions
#: (their channels have different ranges) and in the last convolution (its scores decide the mask).
ATTEMPTS = ("nothing", "the last convolution", "the last convolution and all depthwise ones")


def check_installed() -> None:
    """Checks, before the export, that NNCF is installed.

    Raises:
        AtrousError: NNCF is missing; the message has the command that installs it.
    """
    from importlib.util import find_spec

    if find_spec("nncf") is None:
        raise missing_extra("nncf", "int8")


def quantise(source: Path, images: Sequence[np.ndarray], attempt: str, target: Path) -> list[str]:
    """Writes an 8-bit copy of an exported file.

    Args:
        source: exported .xml or .onnx file.
        images: inputs of the graph, each 1×C×H×W, from which the ranges of values are measured; 100 or more.
        attempt: one of `ATTEMPTS`: the layers that stay in floating point.
        target: file to write, in the format of `source`.

    Returns:
        The names of the convolutions that stay in floating point.
    """
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return (_quantise_onnx if source.suffix.lower() == ".onnx" else _quantise_openvino)(source, images, attempt, target)


def _quantise_openvino(source: Path, images: Sequence[np.ndarray], attempt: str, target: Path) -> list[str]:
    model = openvino_core().read_model(source)
    record = model.get_rt_info([INFO_KEY]).astype(str)
    depthwise = {
        op.get_friendly_name(): op.get_type_name() == "GroupConvolution"
        for op in model.get_ordered_ops()
        if op.get_type_name() in ("Convolution", "GroupConvolution")
    }
    quantised = _by_nncf(model, images, _kept(depthwise, attempt))
    write_openvino(quantised, record, target)
    return [op.get_friendly_name() for op in quantised.get_ordered_ops() if _in_floats(op)]


def _quantise_onnx(source: Path, images: Sequence[np.ndarray], attempt: str, target: Path) -> list[str]:
    import onnx

    model = onnx.load(source)
    depthwise = {node.name: _groups(node) > 1 for node in model.graph.node if node.op_type == "Conv"}
    quantised = _by_nncf(model, [{"image": image} for image in images], _kept(depthwise, attempt))
    onnx.save(quantised, target)  # with the metadata, which NNCF copies
    made = {output: node.op_type for node in quantised.graph.node for output in node.output}
    convolutions = [node for node in quantised.graph.node if node.op_type == "Conv"]
    return [node.name for node in convolutions if made.get(node.input[1]) != "DequantizeLinear"]


def _kept(depthwise: Mapping[str, bool], attempt: str) -> list[str]:
    """Returns the names of the convolutions that an attempt leaves in floating point.

    `depthwise` maps the name of each convolution, in the graph's order, to whether the convolution is depthwise.
    """
    if attempt == ATTEMPTS[0]:
        return []
    last = list(depthwise)[-1]
    return [name for name, one in depthwise.items() if name == last or (one and attempt == ATTEMPTS[2])]


def _by_nncf(model: Any, inputs: Sequence[Any], kept: Sequence[str]) -> Any:
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(names=list(kept)) if kept else None,
    )


def _groups(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _in_floats(op: Any) -> bool:
    """Returns whether an OpenVINO operation is a convolution whose weights are not 8-bit numbers."""
    if op.get_type_name() not in ("Convolution", "GroupConvolution"):
        return False
    node = op.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node.get_element_type().to_string() not in ("i8", "u8", "f8e4m3")
