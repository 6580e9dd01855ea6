"""Sends more than 100,000 harmful requests to a server, and asserts that the server keeps working.

    python benchmarks/hostile.py [--share 1.0] [--json FILE]

After each kind of attack, the server must return the correct mask of a valid picture within five seconds. No response
may have a status of 5xx, except that more connections than allowed may get 503. Slow clients must be disconnected, and
memory must not grow. The server has its default limits. The model is small and has random weights, because only the
server is tested.

The memory after each attack is compared with the memory after valid pictures of all accepted sizes. This is the
reference, because OpenVINO keeps some memory for the largest pictures, and the attacks also contain large valid
pictures. The comparison allows some growth, so it could miss a small leak. Therefore all attacks run a second time with
a tenth of the cases. In this second round, the memory must not exceed the highest value of the first round by more than
the noise of the measurement.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import logging
import random
import socket
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from serve import Server, png_of

ADDRESS = "/v1/models/model/segment"
#: Kind of attack → number of cases, which --share multiplies.
COUNTS = {
    "OpenAPI: valid requests (schemathesis)": 8_000,
    "OpenAPI: invalid requests (schemathesis)": 12_000,
    "pictures with changed bytes": 40_000,
    "truncated pictures": 15_000,
    "false sizes in the header (decompression bombs)": 5_000,
    "broken forms": 10_000,
    "wrong headers and types": 8_000,
    "bytes that are not HTTP": 6_000,
    "oversized headers": 500,
    "TIFFs with contradictory headers": 4_000,
    "forms of 30 MB that contain only boundaries": 12,
    "pictures of 24 megapixels, 8 at once, as overlays": 24,
    "websocket requests": 500,
    "connections at once": 1_500,
    "clients that disconnect": 3_000,
    "slow clients": 300,
}
#: Memory in MB that the large pictures may take at the same time, in addition to the memory before.
MOST_MEGABYTES = 4_000
#: Number of small valid pictures that the server segments before the first measurement of memory.
HONEST = 10_000
#: Number of larger valid pictures before this measurement: sides of 100 to 1000 pixels, as users send them.
USUAL = 300
#: Share of the cases that are sent again in the second round; noise of the measured memory, in MB.
AGAIN, NOISE = 0.1, 50
#: Side of the largest pictures, in pixels; by default the server accepts 50 megapixels.
LARGEST = 7000
Statuses = collections.Counter


def main() -> None:
    """Runs all kinds of attacks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="factor on the number of cases of each attack")
    parser.add_argument("--only", help="text; only attacks whose name contains this text run")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        attack = Attack(Path(folder) / "model.safetensors")
        kinds: list[Callable[[int], Statuses]] = [
            attack.fitting,
            attack.unfitting,
            attack.changed,
            attack.cut,
            attack.bombs,
            attack.forms,
            attack.headers,
            attack.garbage,
            attack.oversized,
            attack.contradicting,
            attack.boundaries,
            attack.large,
            attack.websockets,
            attack.connections,
            attack.leaving,
            attack.slow,
        ]
        results = {}
        print(
            "| attack | cases | responses | seconds | MB after |\n|---|---|---|---|---|\n"
            f"| none | | | | {attack.settle():.0f} |"
        )
        for (name, count), kind in zip(COUNTS.items(), kinds, strict=True):
            if options.only and options.only not in name:
                continue
            began = time.monotonic()
            statuses = kind(max(1, int(count * options.share)))
            seconds = time.monotonic() - began
            attack.still_well()
            answers = ", ".join(f"{status} × {times:,}" for status, times in sorted(statuses.items(), key=str))
            resident = attack.server.resident
            results[name] = {
                "cases": statuses.total(),
                "statuses": dict(statuses),
                "seconds": seconds,
                "megabytes": resident,
            }
            print(f"| {name} | {statuses.total():,} | {answers} | {seconds:.0f} | {resident:.0f} |", flush=True)
            assert not any(str(status).startswith("5") for status in statuses), statuses
            assert resident < 1.15 * attack.resident + 30, (
                f"memory grew from {attack.resident:.0f} to {resident:.0f} MB"
            )
        total = sum(one["cases"] for one in results.values())
        print(f"{total:,} cases")
        attack.second_round(kinds, options)
        highest = max(one["megabytes"] for one in results.values())
        resident = attack.server.resident
        print(f"second round: {resident:.0f} MB, at most {highest:.0f} MB in the first")
        assert resident < highest + NOISE, f"memory grew from {highest:.0f} to {resident:.0f} MB in the second round"
        attack.server.stop()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


