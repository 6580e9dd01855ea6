"""An exported OpenVINO file in 8-bit whole numbers: post-training quantisation on some pictures, by NNCF."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atrous.errors import missing_extra
from atrous.inference.exported import INFO_KEY, write_openvino
from atrous.inference.openvino_core import openvino_core

#: What is left in floats, from nothing to what costs accuracy first: depthwise convolutions, whose channels have ranges
#: of their own, and the last convolutions, whose scores make the mask.
ATTEMPTS = ("nothing", "the last convolution", "the last convolution and all depthwise ones")


def check_installed() -> None:
    """Refuses, before the work, where NNCF is missing.

    Raises:
        AtrousError: names the package and the command that installs it.
    """
    from importlib.util import find_spec

    if find_spec("nncf") is None:
        raise missing_extra("nncf", "int8")


def quantise(source: Path, images: Sequence[np.ndarray], attempt: str, target: Path) -> list[str]:
    """Writes an 8-bit copy of an exported file.

    Args:
        source: an exported .xml file.
        images: 1×C×H×W as the graph takes them, on which the ranges of values are measured; some hundred.
        attempt: one of `ATTEMPTS`, what stays in floats.
        target: the .xml file to write.

    Returns:
        The names of the convolutions that stay in floats.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino_core().read_model(source)
    record = model.get_rt_info([INFO_KEY]).astype(str)
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    kept = [] if attempt == ATTEMPTS[0] else convolutions[-1:]
    if attempt == ATTEMPTS[2]:
        kept = [op for op in convolutions[:-1] if op.get_type_name() == "GroupConvolution"] + kept
    names = [op.get_friendly_name() for op in kept]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=names) if names else None,
    )
    write_openvino(quantised, record, target)
    return [op.get_friendly_name() for op in quantised.get_ordered_ops() if _in_floats(op)]


def _in_floats(op: Any) -> bool:
    """Whether an operation is a convolution whose weights are no 8-bit numbers."""
    if op.get_type_name() not in ("Convolution", "GroupConvolution"):
        return False
    node = op.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node.get_element_type().to_string() not in ("i8", "u8", "f8e4m3")
