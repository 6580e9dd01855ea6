"""A real server on loopback: what it answers, and what it refuses."""

import base64
import gzip
import io
import json
import re
import signal
import socket
import struct
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.errors import AtrousError
from atrous.inference.whole_or_tiled import AnySize
from atrous.input_spec import Input
from atrous.models.info import Preprocessing
from atrous.serving.client import Client

from .conftest import ZOO, png

SEGMENT = "/v1/models/camvid/segment"


def mask_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def problem_of(answer: tuple[int, dict[str, str], bytes], status: int) -> str:
    """The sentence of an answer that is a problem of this status."""
    assert answer[0] == status, answer
    assert answer[1]["content-type"] == "application/problem+json"
    record = json.loads(answer[2])
    assert record["status"] == status
    assert record["title"] and record["type"] == "about:blank"
    return record["detail"]


def test_the_mask_is_the_segmenters(server, segmenter, streets):
    for picture in streets[:4]:
        status, headers, content = server.ask(SEGMENT, png(picture))
        assert (status, headers["content-type"]) == (200, "image/png")
        assert np.array_equal(mask_of(content), segmenter(picture).mask)
    assert re.fullmatch(
        r"line;dur=[\d.]+, decode;dur=[\d.]+, network;dur=[\d.]+, write;dur=[\d.]+", headers["server-timing"]
    )


def test_a_form_is_as_good_as_the_bytes(server, streets):
    content = png(streets[0])
    lines = (
        b'--X\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n' + content + b"\r\n--X--\r\n"
    )
    status, _, answer = server.ask(SEGMENT, lines, Content_Type="multipart/form-data; boundary=X")
    assert status == 200
    assert answer == server.ask(SEGMENT, content)[2]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("flip=true", {"flip": True}),
        ("scales=0.75,1,1.25", {"scales": (0.75, 1, 1.25)}),
        ("crf=deeplabv2", {"crf": "deeplabv2"}),
        ("scales=0.5,1&flip=1&crf=pydensecrf", {"scales": (0.5, 1), "flip": True, "crf": "pydensecrf"}),
    ],
)
def test_options_are_the_segmenters(server, segmenter, streets, words, options):
    status, _, content = server.ask(f"{SEGMENT}?{words}", png(streets[1]))
    assert status == 200, content
    expected = segmenter.looking(**options)(streets[1]).mask
    assert (mask_of(content) == expected).mean() > 0.999
    assert not np.array_equal(expected, segmenter(streets[1]).mask)  # the option does something


@pytest.mark.slow
def test_tiles(server, segmenter):
    picture = np.tile(np.arange(640, dtype=np.uint8)[:, None, None] // 3, (1, 640, 3))
    expected = AnySize(segmenter.whole, tile=512, overlap=128)(picture)
    assert np.array_equal(mask_of(server.ask(f"{SEGMENT}?tile=512&overlap=128", png(picture))[2]), expected)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("application/geo+json", "application/geo+json"),
        ("image/jpeg", "image/jpeg"),
    ],
)
def test_accept_chooses_the_form(server, streets, accept, kind):
    status, headers, _ = server.ask(SEGMENT, png(streets[0]), Accept=accept)
    assert (status, headers["content-type"]) == (200, kind)
    assert headers["vary"] == "Accept"
    assert server.ask(f"{SEGMENT}?format=mask", png(streets[0]), Accept=accept)[1]["content-type"] == "image/png"


def test_pictures_of_all_kinds(server, segmenter, streets, tmp_path):
    picture = Image.fromarray(streets[0])
    exif = Image.Exif()
    exif[274] = 6
    for name, one, options in (
        ("a.jpg", picture, {"exif": exif}),
        ("a.webp", picture, {"lossless": True}),
        ("a.tif", picture.convert("L"), {}),
        ("a.bmp", picture, {}),
        ("a.gif", picture.convert("P"), {}),
        ("deep.png", Image.fromarray(streets[0][..., 0].astype(np.uint16) * 257), {}),
        ("alpha.png", picture.convert("RGBA"), {}),
    ):
        one.save(tmp_path / name, **options)
        answer = server.ask(SEGMENT, (tmp_path / name).read_bytes())
        assert answer[0] == 200, (name, answer)
        assert np.array_equal(mask_of(answer[2]), segmenter(tmp_path / name).mask), name