class Attack:
    """A server and the attacks on it; each attack returns the number of responses by status."""

    def __init__(self, path: Path) -> None:
        import atrous

        model = atrous.create_model(
            "deeplabv3plus", backbone="mobilenetv2_035", num_classes=4, aspp_channels=16, pretrained=False
        )
        atrous.save(model, path)
        rng = np.random.default_rng(0)
        self.picture = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        self.honest = encoded(self.picture, "PNG")
        self.server = Server(path)
        self.expected = png_of(atrous.Segmenter(path)(self.picture))
        self.resident = 0.0

    def settle(self) -> float:
        """Sends valid pictures of many sizes, also the largest; returns the memory after them, in MB."""
        rng = np.random.default_rng(1)
        contents = [
            encoded(rng.integers(0, 255, (*map(int, rng.integers(1, 100, 2)), 3), dtype=np.uint8), "PNG")
            for _ in range(HONEST)
        ]
        contents += [
            encoded(rng.integers(0, 255, (*map(int, rng.integers(100, 1000, 2)), 3), dtype=np.uint8), "PNG")
            for _ in range(USUAL)
        ]
        contents += [encoded(np.zeros((LARGEST, LARGEST + one, 3), np.uint8), "PNG") for one in range(2)]
        statuses = self._send(contents)
        assert set(statuses) == {200}, statuses
        self.still_well()
        self.resident = self.server.resident
        return self.resident

    def second_round(self, kinds: list[Callable[[int], Statuses]], options: argparse.Namespace) -> None:
        """Runs the attacks again, with a share of `AGAIN` of the cases."""
        for (name, count), kind in zip(COUNTS.items(), kinds, strict=True):
            if not options.only or options.only in name:
                kind(max(1, int(AGAIN * count * options.share)))
                self.still_well()

    def still_well(self) -> None:
        """Asserts that the server returns the correct mask of a valid picture within five seconds."""
        began = time.monotonic()
        status, body = self.server.ask(ADDRESS, self.honest)
        assert (status, body) == (200, self.expected), (status, body[:300])
        assert time.monotonic() - began < 5
        assert self.server.ask("/readyz")[0] == 200

    def fitting(self, count: int) -> Statuses:
        """Sends requests that fit the OpenAPI schema, generated by schemathesis."""
        return self._of_schema(count, "POSITIVE")

    def unfitting(self, count: int) -> Statuses:
        """Sends requests that do not fit the OpenAPI schema, generated by schemathesis."""
        return self._of_schema(count, "NEGATIVE")

    def changed(self, count: int) -> Statuses:
        """Sends pictures of all formats in which a few bytes are changed, inserted or removed."""
        rng, files = random.Random(0), specimens()

        def change() -> bytes:
            content = bytearray(rng.choice(files))
            for _ in range(rng.randint(1, 8)):
                where, how = rng.randrange(len(content)), rng.random()
                if how < 0.7:
                    content[where] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
                elif how < 0.85:
                    content[where:where] = rng.randbytes(rng.randint(1, 40))
                else:
                    del content[where : where + rng.randint(1, 40)]
            return bytes(content)

        return self._send([change() for _ in range(count)])

    def cut(self, count: int) -> Statuses:
        """Sends pictures of all formats that are truncated, or that have further bytes at the end."""
        rng, files = random.Random(1), specimens()
        contents = []
        for _ in range(count):
            content = rng.choice(files)
            end = rng.randrange(len(content))
            contents.append(content[:end] if rng.random() < 0.8 else content + rng.randbytes(end))
        return self._send(contents)

    def bombs(self, count: int) -> Statuses:
        """Sends small files whose headers state huge sizes, or that unpack to much data."""
        rng = random.Random(2)
        makers = (png_bomb, webp_bomb, gif_bomb, bmp_bomb, tiff_bomb, text_bomb)
        return self._send([rng.choice(makers)(rng) for _ in range(count)])

    def forms(self, count: int) -> Statuses:
        """Sends damaged multipart forms."""
        rng = random.Random(3)
        statuses: Statuses = collections.Counter()
        good = (
            b'--B\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n'
            b"Content-Type: image/png\r\n\r\n" + self.honest + b"\r\n--B--\r\n"
        )

        def one(_: int) -> None:
            content = bytearray(good)
            for _ in range(rng.randint(1, 6)):
                where = rng.randrange(min(len(content), 200)) if rng.random() < 0.8 else rng.randrange(len(content))
                content[where : where + rng.randint(0, 3)] = rng.choice((b"", b"\r\n", b"--B", b"\0", rng.randbytes(3)))
            boundary = rng.choice(("B", "B", "B", '"B"', "", "B" * 300, "\x7f", "B; charset=utf-7", "B; charset=x"))
            kind = f"multipart/{rng.choice(('form-data', 'mixed', ''))}; boundary={boundary}"
            statuses[self._one(bytes(content), {"Content-Type": kind})] += 1

        self._all(one, count)
        return statuses

    def headers(self, count: int) -> Statuses:
        """Sends wrong headers, methods and addresses."""
        rng = random.Random(4)
        statuses: Statuses = collections.Counter()
        names = (
            "Accept",
            "Content-Type",
            "Authorization",
            "Origin",
            "Host",
            "Accept-Encoding",
            "Range",
            "If-Match",
            "X",
        )
        values = (
            "",
            "*/*;q=-1",
            "image/png;q=1e999",
            "application/json;;;",
            "bearer",
            "Bearer ",
            "http://[",
            "[::1",
            "a" * 999,
        )

        def one(_: int) -> None:
            method = rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"))
            path = rng.choice(
                (ADDRESS, "/v1/models/%00/segment", "/v1/models/..%2f..%2fetc/segment", "/" + "a/" * 300, "//")
            )
            query = rng.choice(
                ("", "?scales=" + "1," * 99, "?tile=1e9", "?flip=%ff", "?format=mask&format=x", "?crf=a%0d%0a")
            )
            headers = {rng.choice(names): rng.choice((*values, "".join(chr(rng.randint(33, 255)) for _ in range(20))))}
            statuses[self._one(self.honest, headers, method, path + query)] += 1

        self._all(one, count)
        return statuses

    def garbage(self, count: int) -> Statuses:
        """Sends bytes that are not valid HTTP."""
        rng = random.Random(5)
        starts = (
            b"POST %b HTTP/1.1\r\nHost: localhost\r\n",
            b"GET / HTTP/9.9\r\n",
            b"\x16\x03\x01",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"",
        )
        middles = (
            b"Content-Length: -1\r\n\r\n",
            b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"Content-Length: 99999999999999999999\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: gzip\r\n\r\n",
            b"Expect: 200-maybe\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"\r\n",
        )

        def make() -> bytes:
            start = rng.choice(starts)
            start = start % ADDRESS.encode() if b"%b" in start else start
            return start + rng.choice(middles) + rng.randbytes(rng.randint(0, 300)) + b"\r\n\r\n"

        return self._raw([make() for _ in range(count)])

    def oversized(self, count: int) -> Statuses:
        """Sends headers of up to a megabyte."""
        rng = random.Random(6)
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        return self._raw([head + b"X: " + b"y" * rng.randint(40_000, 1_000_000) for _ in range(count)])

    def contradicting(self, count: int) -> Statuses:
        """Sends TIFFs with contradicting or repeated tags, endless pages, shared strips or large masks."""
        rng = random.Random(8)
        makers = (doubled_tiff, jpeg_in_tiff, endless_tiff, repeating_tiff, sharing_tiff, masked_tiff)
        return self._send([rng.choice(makers)(rng) for _ in range(count)])

    def boundaries(self, count: int) -> Statuses:
        """Sends forms of 30 MB that contain only boundaries; meanwhile, other requests must get responses."""
        rng = random.Random(9)
        lines = (b"--B\r\n", b"\r\n--", b"\r\n--B\r", b"--B--\r\n", b"\r\n--B\r\nX: y\r\n\r\n")
        statuses: Statuses = collections.Counter()

        def one(_: int) -> None:
            line = rng.choice(lines)
            content = line * (30_000_000 // len(line))
            statuses[self._one(content, {"Content-Type": "multipart/form-data; boundary=B"})] += 1

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(one, index) for index in range(count)]
            while not all(future.done() for future in done):
                self.alive_at_once()
            for future in done:
                future.result()
        return statuses

    def alive_at_once(self) -> None:
        """Asserts that a health check gets its response within two seconds, so the event loop is not blocked."""
        began = time.monotonic()
        assert self.server.ask("/healthz")[0] == 200
        assert time.monotonic() - began < 2, "the event loop was blocked"

    def large(self, count: int) -> Statuses:
        """Requests overlays of pictures of 24 megapixels, eight at the same time, and limits the added memory."""
        rng = np.random.default_rng(10)
        noise = np.kron(rng.integers(0, 255, (400, 600, 3), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
        content, statuses, most = encoded(noise, "JPEG"), collections.Counter(), 0.0

        def one(_: int) -> None:
            statuses[self._one(content, path=f"{ADDRESS}?format=overlay")] += 1

        before = self.resident
        with ThreadPoolExecutor(8) as pool:
            for part in (8, max(1, count - 8)):  # the first part makes the network allocate memory that it keeps
                done = [pool.submit(one, index) for index in range(part)]
                while not all(future.done() for future in done):
                    most = max(most, self.server.resident)
                    time.sleep(0.1)
                for future in done:
                    future.result()
                if part == 8:
                    self.resident = self.server.resident
        assert most - before < MOST_MEGABYTES, f"{most:.0f} MB at once"
        print(
            f"| | | {before:.0f} MB before, {most:.0f} MB at most | | {self.resident:.0f} MB after eight |", flush=True
        )
        return statuses

    def websockets(self, count: int) -> Statuses:
        """Requests a websocket at various addresses; the server must open none."""
        rng = random.Random(11)
        head = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        paths = ("/", "/v1/models", ADDRESS, "/metrics", "/ws")
        statuses = self._raw([head.format(rng.choice(paths)).encode() for _ in range(count)])
        assert 101 not in statuses, "a websocket was opened"
        return statuses

    def connections(self, count: int) -> Statuses:
        """Opens more connections than the server accepts; each must get a response or be closed."""
        statuses: Statuses = collections.Counter()
        with ThreadPoolExecutor(64) as pool:
            opened = list(pool.map(self._opened, range(count)))
        for connection in opened:
            if connection is None:
                statuses["closed"] += 1
                continue
            with connection:
                try:
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    received = connection.recv(65536)
                except OSError:
                    received = b""
                status = status_in(received)
                statuses["refused for now" if status == 503 else status] += 1
        time.sleep(1)
        return statuses

    def _opened(self, _: int) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", self.server.port), 60)
        except OSError:
            return None

    def leaving(self, count: int) -> Statuses:
        """Sends a part of a request and disconnects."""
        rng = random.Random(7)
        head = f"POST {ADDRESS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(self.honest)}\r\n\r\n".encode()
        whole = head + self.honest

        def one(_: int) -> None:
            with socket.create_connection(("127.0.0.1", self.server.port), 30) as connection:
                connection.sendall(whole[: rng.randint(1, len(whole))])
                if rng.random() < 0.5:  # closes with a reset instead of a normal end of the connection
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        self._all(one, count)
        return collections.Counter({"disconnected": count})

    def slow(self, count: int) -> Statuses:
        """Sends one byte per second on many connections; the server must close all of them within a minute.

        Meanwhile, valid requests must get responses.
        """
        connections = [socket.create_connection(("127.0.0.1", self.server.port), 90) for _ in range(count)]
        head = f"POST {ADDRESS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode()
        for index, connection in enumerate(connections):
            connection.sendall(head if index % 2 else head[:20])
        statuses: Statuses = collections.Counter()
        end = time.monotonic() + 60
        while connections and time.monotonic() < end:
            time.sleep(1)
            self.still_well()
            for connection in list(connections):
                try:
                    connection.sendall(b"a")
                    connection.settimeout(0.001)
                    received = connection.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    received = b""
                statuses[status_in(received)] += 1
                connection.close()
                connections.remove(connection)
        assert not connections, f"{len(connections)} slow clients are still connected"
        return statuses

    def _of_schema(self, count: int, mode: str) -> Statuses:
        import hypothesis
        import schemathesis
        from hypothesis import strategies

        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        schema: Any = schemathesis.openapi.from_url(f"http://127.0.0.1:{self.server.port}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        statuses: Statuses = collections.Counter()
        share = {operation.path: 1 for operation in operations} | {"/v1/models/{name}/segment": 20}
        if mode == "NEGATIVE":  # the other operations have no input that could be wrong
            operations = [operation for operation in operations if operation.path.endswith("segment")]
        total = sum(share[operation.path] for operation in operations)
        for operation in operations:
            examples = max(1, round(count * share[operation.path] / total))
            strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])

            @hypothesis.settings(
                max_examples=examples,
                deadline=None,
                database=None,
                suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
            )
            @hypothesis.seed(0)
            @hypothesis.given(case=strategy, named=strategies.booleans())
            def attack(case: Any, named: bool) -> None:
                if named and case.path_parameters:  # the server refuses other names before it checks anything else
                    case.path_parameters["name"] = "model"
                statuses[case.call(timeout=60).status_code] += 1

            attack()
        return statuses

    def _send(self, contents: list[bytes]) -> Statuses:
        """Sends each picture in a valid request."""
        statuses: Statuses = collections.Counter()

        def one(index: int) -> None:
            statuses[self._one(contents[index])] += 1

        self._all(one, len(contents))
        return statuses

    def _one(
        self, content: bytes, headers: dict[str, str] | None = None, method: str = "POST", path: str = ADDRESS
    ) -> int | str:
        """Sends one request as raw bytes, because an HTTP client would correct errors; returns the status."""
        own = {"Host": "localhost", "Content-Length": str(len(content)), "Connection": "close"} | (headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
        request = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + content
        return self._talk(request)

    def _raw(self, contents: list[bytes]) -> Statuses:
        statuses: Statuses = collections.Counter()

        def one(index: int) -> None:
            statuses[self._talk(contents[index], shut=True)] += 1

        self._all(one, len(contents))
        return statuses

    def _talk(self, request: bytes, shut: bool = False) -> int | str:
        with socket.create_connection(("127.0.0.1", self.server.port), 60) as connection:
            try:
                connection.sendall(request)
                if shut:
                    connection.shutdown(socket.SHUT_WR)
                received = connection.recv(65536)
            except TimeoutError:
                raise AssertionError(f"no response within a minute to {request[:300]!r}") from None
            except OSError:
                return "closed"
        return status_in(received)

    def _all(self, one: Callable[[int], None], count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(one, range(count)):
                pass


def status_in(received: bytes) -> int | str:
    """Returns the status of the response in the received bytes, or "closed"."""
    return int(received[9:12]) if received.startswith(b"HTTP/1.1 ") else "closed"


def encoded(image: np.ndarray, kind: str, **options: Any) -> bytes:
    """Returns the bytes of a picture's file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def specimens() -> list[bytes]:
    """Returns small pictures in all formats that the server accepts."""
    image = np.kron(np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8), np.ones((5, 5, 1), np.uint8))
    grey, deep = image[..., 0], image[..., 0].astype(np.uint16) * 257
    exif = Image.Exif()
    exif[274] = 6
    return [
        encoded(image, "PNG"),
        encoded(grey, "PNG"),
        encoded(deep, "PNG"),
        encoded(image, "JPEG"),
        encoded(image, "JPEG", progressive=True, exif=exif),
        encoded(image, "WEBP"),
        encoded(image, "WEBP", lossless=True, exif=exif),
        encoded(image, "TIFF"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(deep, "TIFF"),
        encoded(image, "BMP"),
        encoded(grey, "GIF"),
    ]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(rng: random.Random, extra: bytes = b"") -> bytes:
    """Returns a PNG of about 10 kB whose header states sides of up to 2³¹ − 1 pixels."""
    side = rng.choice((5_000, 100_000, 2**31 - 1))
    header = struct.pack(
        ">IIBBBBB", side, side, rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), 0, 0, rng.choice((0, 1))
    )
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", ZEROS) + png_chunk(b"IEND", b"")
    )


ZEROS = zlib.compress(bytes(10_000_000), 9)


def text_bomb(rng: random.Random) -> bytes:
    """Returns a small PNG with comments that unpack to ten megabytes each."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    comment = png_chunk(rng.choice((b"zTXt", b"iCCP")), b"x\0\0" + ZEROS)
    return b"\x89PNG\r\n\x1a\n" + header + comment * rng.randint(1, 9) + png_chunk(b"IEND", b"")


def webp_bomb(rng: random.Random) -> bytes:
    """Returns a WebP whose header states up to 2⁴⁸ pixels."""
    side = rng.choice((5_000, 16_383, 2**24 - 1)).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + bytes([rng.randrange(256), 0, 0, 0]) + side + side + rng.randbytes(60)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def gif_bomb(rng: random.Random) -> bytes:
    """Returns a GIF whose header states up to 65,535×65,535 pixels."""
    side = struct.pack("<HH", 65_535, rng.choice((9_000, 65_535)))
    frame = b"," + struct.pack("<HH", 0, 0) + side + b"\0\x08" + b"\xff" + rng.randbytes(255) + b"\0;"
    return rng.choice((b"GIF87a", b"GIF89a")) + side + b"\xf7\0\0" + bytes(768) + frame


def bmp_bomb(rng: random.Random) -> bytes:
    """Returns a BMP whose header states a height of at least 50,000 pixels."""
    side = rng.choice((50_000, 2**31 - 1, -(2**31)))
    info = struct.pack(
        "<IiiHHIIiiII", 40, abs(side) % 2**31, side, 1, rng.choice((1, 8, 24, 32)), rng.choice((0, 1, 2)), 0, 0, 0, 0, 0
    )
    return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + info + rng.randbytes(500)


def tiff_bomb(rng: random.Random) -> bytes:
    """Returns a TIFF whose header states sides of 30,000 pixels or more."""
    side = rng.choice((30_000, 2**31, 2**32 - 1))
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, rng.choice((1, 5, 7, 8, 32773))), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, rng.choice((1, side))), (279, 4, rng.choice((100, 2**32 - 1)))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rng.randbytes(300)


def doubled_tiff(rng: random.Random) -> bytes:
    """Returns a TIFF of 8×8 pixels in which the size or another tag occurs twice, with different values."""
    side = rng.choice((30_000, 2**31, 2**32 - 1))
    tags = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, 8), (279, 4, 64)]
    for code in rng.sample((256, 257, 277, 278, 279), rng.randint(1, 3)):
        tags.insert(rng.randint(0, len(tags)), (code, 4, side))
    return _tiff(tags, rng.randbytes(300))


