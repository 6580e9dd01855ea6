"""`atrous serve`: serve models over HTTP, for people and programs.

Examples:
    atrous serve runs/quickstart/best.safetensors
    atrous serve streets=model.safetensors --host 0.0.0.0 --key-file key.txt
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.markup import escape

from atrous.checked_arguments import checked
from atrous.console import console
from atrous.errors import AtrousError, missing_extra
from atrous.inference.memory_estimate import limit_bytes
from atrous.inference.model_spec import ModelSpec
from atrous.option_fields import taking
from atrous.serving.model_store import named_paths
from atrous.serving.request_limits import Limits

#: Environment variable that may contain the key. No option takes the key itself, because other users could read it in
#: the list of processes.
KEY_VARIABLE = "ATROUS_KEY"


@checked
@taking(ModelSpec, "engine", "device", "precision", "memory")
def serve(
    models: list[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: Path | None = None,
    waiting: int = 64,
    megabytes: float = 32.0,
    megapixels: float = 50.0,
    megavoxels: float = 256.0,
    seconds: float = 60.0,
    **options: Any,
) -> None:
    """Serve models over HTTP: an interface for programs, and a web page for people at the same address.

    Args:
        models: model files or exported files; NAME=PATH serves a model under another name.
        host: address to listen at; 0.0.0.0 or the name of this machine also serves other machines and requires a key.
        port: port to listen at, 0–65535; 0 lets the system choose a free port.
        key_file: file whose first line is the key of the server; without it, the key comes from the environment
            variable ATROUS_KEY. Requests must contain the key, except those for the web page, the API reference and
            the health checks.
        waiting: largest number of pictures in the server at once; further requests get the status 429.
        megabytes: largest total size of the files of one request, in MiB (2²⁰ bytes).
        megapixels: largest number of pixels that the network computes for one response, in megapixels; the pixels of
            all scales add up, and the enlarged size counts if the model enlarges pictures.
        megavoxels: largest number of voxels that the network computes for one volume, in millions, over all planes and
            scales; also the largest number of values of a volume, over all contrasts.
        seconds: longest time from the end of the upload to the response, in seconds.
        **options: engine, device, precision and memory of `ModelSpec`.

    Raises:
        AtrousError: a file is not a model, the address is in use or open to other machines without a key, or a limit is
            out of range.
    """
    specs = {name: ModelSpec(path, **options) for name, path in named_paths(models).items()}
    limits = Limits(
        waiting=waiting,
        picture_bytes=int(megabytes * 2**20),
        pixels=int(megapixels * 1e6),
        voxels=int(megavoxels * 1e6),
        seconds=seconds,
        held_bytes=max(Limits.held_bytes, int(2 * megabytes * 2**20)),
        decoded_bytes=limit_bytes(None),
    )
    key = _key(key_file)
    try:
        from atrous.serving.server import run
    except ImportError as error:
        raise missing_extra(error.name or "fastapi", "serve") from error
    run(specs, host=host, port=port, key=key, limits=limits, say=_say)


def _key(file: Path | None) -> str | None:
    """Returns the key from a file or from the environment.

    Raises:
        AtrousError: the file does not exist, or the key is empty or unprintable.
    """
    try:
        key = file.read_text(encoding="utf-8").partition("\n")[0].strip() if file else os.environ.get(KEY_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise AtrousError(f"the key cannot be read from {file}: {error}.") from error
    if key is not None and not (key.isascii() and key.isprintable() and key):
        raise AtrousError(f"the key in {file or KEY_VARIABLE} must be one or more printable ASCII characters.")
    return key


def _say(line: str) -> None:
    with suppress(OSError, SystemExit):  # rich exits when the console is closed, but the server must continue
        console.print(escape(line))