def test_the_models(server):
    (model,) = json.loads(server.ask("/v1/models")[2])["models"]
    info = atrous.load(ZOO).info
    assert model["name"] == "camvid"
    assert [one["name"] for one in model["classes"]] == list(info.classes)
    record = json.loads(server.ask("/v1/models/camvid")[2])
    assert record["info"]["preprocessing"]["inputs"][0]["mean"] == list(info.preprocessing.mean)
    assert record["info"]["provenance"] == {}  # it would name the folders of who trained it


def test_state(server, streets):
    assert json.loads(server.ask("/healthz")[2]) == {"status": "alive"}
    assert json.loads(server.ask("/readyz")[2]) == {"status": "ready"}

    def answered() -> float:
        text = server.ask("/metrics")[2].decode()
        return float(
            re.search(r'atrous_requests_total\{route="/v1/models/\{name\}/segment",status="200"\} (\S+)', text)[1]
        )

    before = answered() if server.ask(SEGMENT, png(streets[0]))[0] == 200 else 0
    server.ask(SEGMENT, png(streets[0]))
    assert answered() == before + 1


def test_the_list_of_addresses(server):
    schema = json.loads(server.ask("/openapi.json")[2])
    assert {"/v1/models", "/v1/models/{name}/segment", "/healthz", "/readyz", "/metrics"} <= schema["paths"].keys()
    page = server.ask("/docs")[2].decode()
    assert "POST /v1/models/{name}/segment" in page
    assert not re.search(r'(?:src|href)="https?:', page)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/models/camvit/segment", 404, "unknown model 'camvit'. Did you mean 'camvid'?"),
        ("/nothing", 404, "/docs lists all addresses"),
        (f"{SEGMENT}?format=photo", 422, "format: Input should be 'mask', 'indices', 'overlay'"),
        (f"{SEGMENT}?scales=3", 422, "scales must be 0.25 to 2, got 3"),
        (f"{SEGMENT}?scales=1,x", 422, "scales: String should match pattern"),
        (f"{SEGMENT}?tile=7", 422, "tile: Input should be greater than or equal to 32, got '7'"),
        (f"{SEGMENT}?tile=256&overlap=200", 422, "an overlap of 200 px is more than half of a tile of 256 px"),
        (f"{SEGMENT}?crf=model", 422, "stores no CRF settings"),
        (f"{SEGMENT}?flip=perhaps", 422, "flip: Input should be a valid boolean"),
    ],
)
def test_mistakes_are_named(server, streets, path, status, words):
    assert words in problem_of(server.ask(path, png(streets[0])), status)


def test_what_is_no_picture(server, streets):
    assert "empty" in problem_of(server.ask(SEGMENT, b""), 422)
    assert "not a picture" in problem_of(server.ask(SEGMENT, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"), 422)
    assert "damaged or cut short" in problem_of(server.ask(SEGMENT, png(streets[0])[:-4000]), 422)
    assert "contains no file" in problem_of(
        server.ask(SEGMENT, b"--X--\r\n", Content_Type="multipart/form-data; boundary=X"), 400
    )
    assert "boundary" in problem_of(server.ask(SEGMENT, b"--X--\r\n", Content_Type="multipart/form-data"), 400)
    assert "Accept allows none of" in problem_of(server.ask(SEGMENT, png(streets[0]), Accept="text/html"), 406)
    assert "GET is not allowed at" in problem_of(server.ask(SEGMENT), 405)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        + chunk(b"IEND", b"")
    )


def test_large_pictures_are_refused_before_they_are_decoded(server, streets):
    before = resident(server)
    assert "10000.0 megapixels, and at most 4 are allowed" in problem_of(
        server.ask(SEGMENT, bomb(100_000, 100_000)), 413
    )
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" + b"\xff\xff\xff" + b"\0" * 16
    assert "megapixels" in problem_of(server.ask(SEGMENT, webp), 413)
    assert resident(server) < before + 50e6
    # At three scales, mirrored, the network looks at a picture 9.9 times.
    picture = np.zeros((900, 900, 3), np.uint8)
    assert "are allowed" in problem_of(server.ask(f"{SEGMENT}?scales=1,1.25,1.5&flip=1", png(picture)), 413)


def test_large_files_are_refused_by_what_they_say_and_by_what_they_are(server):
    assert "2 MiB" in problem_of(server.ask(SEGMENT, b"x" * (3 * 2**20)), 413)
    request = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"
    assert b" 413 " in server.raw(request % SEGMENT.encode())
    endless = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % SEGMENT.encode()
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(endless)
        for _ in range(40):
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert b" 413 " in connection.recv(65536)


def test_lines_that_are_no_http(server):
    assert b" 400 " in server.raw(b"\x16\x03\x01 hello\r\n\r\n")
    assert b" 400 " in server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000)