def jpeg_in_tiff(rng: random.Random) -> bytes:
    """Returns a TIFF of 16×16 pixels with a JPEG whose header states up to 65,535×65,535 pixels."""
    jpeg = bytearray(encoded(np.zeros((16, 16, 3), np.uint8), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", rng.choice((16, 40_000, 65_535)), rng.choice((17, 40_000, 65_535)))
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 7), (262, 3, 6), (273, 4, 200), (277, 3, 3)]
    tags += [(278, 4, 16), (279, 4, len(jpeg))]
    content = _tiff(tags, b"")
    return content + bytes(200 - len(content)) + bytes(jpeg)


def endless_tiff(rng: random.Random) -> bytes:
    """Returns a TIFF whose last page refers to the first one, or whose tags claim millions of values."""
    if rng.random() < 0.5:
        pages = rng.choice((2, 300, 20_000))
        links = [struct.pack("<HI", 0, 8 + 6 * (index + 1) % (6 * pages)) for index in range(pages)]
        return b"II*\0" + struct.pack("<I", 8) + b"".join(links)
    count = rng.choice((2**20 + 1, 2**31, 2**32 - 1))
    entries = struct.pack("<HHII", 256, 4, 1, 8) + struct.pack("<HHII", 273, rng.choice((4, 16)), count, 8)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(rng.choice((10, 900_000)))


