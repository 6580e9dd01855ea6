"""Compares the speed of `atrous serve` with a bare `Segmenter`, and measures the server's memory.

    python benchmarks/serve.py load --data PATH/TO/camvid [--model MODEL.safetensors] [--rounds 5]
    python benchmarks/serve.py memory [--requests 10000]

load: 64 clients send pictures of mixed sizes at the same time. Some clients also send requests and disconnect before
the response. Each response must be the mask of its picture. In turns with the server, a bare `Segmenter` segments the
same files, given as a list.

memory: the server's resident memory during thousands of requests with pictures of many sizes and all response formats.

The clients run on the same cores as the server, so their work makes the server slower.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from train import machine

ZOO = Path(__file__).parents[1] / "zoo" / "camvid.safetensors"
#: Width and height of the pictures that are sent.
SIZES = ((480, 360), (320, 240), (240, 320), (640, 480), (400, 225))
CLIENTS = 64
#: Percentage of requests before which a client sends one more request and disconnects before the response.
LEAVING = 10
#: Number of requests before the first measurement of memory; the server has allocated its permanent memory by then.
SETTLED = 500


def main() -> None:
    """Runs the measurement that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "memory"), help="measurement to run")
    parser.add_argument("--model", type=Path, default=ZOO, help="model file to serve; zoo/camvid by default")
    parser.add_argument("--data", type=Path, help="folder of the CamVid dataset; only for load")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each side, for load")
    parser.add_argument("--pictures", type=int, default=80, help="number of pictures in a round, for load")
    parser.add_argument("--requests", type=int, default=10_000, help="number of requests, for memory")
    options = parser.parse_args()
    print(machine())
    if options.what == "memory":
        measure_memory(options.model, options.requests)
    elif options.data is None:
        parser.error("load needs --data: speed is measured on real pictures")
    else:
        measure_load(options.model, options.data, options.rounds, options.pictures)