@pytest.mark.slow
def test_those_who_send_slowly_are_not_waited_for(start):
    server = start(ZOO)
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTT")
        for _ in range(3):
            time.sleep(1)
            connection.sendall(b"P")
        assert connection.recv(100) == b""  # closed, without a word
    assert time.monotonic() - began > 5
    server.stop()


def test_pages_of_elsewhere_may_not_ask(server, streets):
    assert "the host 'evil.example'" in problem_of(server.ask("/v1/models", Host="evil.example"), 403)
    assert "https://evil.example may not use" in problem_of(
        server.ask(SEGMENT, png(streets[0]), Origin="https://evil.example"), 403
    )
    assert server.ask("/v1/models", Origin=server.address)[0] == 200
    assert "frame-ancestors 'none'" in server.ask("/")[1]["content-security-policy"]


@pytest.mark.needs("signals")
def test_others_are_served_with_a_key_only(start, tmp_path, streets, capsys):
    from atrous.cli import main

    assert main(["serve", str(ZOO), "--host", "0.0.0.0"]) == 2
    assert "give a key" in capsys.readouterr().err
    (tmp_path / "key").write_text("open-sesame\n")
    server = start(ZOO, "--host", "0.0.0.0", "--key-file", tmp_path / "key")
    for path in ("/v1/models", "/metrics", "/nothing"):
        assert "needs a key" in problem_of(server.ask(path), 401)
        assert server.ask(path, Authorization="Bearer open-sesam")[0] == 401
    assert server.ask("/v1/models", Authorization="Bearer open-sesame", Host="streets.example")[0] == 200
    for path in ("/", "/healthz", "/readyz", "/docs"):
        assert server.ask(path)[0] == 200
    address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(AtrousError, match="needs a key"):
        Client(address).segment(streets[0])
    assert Client(address, key="open-sesame").segment(streets[0]).mask.shape == streets[0].shape[:2]
    assert server.stop() == 0


@pytest.mark.slow
def test_a_full_line_says_when_to_come_again(start, streets):
    server = start(ZOO, "--waiting", 1)
    large = png(np.zeros((1000, 1000, 3), np.uint8))
    busy = threading.Thread(target=server.ask, args=(SEGMENT, large))
    busy.start()
    wait_for(lambda: json.loads(server.ask("/readyz")[2]).get("status") == 503)
    answer = server.ask(SEGMENT, png(streets[0]))
    assert "the limit of 1 waiting picture is reached: try again" in problem_of(answer, 429)
    assert int(answer[1]["retry-after"]) >= 1
    assert Client(server.address).segment(streets[0]).mask.shape == streets[0].shape[:2]  # it comes again
    busy.join()
    server.stop()


@pytest.mark.slow
def test_an_answer_that_takes_too_long(start, streets):
    server = start(ZOO, "--seconds", 2, "--megapixels", 200)
    picture = png(np.zeros((1000, 1000, 3), np.uint8))
    assert "longer than 2 s" in problem_of(server.ask(f"{SEGMENT}?scales=1,1.5,2&tile=256", picture), 503)
    # The line is free again as soon as the tile at hand is done, long before all of them would be.
    client = Client(server.address, patience=120)
    assert client.segment(streets[0]).mask.shape == streets[0].shape[:2]
    server.stop()


@pytest.mark.slow
def test_those_who_leave_stop_costing(start, streets):
    server = start(ZOO, "--megapixels", 1000)
    picture = png(np.zeros((2000, 2000, 3), np.uint8))
    head = (
        f"POST {SEGMENT}?scales=1,1.5,2&tile=512 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(picture)}\r\n\r\n"
    )
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + picture)
            time.sleep(0.3)
    assert server.ask(SEGMENT, png(streets[0]))[0] == 200  # their work ends between two tiles: test_network
    wait_for(lambda: "atrous_abandoned_total 5.0" in server.ask("/metrics")[2].decode(), 60)
    server.stop()


@pytest.mark.slow
@pytest.mark.needs("signals")
def test_sigterm_lets_everybody_finish(start, streets, segmenter):
    server = start(ZOO)
    answers: list[tuple[int, np.ndarray]] = []

    def ask(index: int) -> None:
        status, _, content = server.ask(SEGMENT, png(streets[index]))
        assert status == 200
        answers.append((index, mask_of(content)))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    large = threading.Thread(target=server.ask, args=(SEGMENT, png(np.zeros((1000, 1000, 3), np.uint8))))
    large.start()
    time.sleep(0.3)
    for thread in threads:
        thread.start()
    wait_for(lambda: waiting(server) == 9)
    assert server.stop() == 0
    for thread in (*threads, large):
        thread.join(30)
    assert sorted(index for index, _ in answers) == list(range(8))
    assert all(np.array_equal(mask, segmenter(streets[index]).mask) for index, mask in answers)
    assert server.lines[-1] == "stopped: all requests were answered"


