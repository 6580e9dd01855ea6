"""Recognises uploads that are not a plain picture file, such as base64, JSON or gzip, and volumes.

It also writes the instruction to send a file.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
import zlib

#: The first bytes of archives and compressed files.
ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
#: Number of bytes of a NIfTI-2 header; a NIfTI-1 header has 348.
NIFTI_BYTES = 540
#: Number of groups of four bytes at the start of an upload that are checked.
CHECKED_BYTES = 64


def packing_of(content: bytes) -> str | None:
    """Returns the name of the encoding or container of an upload; None if it is unknown.

    Args:
        content: bytes of an upload that is not a readable picture.
    """
    for start, name in ARCHIVES.items():
        if content.startswith(start):
            return name
    start = content[: 4 * CHECKED_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:5].lower() == b"data:":
        return "a data URL"
    if start[:1] in (b"{", b"[", b'"'):
        return "JSON"
    if start.startswith(b"--") and b"content-disposition" in content[:1024].lower():
        return "a form without Content-Type: multipart/form-data"
    if start[:1] == b"<":
        return "HTML or XML"
    if re.match(rb"[A-Za-z_.\-]{1,40}=", start):
        return "form fields (application/x-www-form-urlencoded)"
    if re.match(rb"https?://|file://", start, re.IGNORECASE):
        return "an address"
    return "base64" if _is_base64(start) else None


def volume_suffix(content: bytes) -> str | None:
    """Returns the file name suffix of a volume from its first bytes: .nii, .nii.gz or .zip; None for other files.

    Args:
        content: bytes of an upload.
    """
    if content.startswith(b"PK\x03\x04"):
        return ".zip"
    if _is_nifti(content):
        return ".nii"
    if content.startswith(b"\x1f\x8b"):
        try:
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, NIFTI_BYTES)
        except zlib.error:
            return None
        return ".nii.gz" if _is_nifti(start) else None
    return None


def volume_format(content: bytes) -> str | None:
    """Returns the name of the format of a volume, for messages; None for other files and archives.

    The formats are NIfTI, DICOM, NRRD and MetaImage. A server takes neither NRRD nor MetaImage.

    Args:
        content: bytes of an upload.
    """
    if content[128:132] == b"DICM":
        return "a DICOM file"
    if content.startswith(b"NRRD000"):
        return "an NRRD file"
    if re.match(rb"\s*(ObjectType|NDims)\s*=", content[: 4 * CHECKED_BYTES]):
        return "a MetaImage file"
    return "a NIfTI file" if volume_suffix(content) in (".nii", ".nii.gz") else None


def _is_nifti(start: bytes) -> bool:
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"


def how_to_send(url: str, *, key: bool, file: str = "picture.jpg") -> str:
    """Returns the instruction to send a file, with a curl command.

    Args:
        url: URL of the request.
        key: whether the request contained a key.
        file: name of the file in the command.
    """
    header = " -H 'Authorization: Bearer KEY'" if key else ""
    return f"Send the file's own bytes: curl{header} --data-binary @{file} {shlex.quote(url[:1000])}"


def _is_base64(text: bytes) -> bool:
    """Returns whether bytes are base64 text, in the standard or the URL-safe alphabet; no picture begins like that."""
    text = re.sub(rb"\s", b"", text)
    if len(text) < 16 or not re.fullmatch(rb"[A-Za-z0-9+/_\-]+=*", text):
        return False
    try:
        base64.b64decode(text[: len(text) // 4 * 4], altchars=b"-_" if re.search(rb"[-_]", text) else None)
    except binascii.Error:
        return False
    return True