def repeating_tiff(rng: random.Random) -> bytes:
    """Returns a TIFF of 8×8 pixels with up to 200 tags that all refer to the same megabyte."""
    code, kind = rng.choice(((270, 2), (305, 2), (50_839, 1)))
    repeats, size = rng.choice((2, 200)), 2**20
    entries = [_entry(256, 4, 1, 8), _entry(257, 4, 1, 8), _entry(258, 3, 1, 8), _entry(259, 3, 1, 1)]
    entries += [_entry(262, 3, 1, 1), _entry(273, 4, 1, 8), _entry(277, 3, 1, 1), _entry(278, 4, 1, 8)]
    entries += [_entry(279, 4, 1, 64), *[_entry(code, kind, size, 8)] * repeats]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + b"a" * size


def sharing_tiff(rng: random.Random) -> bytes:
    """Returns a TIFF with up to 2000 strips that are all the same megabyte: deflate data or JPEG fill bytes."""
    count, start = rng.choice((20, 2_000)), 8 + 2 + 9 * 12 + 4
    if rng.random() < 0.5:
        rows, compression, blob = 1, 8, zlib.compress(bytes(8)) + bytes(2**20)
    else:
        jpeg = encoded(np.zeros((8, 8), np.uint8), "JPEG")
        rows, compression, blob = 8, 7, jpeg[:2] + b"\xff" * 2**20 + jpeg[2:]
    lists = struct.pack(f"<{2 * count}I", *[start + 8 * count] * count, *[len(blob)] * count)
    entries = [_entry(256, 4, 1, 8), _entry(257, 4, 1, rows * count), _entry(258, 3, 1, 8)]
    entries += [_entry(259, 3, 1, compression), _entry(262, 3, 1, 1), _entry(273, 4, count, start)]
    entries += [_entry(277, 3, 1, 1), _entry(278, 4, 1, rows), _entry(279, 4, count, start + 4 * count)]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + lists + blob


