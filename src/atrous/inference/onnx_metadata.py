"""Reads the metadata of an ONNX file without the packages onnx and onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

#: Field numbers in onnx.proto: METADATA_PROPS in ModelProto, KEY and VALUE in StringStringEntryProto.
METADATA_PROPS, KEY, VALUE = 14, 1, 2


def read_property(path: Path, name: str) -> str | None:
    """Returns the value of one entry of an ONNX file's metadata; the graph is skipped.

    Args:
        path: path of the file.
        name: key of the entry.

    Returns:
        The value; None if the file has no such entry.

    Raises:
        ValueError: the file is truncated or is not a protobuf message.
    """
    for number, content in _fields(memoryview(path.read_bytes())):
        if number == METADATA_PROPS:
            entry = {part: bytes(value).decode() for part, value in _fields(content)}
            if entry.get(KEY) == name:
                return entry.get(VALUE)
    return None


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields (field number, content) of each text and each nested message in a protobuf message.

    Raises:
        ValueError: the bytes are truncated or are not a protobuf message.
    """
    position = 0
    while position < len(message):
        tag, position = _number(message, position)
        kind = tag & 7
        if kind == 0:
            _, position = _number(message, position)
            continue
        if kind not in (1, 2, 5):
            raise ValueError("it is not a protobuf message")
        size, position = _number(message, position) if kind == 2 else (8 if kind == 1 else 4, position)
        if position + size > len(message):
            raise ValueError("it is truncated")
        if kind == 2:
            yield tag >> 3, message[position : position + size]
        position += size


def _number(message: memoryview, position: int) -> tuple[int, int]:
    """Reads a protobuf varint, seven bits per byte; returns the number and the position after it."""
    value = shift = 0
    while shift < 64:
        if position >= len(message):
            raise ValueError("it is truncated")
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("it is not a protobuf message")
