"""The Python client of `atrous serve`; for HTTP, only the standard library is used."""

from __future__ import annotations

import gzip
import http.client
import io
import ssl
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import numpy as np
from PIL import Image

from atrous.atomic_write import atomic_path
from atrous.checked_arguments import as_dict, checked
from atrous.data.formats.decoder_errors import in_words
from atrous.errors import AtrousError, counted, named, shown, unknown_name
from atrous.inference.prediction import Prediction
from atrous.inference.value_range import PictureWarning
from atrous.input_spec import IMAGE
from atrous.logger import warn
from atrous.models.info import Info
from atrous.overwrite_checks import check_outputs, check_replaceable, is_our_picture, picture_output
from atrous.serving.client_connection import Answer, Connection
from atrous.serving.note_header import note_in

if TYPE_CHECKING:
    from atrous.inference.segmenter import Picture

#: Suffixes of files that are sent unchanged; other files are sent as PNG or TIFF.
UNCHANGED_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
#: Suffixes of the mask of a volume, for each format.
MASK_SUFFIXES = {"nifti": (".nii.gz", ".nii"), "dicom-seg": (".dcm",)}
#: Status codes after which a request is sent again: the server is full, busy or stopping, or a proxy cannot reach it.
RETRIED_STATUSES = (429, 502, 503, 504)
#: Time before the second try, and the longest time between two tries, in seconds. The time doubles with each try. If
#: the header Retry-After of a response gives a longer time, that time is used.
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0