def waiting(server) -> float:
    return float(re.search(r"^atrous_waiting (\S+)", server.ask("/metrics")[2].decode(), re.M)[1])


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def resident(server) -> float:
    text = server.ask("/metrics")[2].decode()
    return float(re.search(r"^process_resident_memory_bytes (\S+)", text, re.M)[1])


def test_mistakes_on_the_command_line(tmp_path, capsys):
    from atrous.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", str(ZOO), "--port", str(taken.getsockname()[1])]) == 2
        assert "Another --port may be free" in capsys.readouterr().err
    for words, message in (
        ((str(tmp_path / "none.safetensors"),), "no model file at"),
        ((str(ZOO), str(ZOO)), "two models are called 'camvid'"),
        ((f"a/b={ZOO}",), "cannot be part of an address"),
        ((str(ZOO), "--port", "99999"), "port must be 0 to 65535, got 99999"),
        ((str(ZOO), "--waiting", "0"), "must be more than 0, got 0"),
        ((str(ZOO), "--key-file", str(tmp_path / "none")), "the key cannot be read"),
    ):
        assert main(["serve", "--port", "0", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_exported_file_may_be_overwritten_in_place(start, other_model, streets, tmp_path):
    from atrous.commands.export import export

    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    export(other_model, format="openvino", out=tmp_path / "new.xml")
    export(ZOO, format="openvino", out=tmp_path / "x.xml")
    server = start(tmp_path / "x.xml")
    client = Client(server.address)
    before = [client.segment(picture).mask for picture in streets[:3]]
    for size in (0, 1000):  # as while it is copied: a mapped file would end the process, or mix two models
        (tmp_path / "x.bin").write_bytes((tmp_path / "new.bin").read_bytes()[:size])
        assert all(np.array_equal(client.segment(p).mask, b) for p, b in zip(streets, before, strict=False))
    (tmp_path / "x.bin").write_bytes((tmp_path / "new.bin").read_bytes())
    (tmp_path / "x.xml").write_bytes((tmp_path / "new.xml").read_bytes())
    wait_for(lambda: any("replaced by the new version" in line for line in server.lines), 60)
    expected = atrous.Segmenter(tmp_path / "new.xml")
    assert all(np.array_equal(client.segment(p).mask, expected(p).mask) for p in streets[:3])
    server.stop()


@pytest.mark.slow
@pytest.mark.needs("signals")
def test_who_is_cut_off_is_counted(start):
    server = start(ZOO, "--megapixels", 1000)
    picture = png(np.zeros((2000, 2000, 3), np.uint8))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST {SEGMENT}?scales=1,1.5,2&tile=512 HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(f"{head}Content-Length: {len(picture)}\r\n\r\n".encode() + picture)
        wait_for(lambda: waiting(server) == 1)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        server.stop(signal.SIGINT)  # a second Ctrl-C does not wait
        assert connection.recv(12) == b"HTTP/1.1 503"
    assert server.lines[-1] == "stopped: 1 requests were cut off"


def test_a_tile_s_own_overlap_counts_as_pixels(server):
    # Enlarged twofold 1.9 megapixels are 7.7, with the first pass of tiles 15.4 of 16, and with their overlap 27.3.
    picture = png(np.zeros((1385, 1385, 3), np.uint8))
    assert "are allowed" in problem_of(server.ask(f"{SEGMENT}?tile=256", picture), 413)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/camvid", "/docs", "/"])
def test_head_is_get_without_the_body(server, path):
    status, headers, content = server.ask(path, method="HEAD")
    got = server.ask(path)
    assert (status, content) == (200, b"")
    assert headers["content-type"] == got[1]["content-type"]
    if path != "/metrics":  # which counts the requests
        assert headers["content-length"] == got[1]["content-length"] == str(len(got[2]))
    assert server.ask("/v1/models/camvit", method="HEAD")[::2] == (404, b"")
    assert server.ask(SEGMENT, method="HEAD")[0] == 405


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{SEGMENT}?formats=areas", "unknown query parameter 'formats'. Did you mean 'format'?"),
        (f"{SEGMENT}?flips=true", "Did you mean 'flip'?"),
        (f"{SEGMENT}?Flip=true", "Did you mean 'flip'?"),
        (f"{SEGMENT}?flip=true&flip=false", "flip is given 2 times"),
        (f"{SEGMENT}?format=mask&format=mask", "format is given 2 times"),
        (f"{SEGMENT}?wholly_other=", "unknown query parameter 'wholly_other'. Allowed: crf, flip, format"),
    ],
)
def test_no_query_parameter_is_passed_over(server, streets, path, said):
    assert said in problem_of(server.ask(path, png(streets[0])), 422)


