"""The client against real servers: also while they are killed, and while their models change."""

import http.server
import json
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.inference.value_range import PictureWarning
from atrous.serving.client import Client

from .conftest import ZOO


def test_it_answers_as_the_segmenter_does(server, segmenter, streets, tmp_path):
    client = atrous.Client(server.address)
    expected = segmenter(streets[0])
    Image.fromarray(streets[0]).save(tmp_path / "x.png")
    for picture in (tmp_path / "x.png", str(tmp_path / "x.png"), streets[0], Image.fromarray(streets[0])):
        prediction = client.segment(picture)
        assert np.array_equal(prediction.mask, expected.mask)
        assert repr(prediction) == repr(expected)
        assert np.array_equal(np.asarray(prediction.overlay()), np.asarray(expected.overlay()))
        assert np.array_equal(prediction.raw_mask(), expected.raw_mask())
    flipped = client.segment(streets[0], flip=True, scales=(0.75, 1.0))
    assert np.array_equal(flipped.mask, segmenter.looking(flip=True, scales=(0.75, 1.0))(streets[0]).mask)


def test_a_range_of_values_is_the_segmenters_and_its_lack_is_said(server, segmenter, streets):
    client, deep = atrous.Client(server.address), np.rint(streets[0] / 255 * 4095).astype(np.uint16)
    with pytest.warns(PictureWarning, match="give range=0,4095 in the query"):
        assert np.array_equal(client.segment(deep).mask, segmenter.looking(range=(0, 65535))(deep).mask)
    expected = segmenter(streets[0]).mask
    assert np.array_equal(client.segment(deep, range=(0, 4095)).mask, expected)
    with pytest.raises(AtrousError, match="lower first"):
        client.segment(deep, range=(9, 1))


@pytest.mark.parametrize("shape", [(40, 50, 1), (40, 50, 4), (40, 50)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_arrive_as_they_are(server, segmenter, shape, dtype):
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    assert np.array_equal(Client(server.address).segment(picture).mask, segmenter(picture).mask)


def test_mistakes_are_the_servers_own_words(server, streets):
    client = Client(server.address)
    with pytest.raises(AtrousError, match=r"Did you mean 'camvid'\?.*HTTP 404"):
        client.segment(streets[0], model="camvit")
    with pytest.raises(AtrousError, match=r"scales must be 0\.25 to 2"):
        client.segment(streets[0], scales=(5,))
    with pytest.raises(AtrousError, match="float32"):
        client.segment(streets[0].astype(np.float32))
    with pytest.raises(AtrousError, match="a server's address must look like"):
        Client("127.0.0.1:8000")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Client(f"http://127.0.0.1:{free.getsockname()[1]}", patience=0.3)
        with pytest.raises(AtrousError, match="cannot be reached"):
            nobody.models()


def answer_once(door: socket.socket, head: bytes, body: bytes) -> threading.Thread:
    """Says the same to whoever comes first, before the whole request is read, and hangs up."""

    def answer() -> None:
        connection, _ = door.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body))

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_a_refusal_before_the_picture_has_arrived_is_read():
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), dtype=np.uint8)
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = answer_once(door, b"413 Content Too Large\r\nConnection: close", b'{"detail": "too many bytes"}')
        with pytest.raises(AtrousError, match=r"too many bytes \(HTTP 413\)"):
            Client(f"http://127.0.0.1:{door.getsockname()[1]}", patience=5).segment(noise, model="any")
        thread.join()


def test_a_connection_that_was_closed_meanwhile_costs_no_patience():
    with socket.create_server(("127.0.0.1", 0)) as door:
        client = Client(f"http://127.0.0.1:{door.getsockname()[1]}", patience=0)
        for _ in range(3):
            thread = answer_once(door, b"200 OK", b'{"models": []}')  # as if it were to stay open
            assert client.models() == []
            thread.join()


@pytest.mark.parametrize("when", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "1"])
def test_when_to_come_again_may_be_said_in_any_way(when):
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = answer_once(door, b"503 Busy\r\nConnection: close\r\nRetry-After: " + when.encode(), b"{}")
        client = Client(f"http://127.0.0.1:{door.getsockname()[1]}", patience=10)
        asking = threading.Thread(target=client.models)
        asking.start()
        thread.join()
        thread = answer_once(door, b"200 OK\r\nConnection: close", b'{"models": []}')
        asking.join(120)
        thread.join(120)
        assert not asking.is_alive()


@pytest.mark.slow
def test_several_models_have_to_be_told_apart(start, other_model, streets):
    server = start(ZOO, f"other={other_model}")
    client = Client(server.address)
    assert [model["name"] for model in client.models()] == ["camvid", "other"]
    with pytest.raises(AtrousError, match="the server has 2 models: give model, one of camvid, other"):
        client.segment(streets[0])
    assert np.array_equal(client.segment(streets[0], model="other").mask, Segmenter(other_model)(streets[0]).mask)
    server.stop()


