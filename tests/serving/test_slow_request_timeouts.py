"""Answers that nobody takes, slowly or not at all, on each kind of connection."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from atrous.serving import slow_request_timeouts  # noqa: E402

END = b"the end"
ANSWER = bytes(range(256)) * 2**15 + END  # 8 MiB, which no system takes ahead of a reader with a small buffer
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def listening(monkeypatch) -> Iterator[tuple[uvicorn.Server, int]]:
    """A server of one large answer, which waits two seconds for each of its parts."""
    monkeypatch.setattr(slow_request_timeouts, "TAKE_SECONDS", 2.0)

    async def app(scope, receive, send):
        length = str(len(ANSWER)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": ANSWER})

    with socket.create_server(("127.0.0.1", 0)) as door:
        config = uvicorn.Config(app, http=slow_request_timeouts.TimedH11, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        yield server, door.getsockname()[1]
        server.should_exit = server.force_exit = True
        thread.join(10)


def connect(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    return connection


def wait_until_closed(server) -> None:
    end = time.monotonic() + 120  # far beyond what it takes: a connection that is held must not hang the tests
    while server.server_state.connections:
        assert time.monotonic() < end, "the connection is still held"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "request_", [GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b"GET / HTTP/1.0\r\n\r\n", GET * 5]
)
def test_an_answer_that_is_not_read_frees_its_connection(listening, request_):
    server, port = listening
    with connect(port) as connection:
        connection.sendall(request_)
        assert connection.recv(9) == b"HTTP/1.1 "
        wait_until_closed(server)


@pytest.mark.slow
def test_who_reads_slowly_gets_everything(listening):
    _, port = listening
    began = time.monotonic()
    with connect(port) as connection:
        connection.sendall(GET)
        received = bytearray()
        while not received.endswith(END):
            part = connection.recv(2**14)
            assert part, f"cut after {len(received)} bytes"
            received += part
            time.sleep(0.006)
    assert received.partition(b"\r\n\r\n")[2] == ANSWER
    assert time.monotonic() - began > 2  # longer than may pass without a byte


@pytest.mark.slow
def test_a_few_bytes_now_and_then_are_not_enough(listening, monkeypatch):
    monkeypatch.setattr(slow_request_timeouts, "ALL_SECONDS", 4.0)
    server, port = listening
    with connect(port) as connection:
        connection.sendall(GET)
        assert connection.recv(9) == b"HTTP/1.1 "  # it is there
        ended, taken = threading.Event(), [0]

        def trickle() -> None:
            with suppress(ConnectionError):  # that it is cut is what is asked for
                while not ended.wait(0.05) and (part := connection.recv(2**14)):
                    taken[0] += len(part)

        thread = threading.Thread(target=trickle)
        thread.start()
        wait_until_closed(server)
        ended.set()
        thread.join()
    assert 0 < taken[0] < len(ANSWER)  # it was cut while somebody still read
