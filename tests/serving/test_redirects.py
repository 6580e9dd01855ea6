"""The client against redirects, proxies and servers of other programs, each a real one on loopback."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from atrous.errors import AtrousError
from atrous.serving.client import Client

MODELS = json.dumps({"models": [{"name": "x"}]}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's function says, and keeps what was asked."""

    protocol_version = "HTTP/1.1"
    server: Stranger

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, content, self.headers.get("Authorization")))
        status, headers, body = self.server.says(self.path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 (the library's names)

    def log_message(self, *_: object) -> None:
        pass


class Stranger(http.server.ThreadingHTTPServer):
    """A server on loopback."""

    daemon_threads = True

    def __init__(self, says: Callable[[str], tuple[int, dict[str, str], bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.says, self.asked = says, []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def serving() -> Iterator[Callable[..., Stranger]]:
    servers: list[Stranger] = []

    def make(says: Callable[[str], tuple[int, dict[str, str], bytes]]) -> Stranger:
        servers.append(Stranger(says))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def redirecting(to: str, status: int) -> Callable[[str], tuple[int, dict[str, str], bytes]]:
    return lambda path: (status, {"Location": to + path}, b"")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_followed_with_the_same_picture(server, serving, segmenter, streets, status):
    first = serving(redirecting(server.address, status))
    prediction = Client(first.address, patience=0).segment(streets[0], flip=True)
    assert np.array_equal(prediction.mask, segmenter.looking(flip=True)(streets[0]).mask)
    assert {method for method, *_ in first.asked} == {"GET", "POST"}


def test_a_redirect_may_name_a_path_alone(serving):
    def says(path: str) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, MODELS) if path.startswith("/below/") else (308, {"Location": f"/below{path}"}, b"")

    only = serving(says)
    assert Client(only.address, key="secret", patience=0).models() == [{"name": "x"}]
    assert [key for *_, key in only.asked] == ["Bearer secret"] * 2


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_key_is_sent_to_no_other_server(serving, name):
    second = serving(lambda path: (200, {}, MODELS))
    first = serving(redirecting(f"http://{name}:{second.server_address[1]}", 307))
    client = Client(first.address, key="secret", patience=0)
    assert client.models() == [{"name": "x"}]
    assert [first.asked[0][3], second.asked[0][3]] == ["Bearer secret", None]
    second.says = lambda path: (401, {}, b'{"detail": "this server needs a key"}')
    with pytest.raises(AtrousError, match=r"only to the server whose address you gave. Give http://"):
        client.models()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((302, {"Location": "file:///etc/passwd"}, b""), r"redirects to 'file:///etc/passwd', which is not followed"),
        ((301, {"Location": "ftp://127.0.0.1/x"}, b""), "not followed: only http and https"),
        ((301, {"Location": "http://127.0.0.1:99999/"}, b""), "not followed"),
        ((307, {"Location": "http://user:word@127.0.0.1/"}, b""), "not followed"),
        ((308, {}, b""), "without a Location header"),
        ((303, {"Location": "/sign-in"}, b""), "to another page"),
        ((302, {"Location": "/again"}, b""), "redirects again after 5 redirects"),
        (
            (200, {"Content-Type": "text/html"}, b"<html><title>Sign in</title>"),
            "text/html, not JSON, titled 'Sign in'",
        ),
        ((200, {"Content-Type": "application/json"}, b"[1]"), "without a list of models"),
        ((200, {}, b'{"models": [1]}'), "without a list of models"),
        ((200, {}, b"[" * 100_000), "not JSON"),
        ((204, {}, b""), "not a response to this request"),
        ((403, {"Content-Type": "text/html"}, b"<h1>no</h1>"), r"a page of a proxy or another program \(HTTP 403\)"),
    ],
)
def test_answers_of_others_are_said(serving, answer, said):
    other = serving(lambda path: answer)
    with pytest.raises(AtrousError, match=said):
        Client(other.address, patience=5).models()
    assert len(other.asked) <= 6


@pytest.mark.parametrize("status", [502, 504])
def test_a_proxy_that_does_not_reach_the_server_is_asked_again(serving, status):
    answers = [(status, {"Content-Type": "text/html"}, b"<title>Bad Gateway</title>"), (200, {}, MODELS)]
    proxy = serving(lambda path: answers.pop(0))
    assert Client(proxy.address, patience=30).models() == [{"name": "x"}]
    proxy.says = lambda path: (status, {}, b"<title>Bad Gateway</title>")
    with pytest.raises(AtrousError, match=rf"titled 'Bad Gateway' \(HTTP {status}\)"):
        Client(proxy.address, patience=0).models()


def mask_file(shape: tuple[int, ...], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "not a mask"),
        (b"", "not a mask"),
        (mask_file((40, 50))[:-30], "not a mask"),
        (mask_file((40, 50), "TIFF"), "not a mask"),
        (mask_file((50, 40)), "not a mask of the picture's size"),
        (mask_file((40, 50, 3)), "not a mask of the picture's size"),
        (mask_file((40, 50)), "without the model's version"),
    ],
)
def test_a_mask_that_is_none_is_said(serving, content, said):
    other = serving(lambda path: (200, {"Content-Type": "image/png"}, content))
    with pytest.raises(AtrousError, match=said):
        Client(other.address, patience=0).segment(np.zeros((40, 50, 3), np.uint8), model="x")


@pytest.mark.parametrize("record", [b"[]", b"{}", b'{"info": [], "version": "1"}', b'{"info": {}, "version": "1"}'])
def test_a_record_that_is_none_is_said(serving, record):
    def says(path: str) -> tuple[int, dict[str, str], bytes]:
        return (200, {"X-Model-Version": "1"}, mask_file((40, 50)) if "segment" in path else record)

    with pytest.raises(AtrousError, match="record"):
        Client(serving(says).address, patience=0).segment(np.zeros((40, 50, 3), np.uint8), model="x")


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:99999",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:eighty",
        "http://[::1",
        "http://",
        "127.0.0.1:8000",
        "ftp://127.0.0.1",
        "http://a b/",
        "http://a..b/",
        f"http://{'x' * 70}.org",
        "http://user:word@127.0.0.1",
        "http://127.0.0.1/?flip=true",
        "http://127.0.0.1/#top",
        "",
        None,
        b"http://127.0.0.1",
        8000,
    ],
)
def test_what_is_no_address_is_said_at_once(address):
    with pytest.raises(AtrousError, match="address"):
        Client(address)


@pytest.mark.parametrize("key", ["secret\n", "secret\r\nX-Other: 1", "schlüssel", "two words", "\0", b"secret", 7])
def test_a_key_that_no_header_holds_is_said_at_once(key):
    with pytest.raises(AtrousError, match=r"key must consist of|key must be text"):
        Client("http://127.0.0.1", key=key)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_times_are_positive_numbers(value):
    with pytest.raises(AtrousError, match=r"timeout (is a number of seconds|must be a number)"):
        Client("http://127.0.0.1", timeout=value)
    if value in (-1, "1", None) or value != value:
        with pytest.raises(AtrousError, match=r"patience (is a number of seconds|must be a number)"):
            Client("http://127.0.0.1", patience=value)


def test_a_path_of_the_address_is_kept_and_quoted(serving):
    proxy = serving(lambda path: (200, {}, MODELS))
    assert Client(f"{proxy.address}/dépôt of models/", patience=0).models() == [{"name": "x"}]
    assert proxy.asked[0][1] == "/d%C3%A9p%C3%B4t%20of%20models/v1/models"