@pytest.mark.slow
def test_no_answer_is_lost_when_the_server_is_killed_and_started_again(start, segmenter, streets):
    server = start(ZOO)
    client = Client(server.address, patience=60)
    expected = [segmenter(picture).mask for picture in streets]
    ended = threading.Event()
    answered = [0] * 6

    def ask(worker: int) -> None:
        while not ended.is_set():
            index = (worker + answered[worker]) % len(streets)
            assert np.array_equal(client.segment(streets[index]).mask, expected[index])
            answered[worker] += 1

    def each_has_a_further_answer(before: list[int]) -> bool:
        return all(now > then for now, then in zip(answered, before, strict=True))

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask, worker) for worker in range(6)]
        try:
            wait_until(lambda: each_has_a_further_answer([0] * 6))
            server.kill()
            at_restart = list(answered)
            server = start(ZOO, port=server.port)
            wait_until(lambda: each_has_a_further_answer(at_restart))
        finally:
            ended.set()
        for one in asking:
            one.result(90)
    assert all(now > then > 0 for now, then in zip(answered, at_restart, strict=True))
    server.stop()


@pytest.mark.slow
def test_a_changed_file_replaces_the_model_while_it_answers(start, segmenter, other_model, streets, tmp_path):
    path = tmp_path / "streets.safetensors"
    shutil.copy(ZOO, path)
    server = start(path)
    client = Client(server.address)
    before = [segmenter(picture).mask for picture in streets]
    after = [Segmenter(other_model)(picture).mask for picture in streets]
    assert not any(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    seen: list[bool] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            index = len(seen) % len(streets)
            mask = client.segment(streets[index]).mask
            is_new = np.array_equal(mask, after[index])
            assert is_new or np.array_equal(mask, before[index])  # of one version, whole
            seen.append(is_new)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            time.sleep(0.5)
            path.write_bytes(other_model.read_bytes()[:2000])  # half a file, as while it is copied
            wait_for_line(server, "the changed file cannot be used")
            assert client.models()[0]["not_taken"]
            assert not any(seen)
            shutil.copy(other_model, tmp_path / "new")
            (tmp_path / "new").replace(path)
            wait_for_line(server, "replaced by the new version")
            time.sleep(0.5)
        finally:
            ended.set()
        for one in asking:
            one.result(60)
    assert seen[-1] and not seen[0]
    assert client.models()[0]["not_taken"] is None
    path.rename(tmp_path / "aside")
    path.write_text("no model")
    wait_until(lambda: client.models()[0]["not_taken"])
    (tmp_path / "aside").replace(path)  # the very file that is served is back
    wait_until(lambda: client.models()[0]["not_taken"] is None)
    server.stop()


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def wait_for_line(server, words: str) -> None:
    wait_until(lambda: any(words in line for line in server.lines))


@pytest.mark.needs("fork")
def test_a_forked_child_has_a_connection_of_its_own():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = json.dumps({"models": [{"port": self.client_address[1]}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_address[1]}", patience=20)
        before = client.models()[0]["port"]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                ports = [client.models()[0]["port"] for _ in range(2)]
                os.write(writer, json.dumps(ports).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:  # ends when the child does
            first, second = json.loads(answer.read())
        os.waitpid(child, 0)
        assert first == second != before
        assert client.models()[0]["port"] == before
        server.shutdown()


def test_transparent_and_turned_pil_images_are_those_of_the_segmenter(server, segmenter, streets, tmp_path):
    client = Client(server.address)
    alpha = np.full(streets[0].shape[:2], 255, np.uint8)
    alpha[:40] = 0
    grey = Image.fromarray(streets[0]).convert("L")
    keyed = grey.copy()
    keyed.info["transparency"] = int(np.asarray(grey)[50, 50])
    clear = Image.merge("LA", (grey, Image.fromarray(alpha)))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(streets[0]).save(tmp_path / "turned.jpg", exif=exif)
    colours = Image.fromarray(np.dstack([streets[0], alpha]))
    big = Image.frombytes("I;16B", grey.size, np.asarray(grey).astype(">u2").tobytes())
    turned = Image.open(tmp_path / "turned.jpg")
    for image in (
        clear,
        clear.convert("La"),
        keyed,
        colours,
        colours.convert("RGBa"),
        grey.convert("CMYK"),
        big,
        turned,
    ):
        expected = segmenter(image).mask
        assert np.array_equal(client.segment(image).mask, expected)
    assert (segmenter(clear).mask[:40] == 255).all()
