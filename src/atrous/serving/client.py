"""Asking a server from Python, with nothing but the standard library on the way."""

from __future__ import annotations

import http.client
import io
import json
import os
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from PIL import Image

from atrous.data.decoding import in_words
from atrous.errors import AtrousError, counted
from atrous.inference.prediction import Prediction
from atrous.inference.value_range import PictureWarning
from atrous.models.info import Info

if TYPE_CHECKING:
    from atrous.inference.segmenter import Picture

#: Endings of files that are sent as they are; others are sent as PNG.
SENT_AS_THEY_ARE = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
#: Seconds before the second try; each further one waits twice as long, up to the last.
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0


class Client:
    """Asks a server of `atrous serve`.

    Several threads and forked children may use one client; each has its own connection.

    Args:
        address: such as "http://127.0.0.1:8000".
        key: of the server, where it asks for one.
        timeout: seconds that one try may take.
        patience: seconds during which a request is tried again where the server is full, stopping or not there; the
            same picture twice gives the same mask, so nothing is lost or done double.

    Raises:
        AtrousError: no address of HTTP.

    Examples:
        >>> import atrous
        >>> client = atrous.Client("http://127.0.0.1:8000")
        >>> prediction = client.segment("x.jpg")  # doctest: +SKIP
    """

    def __init__(self, address: str, *, key: str | None = None, timeout: float = 120.0, patience: float = 60.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AtrousError(f"a server's address is like http://127.0.0.1:8000, got '{address}'.")
        self._parts, self._timeout, self._patience = parts, timeout, patience
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._own = threading.local()
        self._infos: dict[tuple[str, str], Info] = {}

    def __reduce__(self) -> str:
        raise AtrousError(
            "a Client holds a connection and a key, which are not copied or sent to another process: make a Client "
            "with the same address there."
        )

    def models(self) -> list[dict[str, Any]]:
        """What the server says of each of its models: name, classes, scores, engine, version and more.

        Raises:
            AtrousError: it cannot be reached, or refuses.
        """
        return json.loads(self._ask("GET", "/v1/models")[0])["models"]

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
            picture: a path, a PIL image, or an H×W or H×W×C array of uint8 or uint16.
            model: its name; may be left out where there is one only.
            scales: at which the network looks at the picture.
            flip: the network looks at the mirrored picture too.
            crf: "model" or a preset, as `atrous predict --crf` takes them.
            range: as `Segmenter` takes it.
            tile: size of the tiles of larger pictures.
            overlap: that tiles share.

        Returns:
            What `Segmenter` would return here.

        Raises:
            AtrousError: the server cannot be reached, or refuses: its own words.
        """
        from atrous.inference.picture_input import as_array

        image = as_array(picture)
        name = model or self._only_model()
        words = {"format": "indices", "scales": ",".join(f"{scale:g}" for scale in scales), "flip": str(flip).lower()}
        limits = None if range is None else ",".join(f"{value:g}" for value in range)
        words |= {
            key: str(value)
            for key, value in {"crf": crf, "range": limits, "tile": tile, "overlap": overlap}.items()
            if value is not None
        }
        content, headers = self._ask(
            "POST", f"{_address_of(name)}/segment?{urlencode(words)}", _content(picture, image)
        )
        if note := headers.get("X-Note"):
            warnings.warn(note, PictureWarning, stacklevel=2)
        mask = np.asarray(Image.open(io.BytesIO(content)))
        return Prediction(mask, image, self._info(name, headers["X-Model-Version"]))

    def _only_model(self) -> str:
        names = [model["name"] for model in self.models()]
        if len(names) != 1:
            raise AtrousError(f"the server has {counted(len(names), 'model')}: give model, one of {', '.join(names)}.")
        return names[0]

    def _info(self, name: str, version: str) -> Info:
        """Of the version of a model that answered; where it was just replaced, of the one that came after."""
        if (name, version) not in self._infos:
            record = json.loads(self._ask("GET", _address_of(name))[0])
            self._infos[name, version] = self._infos[name, record["version"]] = Info.from_dict(record["info"])
        return self._infos[name, version]

    def _ask(self, method: str, path: str, content: bytes | None = None) -> tuple[bytes, Any]:
        """The answer's content and headers, tried again until patience ends."""
        end, wait = time.monotonic() + self._patience, FIRST_WAIT
        while True:
            try:
                status, body, headers = self._try(method, path, content)
                if status not in (429, 503):
                    break
                reason = _detail(body)
                wait = max(wait, _seconds(headers.get("Retry-After")))
            except (OSError, http.client.HTTPException) as error:
                reason = f"{self._parts.netloc} cannot be reached: {error or type(error).__name__}."
            if time.monotonic() + wait > end:
                raise AtrousError(f"no answer within {self._patience:g} s: {reason}")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
        if status >= 400:
            raise AtrousError(f"{_detail(body)} (HTTP {status})")
        return body, headers

    def _try(self, method: str, path: str, content: bytes | None) -> tuple[int, bytes, Any]:
        connection = self._connection()
        if connection.sock is not None:
            with suppress(ConnectionResetError, BrokenPipeError):  # closed meanwhile, which shows only now
                return self._exchange(connection, method, path, content)
        return self._exchange(connection, method, path, content)

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, content: bytes | None
    ) -> tuple[int, bytes, Any]:
        cut = False
        try:
            try:
                connection.request(method, self._parts.path.rstrip("/") + path, content, self._headers)
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:  # there was no connection
                    raise
                cut = True  # a server may refuse before it has the whole picture; what it said is there to be read
            response = connection.getresponse()
            answer = response.status, response.read(), response.headers
        except BaseException:  # what comes next on this connection would belong to this request
            connection.close()
            raise
        if cut:
            connection.close()
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        if getattr(self._own, "process", None) != os.getpid():  # none yet, or one that the parent goes on using
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            assert self._parts.hostname is not None
            self._own.connection = kind(self._parts.hostname, self._parts.port, timeout=self._timeout)
            self._own.process = os.getpid()
        return self._own.connection