class Server:
    """`atrous serve` in its own process."""

    def __init__(self, model: Path, *words: str) -> None:
        command = [sys.executable, "-m", "atrous", "serve", f"model={model}", "--port", "0", *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "300"}
        self.log = tempfile.NamedTemporaryFile("w+", encoding="utf-8", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        end = time.monotonic() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", Path(self.log.name).read_text(encoding="utf-8"))):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(Path(self.log.name).read_text(encoding="utf-8"))
            time.sleep(0.05)
        self.port = int(found[1])

    def ask(self, path: str, content: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Sends one request on a new connection; returns the status and the body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET" if content is None else "POST", path, content, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def metric(self, name: str) -> float:
        """Returns the value of a counter of the server; 0 if it is missing."""
        found = re.search(rf"^{re.escape(name)} (\S+)", self.ask("/metrics")[1].decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def resident(self) -> float:
        """Resident memory of the server, in MB."""
        return self.metric("process_resident_memory_bytes") / 1e6

    def stop(self) -> None:
        """Ends the server, and asserts that its exit code is 0."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0, Path(self.log.name).read_text(encoding="utf-8")


def measure_load(model: Path, data: Path, rounds: int, count: int) -> None:
    """Prints the throughput of the server and of the segmenter, their ratio, and how long responses take."""
    import atrous

    with tempfile.TemporaryDirectory() as folder:
        files = make_pictures(sorted((data / "val").iterdir()), Path(folder), count)
        contents = [file.read_bytes() for file in files]
        segmenter = atrous.Segmenter(model)
        expected = [png_of(segmenter(file)) for file in files]
        server = Server(model, "--waiting", "256")
        load(server, contents, expected)  # not measured, because the first picture of each size takes longest
        bare, served, seconds, left = [], [], [], 0
        for turn in range(rounds):
            began = time.perf_counter()
            masks = segmenter([str(file) for file in files])
            bare.append(len(masks) / (time.perf_counter() - began))
            rate, took, leaving = load(server, contents, expected, seed=turn)
            served.append(rate)
            seconds += took
            left += leaving
            print(f"  round {turn + 1}: Segmenter {bare[-1]:.2f} pictures/s, served {rate:.2f}, ×{rate / bare[-1]:.3f}")
        server.stop()
    ratio = statistics.median(rate / own for rate, own in zip(served, bare, strict=True))
    p50, p99 = np.percentile(seconds, (50, 99))
    print(
        f"\n{segmenter.engine.name}, {segmenter.engine.precision}; {CLIENTS} clients, {len(seconds)} responses, "
        f"each the mask of its picture; {left} further requests abandoned by their clients\n"
        f"| served | Segmenter | ratio | p50 | p99 |\n|---|---|---|---|---|\n"
        f"| {statistics.median(served):.2f}/s | {statistics.median(bare):.2f}/s | **{ratio:.3f}** | {p50:.2f} s | "
        f"{p99:.2f} s |"
    )


def make_pictures(sources: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """Writes JPEGs of mixed sizes; returns their paths."""
    files = []
    for index in range(count):
        path = folder / f"{index}.jpg"
        size = SIZES[index % len(SIZES)]
        Image.open(sources[index % len(sources)]).convert("RGB").resize(size).save(path, quality=92)
        files.append(path)
    return files


def png_of(prediction: object) -> bytes:
    """Returns the mask of a prediction, in the bytes that a server sends."""
    from atrous.serving.response_formats import ResponseOptions, write

    return write(prediction, ResponseOptions("mask"))  # type: ignore[arg-type]


def load(
    server: Server, contents: Sequence[bytes], expected: Sequence[bytes], seed: int = 0
) -> tuple[float, list[float], int]:
    """Sends every picture once, with 64 clients at the same time.

    Returns:
        Responses per second, the seconds of each response, and the number of additional requests that were abandoned.
    """
    order = list(range(len(contents)))
    random.Random(seed).shuffle(order)
    todo, seconds, left, lock = iter(order), [], [0], threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        while True:
            with lock:
                index = next(todo, None)
                leaves = index is not None and random.random() < LEAVING / 100
            if index is None:
                return connection.close()
            if leaves:
                leave(server, contents[index])
                left[0] += 1
            began = time.perf_counter()
            connection.request("POST", "/v1/models/model/segment", contents[index])
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            assert body == expected[index], f"the response for picture {index} is not its mask"
            seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for one in [pool.submit(client) for _ in range(CLIENTS)]:
            one.result()
    took = time.perf_counter() - began
    assert len(seconds) == len(contents)
    return len(contents) / took, seconds, left[0]


def leave(server: Server, content: bytes) -> None:
    """Sends a picture and closes the connection without reading the response."""
    head = f"POST /v1/models/model/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + content)
        time.sleep(0.01)


def measure_memory(model: Path, count: int) -> None:
    """Prints the resident memory during many requests of all response formats, sizes and options."""
    server = Server(model)
    rng = np.random.default_rng(0)
    forms = ["mask", "indices", "overlay", "areas", "rle", "polygons"]
    pictures = []
    for index in range(200):
        height, width = (int(side) for side in rng.integers(32, 200, 2))
        small = rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(file, ("PNG", "JPEG")[index % 2])
        pictures.append(file.getvalue())
    resident, done = [], [0]

    def client(share: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        choose = random.Random(share)
        for _ in range(share):
            words = f"format={choose.choice(forms)}" + choose.choice(["", "", "", "&flip=1", "&scales=0.5,1"])
            connection.request("POST", f"/v1/models/model/segment?{words}", choose.choice(pictures))
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        done[0] += share
        connection.close()

    began, settled = time.monotonic(), 0.0
    for part in range(count // SETTLED):
        with ThreadPoolExecutor(10) as pool:
            for one in [pool.submit(client, SETTLED // 10) for _ in range(10)]:
                one.result()
        resident.append(server.resident)
        settled = settled or resident[0]
        if part % 4 == 0:
            print(f"  {done[0]} requests, {time.monotonic() - began:.0f} s: {resident[-1]:.0f} MB", flush=True)
    server.stop()
    ratio = resident[-1] / settled
    print(f"{done[0]} requests: {settled:.0f} MB after {SETTLED}, {resident[-1]:.0f} MB at the end, ×{ratio:.3f}")
    assert ratio <= 1.1


if __name__ == "__main__":
    main()
