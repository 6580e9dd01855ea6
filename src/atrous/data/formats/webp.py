"""Reads fields of a WebP header that Pillow does not provide."""

from __future__ import annotations

import struct


def webp_size(content: bytes) -> tuple[int, int]:
    """Returns (width, height) in pixels from a WebP header (RFC 9649 §2); (0, 0) for any other file.

    Args:
        content: the bytes of the file, or its first 30 bytes.
    """
    kind, head = content[12:16], content[:30].ljust(30, b"\0")
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def webp_is_lossless(content: bytes) -> bool:
    """Returns whether a WebP file is lossless, which means that its first picture chunk is VP8L (RFC 9649 §2.6).

    Args:
        content: the bytes of the file.
    """
    position = 12  # after "RIFF", the size and "WEBP"
    while position + 8 <= len(content):
        name = content[position : position + 4]
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
        position += 8 + size + size % 2
    return False
