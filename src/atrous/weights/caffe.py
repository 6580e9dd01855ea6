"""Reads the weights in a .caffemodel from protobuf's wire format; the package protobuf is not needed.

Source: BVLC/caffe, src/caffe/proto/caffe.proto (NetParameter, LayerParameter, V1LayerParameter, BlobProto).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atrous.errors import AtrousError

#: Field number of the layers in NetParameter → field numbers of a layer's name and blobs (new and V1 layout).
LAYERS = {100: (1, 7), 2: (4, 6)}
#: Field numbers of a BlobProto. Older files have the four sizes instead of `shape`.
SIZES, DATA, SHAPE = (1, 2, 3, 4), 5, 7

#: Wire types: a varint, eight bytes, a length followed by bytes, four bytes.
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5

LEAVES = ("weight", "bias")

#: Largest number of dimensions of a blob: no layer has more, and the product of so few sizes is computed quickly.
MOST_DIMS = 8


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Reads the blobs of every layer.

    Args:
        path: a .caffemodel of the new or the V1 layout.

    Returns:
        float32 tensors by layer and blob: `conv1_1.weight`, `conv1_1.bias`; a third blob has its index, as in `bn1.2`.
        Convolutions are O×I×h×w for O output and I input channels, fully connected layers are O×I, and biases are
        one-dimensional.

    Raises:
        AtrousError: the file is truncated, or is not a .caffemodel.
    """
    state = {}
    for number, wire, layer in _fields(memoryview(path.read_bytes()), path):
        if number not in LAYERS or wire != BYTES:
            continue
        assert isinstance(layer, memoryview)
        name_field, blobs_field = LAYERS[number]
        name, blobs = "", []
        for inner, kind, value in _fields(layer, path):
            if isinstance(value, memoryview) and inner == name_field:
                name = str(value, "utf-8", "replace")
            elif isinstance(value, memoryview) and inner == blobs_field and kind == BYTES:
                blobs.append(_blob(value, path))
        for index, blob in enumerate(blobs):
            state[f"{name}.{LEAVES[index] if index < len(LEAVES) else index}"] = blob
    return state


def _blob(message: memoryview, path: Path) -> Tensor:
    sizes, shape, data = {}, None, bytearray()
    for number, wire, value in _fields(message, path):
        if number in SIZES and isinstance(value, int):
            sizes[number] = value
        elif number == SHAPE and isinstance(value, memoryview):
            dims = (dim for inner, _, part in _fields(value, path) if inner == 1 for dim in _dims(part, path))
            shape = list(islice(dims, MOST_DIMS + 1))
        elif number == DATA and isinstance(value, memoryview) and wire in (BYTES, FOUR):
            data += value
    if len(data) % 4 or len(shape or ()) > MOST_DIMS:
        raise _damaged(path)
    values = np.frombuffer(data, "<f4").astype(np.float32)
    if shape is None:
        shape = [sizes.get(number, 1) for number in SIZES]
        if shape[:2] == [1, 1]:  # fully connected layers and biases are padded with ones in front
            shape = shape[2:] if shape[2] > 1 else shape[3:]
    if math.prod(shape) != len(values):
        raise AtrousError(f"{path} is damaged or not a .caffemodel: a blob of shape {shape} has {len(values)} values.")
    return torch.from_numpy(values).reshape(shape)


def _dims(part: int | memoryview, path: Path) -> Iterator[int]:
    """Yields the values of a repeated integer field, packed or one value per field."""
    if isinstance(part, int):
        yield part
        return
    position = 0
    while position < len(part):
        dim, position = _varint(part, position, path)
        yield dim


def _fields(message: memoryview, path: Path) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yields the number, wire type and value of each field of a message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position, path)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = _varint(message, position, path)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, position = _varint(message, position, path)
        elif wire in (EIGHT, FOUR):
            length = 8 if wire == EIGHT else 4
        else:
            raise _damaged(path)
        if position + length > len(message):
            raise _damaged(path)
        yield number, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int, path: Path) -> tuple[int, int]:
    """Reads a varint (seven bits per byte, lowest first, until a byte's highest bit is 0); also returns its end."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _damaged(path)


def _damaged(path: Path) -> AtrousError:
    return AtrousError(f"{path} is truncated or damaged, or not a .caffemodel.")