def test_addresses_without_query_parameters_say_so_and_probes_may_add_theirs(server):
    assert "accepts no query parameters, got 'flip'" in problem_of(server.ask("/v1/models?flip=true"), 422)
    assert "accepts no query parameters" in problem_of(server.ask("/v1/models/camvid?x=1"), 422)
    assert server.ask("/healthz?probe=7")[0] == 200


def form_of(**fields: bytes) -> bytes:
    """A form with fields of text, and one file where the name is picture."""
    parts = []
    for name, value in fields.items():
        file = b'; filename="a.png"' if name == "picture" else b""
        parts.append(b'--X\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), file, value))
    return b"".join(parts) + b"--X--\r\n"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": b"areas"}, "Did you mean the query parameter 'format', as in '?format=areas'?"),
        ({"formats": b"areas"}, "Did you mean the query parameter 'format'"),
        ({"nothing_like_it": b"1"}, "the query parameters are crf, flip, format"),
    ],
)
def test_no_form_field_is_passed_over(server, streets, fields, said):
    for order in ({"picture": png(streets[0]), **fields}, {**fields, "picture": png(streets[0])}):
        answer = server.ask(SEGMENT, form_of(**order), Content_Type="multipart/form-data; boundary=X")
        assert said in problem_of(answer, 422)


def test_a_picture_field_that_is_text_is_told_how_to_be_a_file(server):
    text = b'--X\r\nContent-Disposition: form-data; name="picture"\r\n\r\nx.jpg\r\n--X--\r\n'
    answer = server.ask(SEGMENT, text, Content_Type="multipart/form-data; boundary=X")
    assert "-F picture=@picture.jpg" in problem_of(answer, 422)


def packed(kind: str, picture: bytes) -> bytes:
    """A picture's file as clients of other services wrap it."""
    text = base64.b64encode(picture)
    return {
        "JSON": json.dumps({"image": text.decode()}).encode(),
        "a data URL": b"data:image/png;base64," + text,
        "base64": text,
        "gzip": gzip.compress(picture),
        "form fields": b"picture=" + text,
        "an address": b"https://example.org/x.jpg",
        "a form without": form_of(picture=picture),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["JSON", "a data URL", "base64", "gzip", "form fields", "an address", "a form without"]
)
def test_a_wrapped_picture_is_told_how_to_be_sent(server, streets, kind):
    content = packed(kind, png(streets[0]))
    detail = problem_of(server.ask(f"{SEGMENT}?format=areas", content), 422)
    assert f"this is {kind}" in detail and "Send the file's own bytes: curl --data-binary @picture.jpg '" in detail
    assert f"http://127.0.0.1:{server.port}{SEGMENT}?format=areas'" in detail
    if kind != "a form without":
        answer = server.ask(SEGMENT, form_of(picture=content), Content_Type="multipart/form-data; boundary=X")
        assert "Send the file's own bytes: curl" in problem_of(answer, 422)


def test_the_content_of_a_request_is_not_compressed(server, streets):
    content = gzip.compress(png(streets[0]))
    detail = problem_of(server.ask(SEGMENT, content, Content_Encoding="gzip"), 422)
    assert "Content-Encoding: gzip" in detail and "curl --data-binary" in detail
    assert server.ask(SEGMENT, png(streets[0]), Content_Encoding="identity")[0] == 200


def test_uploads_to_a_model_of_volumes_are_refused_with_the_reason(start, tmp_path):
    """A slice alone would be normalised by its own mean and deviation."""
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="float32", normalize="per_image", slices=3, planes=("axial",))
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=2)
    model.info = replace(model.info, preprocessing=Preprocessing((one,)))
    atrous.save(model, tmp_path / "volumes.safetensors")
    running = start(tmp_path / "volumes.safetensors")
    for shape in ((30, 40), (30, 40, 3)):
        sentence = problem_of(running.ask("/v1/models/volumes/segment", png(np.zeros(shape, np.uint8))), 422)
        assert "trained on slices of volumes" in sentence and "Give a NIfTI file" in sentence
    running.stop()
