"""Texts in an ONNX file's metadata, read without a runtime for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

#: Numbers of fields in onnx.proto: of ModelProto, and of StringStringEntryProto.
METADATA_PROPS, KEY, VALUE = 14, 1, 2


def read_property(path: Path, name: str) -> str | None:
    """One of the texts that an ONNX file keeps beside its graph, which is passed over.

    Args:
        path: of the file, a protobuf message.
        name: of the property.

    Returns:
        None where the file has no such property.

    Raises:
        ValueError: no protobuf message, or cut off.
    """
    for number, content in _fields(memoryview(path.read_bytes())):
        if number == METADATA_PROPS:
            entry = {part: bytes(value).decode() for part, value in _fields(content)}
            if entry.get(KEY) == name:
                return entry.get(VALUE)
    return None


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The texts and messages in a protobuf message, by the numbers of their fields.

    Raises:
        ValueError: no message, or cut off.
    """
    position = 0
    while position < len(message):
        tag, position = _number(message, position)
        kind = tag & 7
        if kind == 0:
            _, position = _number(message, position)
            continue
        if kind not in (1, 2, 5):
            raise ValueError("it is no protobuf message")
        size, position = _number(message, position) if kind == 2 else (8 if kind == 1 else 4, position)
        if position + size > len(message):
            raise ValueError("it is cut off")
        if kind == 2:
            yield tag >> 3, message[position : position + size]
        position += size


def _number(message: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, seven bits a byte, and the position after it."""
    value = shift = 0
    while shift < 64:
        if position >= len(message):
            raise ValueError("it is cut off")
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("it is no protobuf message")