def _address_of(name: str) -> str:
    return f"/v1/models/{quote(name, safe='')}"


def _content(picture: Picture, image: np.ndarray) -> bytes:
    """A picture's file, as it is where the server knows its kind, else as a PNG, or a TIFF for arrays of four bands."""
    if isinstance(picture, str | Path) and Path(picture).suffix.lower() in SENT_AS_THEY_ARE:
        return Path(picture).read_bytes()
    if isinstance(picture, Image.Image):
        return _png_of(picture)
    if image.dtype == np.float32 or image.shape[2] not in (1, 3, 4):
        raise AtrousError(
            f"a picture that is sent has 1, 3 or 4 channels of uint8 or uint16, got {image.shape[2]} of {image.dtype}."
        )
    if isinstance(picture, np.ndarray) and image.shape[2] == 4:  # a PNG would make the fourth channel an alpha
        import tifffile

        file = io.BytesIO()
        tifffile.imwrite(file, image, photometric="rgb", extrasamples=["unspecified"], compression="zlib")
        return file.getvalue()
    import cv2

    return cv2.imencode(".png", image[..., [2, 1, 0, 3][: image.shape[2]]] if image.shape[2] > 1 else image)[
        1
    ].tobytes()


def _png_of(picture: Image.Image) -> bytes:
    """A PIL image as a PNG that the server reads as `Segmenter` reads the image: with its transparency, not turned."""
    if picture.mode in ("F", "I") and picture.format not in ("PNG", "PPM"):
        raise AtrousError(f"a picture that is sent has 8 or 16 bits, got an image of mode '{picture.mode}'.")
    with in_words("the picture"):
        if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I") and not picture.mode.startswith("I;16"):
            picture = picture.convert("RGBA" if picture.mode in ("La", "PA", "RGBa") else "RGB")
        plain = picture.copy()
        plain.info = {key: value for key, value in picture.info.items() if key == "transparency"}
        file = io.BytesIO()
        plain.save(file, "PNG", compress_level=3)
        return file.getvalue()


def _seconds(retry_after: str | None) -> float:
    """What a Retry-After header asks for: seconds, or, as proxies say it, a time (RFC 9110 §10.2.3)."""
    if retry_after is None:
        return 0.0
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # neither, or a time of no zone
        return 0.0


def _detail(body: bytes) -> str:
    """The sentence in a problem."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200] or "the server gave no reason"