def masked_tiff(rng: random.Random) -> bytes:
    """Returns a TIFF of 8×8 pixels with a mask that is one tile of up to 225 megapixels."""
    side = rng.choice((9_008, 15_008))
    first = [_entry(256, 4, 1, 8), _entry(257, 4, 1, 8), _entry(258, 3, 1, 8), _entry(259, 3, 1, 1)]
    first += [_entry(262, 3, 1, 1), _entry(273, 4, 1, 8), _entry(277, 3, 1, 1), _entry(278, 4, 1, 8)]
    first += [_entry(279, 4, 1, 64)]
    second = 8 + 2 + 12 * len(first) + 4
    data = second + 2 + 12 * 11 + 4
    mask = [_entry(254, 4, 1, 4), _entry(256, 4, 1, 8), _entry(257, 4, 1, 8), _entry(258, 3, 1, 8)]
    mask += [_entry(259, 3, 1, 8), _entry(262, 3, 1, 4), _entry(277, 3, 1, 1), _entry(322, 4, 1, side)]
    mask += [_entry(323, 4, 1, side), _entry(324, 4, 1, data), _entry(325, 4, 1, len(ZEROS))]
    return (
        b"II*\0" + struct.pack("<IH", 8, len(first)) + b"".join(first)
        + struct.pack("<IH", second, len(mask)) + b"".join(mask) + bytes(4) + ZEROS
    )  # fmt: skip


def _entry(code: int, kind: int, count: int, value: int) -> bytes:
    """Returns a tag of a little-endian TIFF; `value` is the value, or the offset of the values."""
    return struct.pack("<HHII", code, kind, count, value)


def _tiff(tags: list[tuple[int, int, int]], rest: bytes) -> bytes:
    """Returns a little-endian TIFF of one page, in which each tag has one value."""
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rest


if __name__ == "__main__":
    main()
