"""Joins several inputs of one scene, such as a picture and its depth, along the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atrous.data.pixels import fill_missing, to_channels, to_depth
from atrous.data.sources.source import Pixels, Source, Window
from atrous.errors import AtrousError
from atrous.input_spec import Input, joint_dtype


class JoinedSource:
    """Several sources of the same size that are read as one source; their channels are concatenated.

    Args:
        sources: one source per input.
        inputs: inputs of the model, in the same order.

    Raises:
        AtrousError: the sources differ in size.
    """

    def __init__(self, sources: Sequence[Source], inputs: Sequence[Input]) -> None:
        check_sizes([source.shape[:2] for source in sources], [one.name for one in inputs])
        self._sources, self._inputs = tuple(sources), tuple(inputs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C); C is the number of channels of all inputs together."""
        height, width, _ = self._sources[0].shape
        return height, width, sum(one.channels for one in self._inputs)

    @property
    def geometry(self) -> Any:
        """The position of the picture on Earth, or None."""
        return self._sources[0].geometry

    def close(self) -> None:
        """Closes the files of all sources."""
        for source in self._sources:
            getattr(source, "close", lambda: None)()

    def read(self, window: Window) -> Pixels:
        """Reads the window from each source, and joins the pixels; see `joined`."""
        return joined([source.read(window) for source in self._sources], self._inputs)


def joined(parts: Sequence[Pixels], inputs: Sequence[Input]) -> Pixels:
    """Concatenates the channels of several inputs.

    The picture, which is the first input, is converted to the data type that the model was trained on. A pixel is valid
    if the picture has data there, even if a further input has no data there. For example, a pixel without depth is
    valid. The depth at this pixel becomes the mean depth of the training data, which is 0 after normalisation.

    Args:
        parts: pixels of each input, all of the same size.
        inputs: inputs of the model, in the same order.

    Returns:
        H×W×C of the inputs' common data type, or of float32 if their data types differ.

    Raises:
        AtrousError: the parts differ in size, no conversion to the channels is defined, or the data type of a further
            input differs from its type in the training data.
    """
    check_sizes([part.values.shape[:2] for part in parts], [one.name for one in inputs])
    dtype = joint_dtype(inputs)
    values = []
    for part, one in zip(parts, inputs, strict=True):
        taken = to_channels(part.values, one.channels)
        if one is inputs[0]:
            taken = to_depth(taken, one.dtype)
        elif taken.dtype.name != one.dtype:  # 8 bits, 16 bits and floats rarely have the same unit
            raise AtrousError(
                f"{one.name} holds {taken.dtype}, and the model was trained on {one.dtype}: convert it to the type and "
                f"unit ({one.unit or 'of the training files'}) that it had in training."
            )
        else:
            taken = fill_missing(taken, part.valid, one.mean)
        values.append(taken.astype(dtype, copy=False))
    return Pixels(np.concatenate(values, axis=2), parts[0].valid, parts[0].doubtful_alpha)


def check_sizes(sizes: Sequence[tuple[int, ...]], names: Sequence[str]) -> None:
    """Checks that the inputs of one scene have the same size.

    Args:
        sizes: (H, W) of each input.
        names: name of each input.

    Raises:
        AtrousError: the sizes differ.
    """
    if len(set(sizes)) > 1:
        listed = ", ".join(f"{name} {size[1]}×{size[0]} px" for name, size in zip(names, sizes, strict=True))
        raise AtrousError(
            f"inputs of one scene must have one size, and these differ: {listed}. Resize them to one grid."
        )
