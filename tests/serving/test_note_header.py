"""Notes in headers: any text passes a real server and a real client, as one line."""

import http.client
import threading

import pytest

from atrous.serving.note_header import MOST_CHARACTERS, note_header, note_in

uvicorn = pytest.importorskip("uvicorn")
NOTES = {
    "one line.": "one line.",
    "two\nlines\r\nX-Other: 1\t\u2028end": "two lines X-Other: 1 end",
    "Gefäß 道 – 50 % of 2×3, a%20b": "Gefäß 道 – 50 % of 2×3, a%20b",
    "a\x00b\x7f": "a\x00b\x7f",
    "half \udce9 pair": "half ? pair",
    "道" * 5000: "道" * MOST_CHARACTERS + " …",
    " \n": "",
}


@pytest.fixture(scope="module")
def port():
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    notes = list(NOTES)

    async def answer(request):
        return Response(b"", headers=note_header(notes[int(request.path_params["number"])]))

    app = Starlette(routes=[Route("/{number}", answer)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", http="h11"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("number", range(len(NOTES)))
def test_any_note_passes_a_server_and_a_client(port, number):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/{number}")
    answer = connection.getresponse()
    assert (answer.status, note_in(answer.headers)) == (200, list(NOTES.values())[number])
    assert "X-Other" not in answer.headers and str(answer.headers).isascii()
    connection.close()
