"""Real servers on loopback, each in its own process."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous import model_file
from atrous.input_spec import Input
from atrous.models.info import Preprocessing

ZOO = Path(__file__).parents[2] / "zoo" / "camvid.safetensors"


class Server:
    """A running `atrous serve`."""

    def __init__(self, *words: object, port: int = 0, **environment: str) -> None:
        command = [sys.executable, "-m", "atrous", "serve", *map(str, words), "--port", str(port)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "300", **environment},
        )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if "http://" in line:
                break
        else:
            raise AssertionError(f"it ended before it listened: {self.lines}")
        self.address = next(word for word in line.split() if word.startswith("http://"))
        self.port = int(self.address.rpartition(":")[2])
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def stop(self, kind: int = signal.SIGTERM) -> int:
        """Sends a signal, and waits."""
        self.process.send_signal(kind)
        code = self.process.wait(60)
        self._reader.join(5)
        return code

    def kill(self) -> None:
        """Ends it at once, and waits."""
        self.process.kill()
        self.process.wait(60)
        self._reader.join(5)

    def ask(
        self, path: str, content: bytes | None = None, method: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers in small letters, content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if content is None else "POST"), path, content, named)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    def raw(self, content: bytes, timeout: float = 30) -> bytes:
        """Sends bytes as they are; what comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(content)
            received = b""
            while part := connection.recv(65536):
                received += part
            return received


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers, and kills those that are left."""
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    servers: list[Server] = []

    def make(*words: object, **options: object) -> Server:
        servers.append(Server(*words, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start) -> Server:
    """The zoo's model of streets, served."""
    return start(ZOO, "--megapixels", 16, "--megabytes", 2)


@pytest.fixture(scope="session")
def streets() -> list[np.ndarray]:
    """Pictures that a model of streets sees different things in."""
    rng = np.random.default_rng(0)
    pictures = []
    for index in range(12):
        height, width = (72, 96) if index % 3 else (64, 112)
        rows = np.linspace(0, 1, height)[:, None, None]
        sky, road = rng.integers(120, 255, 3), rng.integers(30, 120, 3)
        picture = np.where(rows < rng.uniform(0.2, 0.8), sky, road) + rng.normal(0, 6, (height, width, 3))
        left, top = rng.integers(0, width - 30), rng.integers(10, height - 30)
        picture[top : top + 30, left : left + 30] = rng.integers(0, 255, 3)
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    return pictures


@pytest.fixture(scope="session")
def segmenter() -> atrous.Segmenter:
    """The same model here."""
    return atrous.Segmenter(ZOO)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    """A model that answers otherwise, of the same classes."""

    import torch

    torch.manual_seed(1)
    model = atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_035", num_classes=11, aspp_channels=16, pretrained=False
    )
    info = model_file.read_info(ZOO)
    model.info = model.info.with_table(info.table)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    atrous.save(model, path)
    return path


def png(image: np.ndarray) -> bytes:
    """A picture's file."""
    import io

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def model_of_volumes(folder: Path) -> Path:
    """Writes a model of slices of two planes, with random weights, and returns its file."""
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="float32", normalize="per_image", slices=3, planes=("axial", "sagittal"))
    torch.manual_seed(0)
    made = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=5, pretrained=False)
    made.info = replace(made.info, preprocessing=Preprocessing((one,)))
    atrous.save(made, folder / "volumes.safetensors")
    return folder / "volumes.safetensors"