class Client:
    """Client of a server that `atrous serve` runs.

    Several threads and forked children may use one client; each of them has its own connection. If the server
    redirects a request, the same picture is sent to the new address, but the key is not sent to other servers.

    Args:
        address: address of the server, such as "http://127.0.0.1:8000".
        key: key of the server; None for a server without a key.
        timeout: longest time, in seconds, in which a request receives no byte.
        patience: longest time, in seconds, during which a request is sent again while the server is full, stopping or
            unreachable. Repeating a request is safe, because the same picture always gives the same mask.

    Raises:
        AtrousError: the address is not an HTTP address, the key cannot be sent in a header, `timeout` is not above 0,
            or `patience` is below 0.

    Examples:
        >>> import atrous
        >>> client = atrous.Client("http://127.0.0.1:8000")
        >>> prediction = client.segment("x.jpg")  # doctest: +SKIP
    """

    @checked
    def __init__(self, address: str, *, key: str | None = None, timeout: float = 120.0, patience: float = 60.0) -> None:
        if not patience >= 0:
            raise AtrousError(f"patience must be a number of seconds, 0 or more, got {shown(patience)}.")
        self._connection, self._patience = Connection(address, key, timeout), patience
        self._infos: dict[tuple[str, str], Info] = {}

    def __reduce__(self) -> str:
        raise AtrousError(
            "a Client contains a connection and a key, so it cannot be copied or sent to another process: make a "
            "Client with the same address there."
        )

    @checked
    def models(self) -> list[dict[str, Any]]:
        """Returns a dict for each model of the server: name, classes, scores, engine, version and further keys.

        Raises:
            AtrousError: the server cannot be reached, refuses the request, or is not `atrous serve`.
        """
        answer = self._ask("GET", "/v1/models")
        record = answer.json()
        models = record.get("models") if isinstance(record, dict) else None
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise answer.stranger("without a list of models")
        return models

    @checked
    def segment(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        crf: str | None = None,
        range: Sequence[float] | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Prediction:
        """Segments a picture on the server.

        Args:
            picture: path, PIL image, or H×W or H×W×C array of uint8, uint16 or float32; for a model with several
                inputs, a dict from the name of each input to such a picture.
            model: name of the model; optional if the server has only one model.
            scales: scales of test-time augmentation; the probabilities of all scales are averaged.
            flip: whether to also segment the mirrored picture and average the probabilities.
            crf: "model" for the settings of the model file, or the preset "deeplabv1", "deeplabv2" or "pydensecrf";
                None for no CRF.
            range: (lower, upper) values of the picture that become 0 and the largest value of the model's data type;
                None for the whole range of the picture's data type.
            tile: side of a tile, in pixels; larger pictures are tiled.
            overlap: overlap of neighbouring tiles, in pixels.

        Returns:
            The prediction, as `Segmenter` returns it.

        Raises:
            AtrousError: the server cannot be reached, or it refuses the request; the message contains the reason.
        """
        from atrous.inference.picture_input import as_array

        given = as_dict(picture, "the picture")
        parts = {IMAGE: picture} if given is None else given
        if IMAGE not in parts or not all(isinstance(part, str) for part in parts):
            given_names = ", ".join(map(named, parts)) or "nothing"
            raise AtrousError(f"the picture must be given as the input {IMAGE!r}, got {given_names}.")
        arrays = {part: as_array(value) for part, value in parts.items()}
        image = arrays[IMAGE]
        name = model or self._only_model()
        query = {"format": "indices", "scales": ",".join(f"{scale:g}" for scale in scales), "flip": str(flip).lower()}
        limits = None if range is None else ",".join(f"{value:g}" for value in range)
        query |= {
            key: str(value)
            for key, value in {"crf": crf, "range": limits, "tile": tile, "overlap": overlap}.items()
            if value is not None
        }
        answer = self._ask(
            "POST",
            f"{_address_of(name)}/segment?{urlencode(query, errors='surrogateescape')}",
            *_body({part: _content(value, arrays[part]) for part, value in parts.items()}),
        )
        if note := note_in(answer.headers):
            warn(note, PictureWarning, stacklevel=3)
        mask, version = _mask_in(answer, image.shape[:2]), answer.headers.get("X-Model-Version")
        if version is None:
            raise answer.stranger("without the model's version")
        return Prediction(mask, image, self._info(name, version))

    @checked
    def segment_volume(
        self,
        volume: str | Path,
        out: str | Path,
        *,
        model: str | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        format: str = "nifti",
        overwrite: bool = False,
    ) -> None:
        """Segments a volume on the server and writes the mask to a file.

        The name of the volume's file is not sent. The server limits the time of a volume (`atrous serve --seconds`).
        `timeout` of `Client` must be longer than this limit.

        Args:
            volume: path of a NIfTI file (.nii, .nii.gz) or of a zip of a DICOM series.
            out: path of the mask: a .nii.gz or .nii file for "nifti", a .dcm file for "dicom-seg".
            model: name of the model; optional if the server has only one model.
            scales: scales of test-time augmentation; the probabilities of all scales are averaged.
            flip: whether to also segment the mirrored slices and average the probabilities.
            format: "nifti", or "dicom-seg" for a DICOM series.
            overwrite: True to allow replacing a file that atrous did not write; the volume is never replaced.

        Raises:
            AtrousError: the server cannot be reached, the server refuses the request (the message contains the reason),
                `out` has the suffix of another format, or the file at `out` must not be replaced.
        """
        _check_suffix(Path(out), format)
        check_outputs("segment_volume", [picture_output("out", out)], [("the volume", volume)], overwrite=True)
        check_replaceable(out, "mask", is_our_picture, overwrite=overwrite)
        with in_words(volume):
            content = Path(volume).read_bytes()
        query = {"format": format, "scales": ",".join(f"{scale:g}" for scale in scales), "flip": str(flip).lower()}
        name = model or self._only_model()
        answer = self._ask("POST", f"{_address_of(name)}/segment?{urlencode(query)}", content)
        if note := note_in(answer.headers):
            warn(note, PictureWarning, stacklevel=3)
        mask = _volume_mask_in(answer, format, packed=str(out).lower().endswith(".gz"))
        with atomic_path(out) as file:
            file.write_bytes(mask)

    def _only_model(self) -> str:
        names = [str(model.get("name")) for model in self.models()]
        if len(names) != 1:
            raise AtrousError(f"the server has {counted(len(names), 'model')}: give model, one of {', '.join(names)}.")
        return names[0]

    def _info(self, name: str, version: str) -> Info:
        """Returns the metadata of the model version that made a mask; if it was replaced, of the current version."""
        if (name, version) not in self._infos:
            answer = self._ask("GET", _address_of(name))
            record = answer.json()
            try:
                info, current = Info.from_dict(record["info"]), str(record["version"])
            except (KeyError, TypeError, AttributeError):
                raise answer.stranger("without a model's record") from None
            self._infos[name, version] = self._infos[name, current] = info
        return self._infos[name, version]

    def _ask(self, method: str, path: str, content: bytes | None = None, kind: str | None = None) -> Answer:
        """Sends a request and returns the response; repeats it, up to `patience`, while the server is unavailable."""
        end, wait = time.monotonic() + self._patience, FIRST_WAIT
        while True:
            try:
                answer = self._connection.ask(method, path, content, kind)
                if answer.status not in RETRIED_STATUSES:
                    break
                reason = f"{answer.detail()} (HTTP {answer.status})"
                wait = max(wait, _seconds(answer.headers.get("Retry-After")))
            except ssl.SSLCertVerificationError as error:
                raise AtrousError(
                    f"the TLS certificate of {self._connection.address.origin} cannot be verified: "
                    f"{error.verify_message}. If the certificate is your own, set its path in the environment "
                    "variable SSL_CERT_FILE."
                ) from error
            except (OSError, http.client.HTTPException) as error:
                reason = f"{self._connection.address.origin} cannot be reached: {error or type(error).__name__}."
            if time.monotonic() + wait > end:
                raise AtrousError(f"no answer within {self._patience:g} s: {reason}")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
        if answer.status >= 400:
            raise AtrousError(f"{answer.detail()} (HTTP {answer.status})")
        if answer.status != 200:
            raise answer.stranger("which is not a response to this request")
        return answer


def _address_of(name: str) -> str:
    return f"/v1/models/{quote(name, safe='', errors='surrogateescape')}"


def _mask_in(answer: Answer, size: tuple[int, ...]) -> np.ndarray:
    """Returns the mask in a response: H×W uint8, of the same size as the picture.

    Raises:
        AtrousError: the response contains no mask of this size, so it is not from `atrous serve`.
    """
    try:
        picture = Image.open(io.BytesIO(answer.content), formats=["PNG"])
        mask = np.asarray(picture) if picture.size == size[::-1] and picture.mode in ("L", "P") else None
    except Exception:  # Pillow raises many types of errors
        raise answer.stranger("not a mask") from None
    if mask is None:
        raise answer.stranger("not a mask of the picture's size")
    return mask


def _check_suffix(out: Path, format: str) -> None:
    """Checks that the file name of a volume's mask has a suffix of its format.

    Raises:
        AtrousError: the format is unknown, or the file name has another suffix.
    """
    if format not in MASK_SUFFIXES:
        raise unknown_name("format", format, MASK_SUFFIXES)
    if not out.name.lower().endswith(MASK_SUFFIXES[format]):
        raise AtrousError(
            f"out is {out}, and the format {format} needs a file name that ends in "
            f"{' or '.join(MASK_SUFFIXES[format])}: give another name or another format."
        )


def _volume_mask_in(answer: Answer, format: str, *, packed: bool) -> bytes:
    """Returns the mask of a volume in a response; a NIfTI file is unpacked if `packed` is False.

    Raises:
        AtrousError: the response contains no mask of this format, so it is not from `atrous serve`.
    """
    start = answer.content[128:132] if format == "dicom-seg" else answer.content[:2]
    if start != (b"DICM" if format == "dicom-seg" else b"\x1f\x8b"):
        raise answer.stranger("not a mask of a volume")
    if format == "dicom-seg" or packed:
        return answer.content
    try:
        return gzip.decompress(answer.content)
    except (OSError, EOFError, zlib.error):
        raise answer.stranger("not a mask of a volume") from None


def _body(files: Mapping[str, bytes]) -> tuple[bytes, str | None]:
    """Returns the body of a request and its media type: a single file without changes, or a form of several files."""
    if len(files) == 1:
        return files[IMAGE], None
    boundary = uuid4().hex
    form = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode()
        + file
        + b"\r\n"
        for name, file in files.items()
    )
    return form + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _content(picture: Picture, image: np.ndarray) -> bytes:
    """Returns the bytes to send for a picture.

    A file with a suffix in `UNCHANGED_SUFFIXES` is sent unchanged. Other pictures are sent as a PNG, or as a TIFF if a
    PNG cannot store their values.
    """
    if isinstance(picture, str | Path) and Path(picture).suffix.lower() in UNCHANGED_SUFFIXES:
        with in_words(picture):
            return Path(picture).read_bytes()
    if isinstance(picture, Image.Image):
        return _png_of(picture)
    array = isinstance(picture, np.ndarray)
    if image.dtype == np.float32 or image.shape[2] not in (1, 3, 4) or (array and image.shape[2] == 4):
        import tifffile  # in a PNG, the fourth channel would be alpha

        file = io.BytesIO()
        extra = ["unspecified"] * (image.shape[2] - 1)
        tifffile.imwrite(
            file, image, photometric="minisblack", planarconfig="contig", extrasamples=extra, compression="zlib"
        )
        return file.getvalue()
    import cv2

    return cv2.imencode(".png", image[..., [2, 1, 0, 3][: image.shape[2]]] if image.shape[2] > 1 else image)[
        1
    ].tobytes()


def _png_of(picture: Image.Image) -> bytes:
    """Returns a PIL image as a PNG.

    The PNG keeps the transparency and no EXIF rotation, so the server reads it as `Segmenter` reads the image.
    """
    if picture.mode in ("F", "I") and picture.format not in ("PNG", "PPM"):
        raise AtrousError(f"a picture to send must have 8 or 16 bits, got an image of mode '{picture.mode}'.")
    with in_words("the picture"):
        if picture.mode.startswith("I;16"):  # arrays may have either byte order; a PNG has only one byte order
            plain = Image.fromarray(np.asarray(picture).astype(np.uint16))
        elif picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I"):
            plain = picture.copy()
        else:
            plain = picture.convert({"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(picture.mode, "RGB"))
        plain.info = {key: value for key, value in picture.info.items() if key == "transparency"}
        file = io.BytesIO()
        plain.save(file, "PNG", compress_level=3)
        return file.getvalue()


def _seconds(retry_after: str | None) -> float:
    """Returns the seconds to wait from a Retry-After header, which contains seconds or a date (RFC 9110 §10.2.3)."""
    if retry_after is None:
        return 0.0
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or a date without a time zone
        return 0.0
