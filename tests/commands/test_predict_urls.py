"""Pictures come from URLs and masks go there, from the command line and from Python; no secret is ever shown."""

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.registry import _registry
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import atrous
from atrous.cli import main
from atrous.commands.predict import predict
from atrous.data.input_files import input_folders
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job, Worker, plan
from atrous.inference.segmenter import Segmenter

FIXED = {"device": "cpu", "precision": "float32"}


def run(model, *words: object) -> int:
    fixed = ["--device", "cpu", "--precision", "float32"]
    return main(["predict", str(model), *map(str, words), *fixed])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.fixture
def photos(shapes, tmp_path) -> Path:
    """Three pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        (folder / f"{index}.png").write_bytes((shapes / "images" / f"test_{index}.png").read_bytes())
    Image.open(folder / "0.png").resize((37, 21)).save(folder / "odd.jpg")
    return folder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Where copies lie for a while: nothing stays there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


class Answers(BaseHTTPRequestHandler):
    """The files of a folder, whatever the query; and broken answers."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        file = self.server.folder / path.strip("/").rpartition("/")[2]
        if path.startswith("/private/") and self.headers.get("Authorization") is None:
            self.send_error(401)
        elif path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"/day/{file.name}")
            self.end_headers()
        elif path == "/page.png":
            self.answer(b"<html>log in</html>", "text/html")
        elif path.startswith("/broken/"):
            self.answer(file.read_bytes(), "image/png", more=100)
        elif path.startswith("/huge/"):
            self.answer(file.read_bytes(), "image/png", more=10**18)
        elif path.startswith("/endless/"):
            self.answer(b"\x89", "image/png", more=10**6)
            self.server.asked.set()
            try:
                while not self.server.closing.wait(0.01):
                    self.wfile.write(b"0")
            except OSError:  # nobody listens any more
                pass
        elif path == "/get":
            self.answer((self.server.folder / "0.png").read_bytes(), "image/png")
        elif file.is_file():
            self.answer(file.read_bytes(), "image/png")
        else:
            self.send_error(404)

    def answer(self, content: bytes, kind: str, more: int = 0):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) + more))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(photos, monkeypatch):
    """A web server of the pictures; `.url` is its address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        running.folder, running.asked, running.closing = photos, threading.Event(), threading.Event()
        running.host = f"127.0.0.1:{running.server_port}"
        running.url = f"http://{running.host}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def memory(photos):
    """fsspec's filesystem in this process, with the pictures."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    for path in photos.iterdir():
        system.pipe_file(f"/bucket/pictures/{path.name}", path.read_bytes())
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def stored(memory, folder: str) -> dict[str, bytes]:
    return {name.rpartition("/")[2]: memory.cat_file(name) for name in memory.ls(folder, detail=False)}


@pytest.fixture
def masks(model, photos, tmp_path) -> dict[str, bytes]:
    """The files that predict writes of the same pictures on this machine."""
    predict(model, [photos], out=tmp_path / "expected", **FIXED)
    return files(tmp_path / "expected")


# Files of this machine as URLs


def test_file_urls_are_paths(model, photos, tmp_path, masks):
    out = tmp_path / "a b" / "masks"
    assert run(model, photos.as_uri(), "--out", out.as_uri(), "--json", tmp_path / "all.json") == 0
    assert files(out) == masks
    records = json.loads((tmp_path / "all.json").read_text())["pictures"]
    assert [record["image"] for record in records] == [str(path) for path in sorted(photos.iterdir())]
    assert run(model, (photos / "0.png").as_uri(), "--out", photos.as_uri()) == 2  # the picture itself
    assert run(model, "file://elsewhere/a.png", "--out", out) == 2


# The web


def test_pictures_of_the_web(model, server, photos, tmp_path, masks, capsys, caplog):
    urls = [
        f"{server.url}/day/0.png?X-Signature=secret",
        f"http://me:secret@{server.host}/private/1.png#secret",
        f"{server.url}/moved/odd.jpg",
    ]
    out = tmp_path / "out"
    with caplog.at_level("DEBUG"):
        assert run(model, *urls, "--out", out, "--overlay", "--json", tmp_path / "all.json") == 0
    assert {name: content for name, content in files(out).items() if "overlay" not in name} == masks
    assert len(names(out)) == 6
    said, written = capsys.readouterr(), (tmp_path / "all.json").read_text()
    assert [record["image"] for record in json.loads(written)["pictures"]] == [
        f"{server.url}/day/0.png?…",
        f"{server.url}/private/1.png?…",
        f"{server.url}/moved/odd.jpg",
    ]
    assert "secret" not in said.out + said.err + written + caplog.text


def test_whatever_a_server_does_costs_its_own_picture_only(model, server, tmp_path, capsys, caplog):
    gone = ["broken/0.png", "huge/1.png", "page.png", "absent.png?token=secret", "private/1.png", "%2e%2e", ""]
    words = [f"{server.url}/{path}" for path in (*gone, "day/0.png")]
    out = tmp_path / "out"
    with caplog.at_level("DEBUG"):
        assert run(model, *words, "--out", out, "--json", tmp_path / "all.json") == 1
    assert names(out) == ["day_0.png.png"]
    said = capsys.readouterr()
    for path, words in (
        ("broken/0.png", "ended after"),
        ("huge/1.png", "and the disk has"),
        ("page.png", "is a page of text and not a picture"),
        ("absent.png?…", "the server returned 404"),
        ("private/1.png", "the server returned 401"),
    ):
        assert any(f"skipped {server.url}/{path}" in line and words in line for line in said.out.splitlines()), path
    records = json.loads((tmp_path / "all.json").read_text())["pictures"]
    assert ["error" in record for record in records] == [True] * len(gone) + [False]
    assert "secret" not in said.out + said.err + caplog.text + (tmp_path / "all.json").read_text()
    assert "atrous-" not in said.out + said.err  # the names of temporary folders


def test_a_server_that_is_not_there(model, server, tmp_path, capsys):
    server.socket.close()
    assert run(model, f"http://me:secret@{server.host}/0.png", "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert f"skipped {server.url}/0.png cannot be reached" in said.out
    assert "secret" not in said.out + said.err and not (tmp_path / "out").exists()


def test_names_of_masks_of_urls(model, server, tmp_path, capsys):
    urls = [f"{server.url}/{path}" for path in ("get?id=1", "get?id=2", "day/0.png", "night/0.png", "day/1.png")]
    written = predict(model, urls, out=tmp_path / "out", **FIXED)
    host = server.host.replace(":", "_")
    assert [Path(path).name for path in written] == [
        f"{host}_get.png",
        f"{host}_get_.png",
        "day_0.png.png",
        "night_0.png.png",
        "1.png",
    ]
    assert names(tmp_path / "out") == sorted(Path(path).name for path in written)
    assert "4 pictures have the name of another" in " ".join(capsys.readouterr().out.split())


def test_warnings_name_the_url(model, server, photos, tmp_path, capsys):
    import cv2

    cv2.imwrite(str(photos / "deep.png"), np.full((20, 30, 3), 4095, np.uint16))
    assert run(model, f"{server.url}/day/deep.png?key=secret", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert f"{server.url}/day/deep.png?…: 16-bit pictures" in said and "secret" not in said


def test_nothing_is_stored_on_the_web(model, photos, capsys):
    assert run(model, photos, "--out", "https://me:secret@host/masks") == 2
    said = capsys.readouterr().err
    assert "https://host/masks: nothing can be stored at a web address" in said and "secret" not in said


def test_a_segmenter_fetches_a_url(model, server, photos, memory):
    segmenter = Segmenter(model, **FIXED)
    expected = segmenter(photos / "0.png").mask
    for url in (f"{server.url}/0.png", "memory://bucket/pictures/0.png", (photos / "0.png").as_uri()):
        assert np.array_equal(segmenter(url).mask, expected)
    with pytest.raises(AtrousError, match=r"/absent\.png\?…: the server returned 404"):
        segmenter(f"{server.url}/absent.png?token=secret")
    with pytest.raises(
        AtrousError, match=r"a picture is https://host/a\.png as a Path, which loses one of two slashes"
    ):
        segmenter(Path("https://host/a.png"))
    with pytest.raises(AtrousError, match=r"model is a URL, https://host/m\.safetensors, but only paths"):
        Segmenter("https://me:secret@host/m.safetensors")


# Other filesystems


def test_a_folder_of_a_bucket_to_another(model, memory, tmp_path, masks, capsys):
    words = ["memory://bucket/pictures", "--out", "memory://bucket/masks/", "--json", tmp_path / "all.json"]
    for _ in range(2):  # the second time masks of ours are replaced
        assert run(model, *words) == 0
        assert stored(memory, "/bucket/masks") == masks
    records = json.loads((tmp_path / "all.json").read_text())["pictures"]
    assert records[0]["image"] == "memory://bucket/pictures/0.png"
    assert records[0]["mask"] == "memory://bucket/masks/0.png"
    assert "3 masks in memory://bucket/masks/" in capsys.readouterr().out


def test_what_predict_returns_of_urls(model, memory, tmp_path):
    (written,) = predict(model, "memory://bucket/pictures/0.png", out="memory://bucket/masks", overlay=True, **FIXED)
    assert written == "memory://bucket/masks/0.png"
    assert sorted(stored(memory, "/bucket/masks")) == ["0.overlay.png", "0.png"]
    with pytest.raises(AtrousError, match=r"as a Path, which loses one of two slashes: give it as text"):
        predict(model, "memory://bucket/pictures/0.png", out=Path("memory://bucket/masks"))
    with pytest.raises(AtrousError, match=r"paths is https://host/a\.png\?… as a Path"):
        predict(model, [Path("https://me:secret@host/a.png?key=secret")], out=tmp_path)


def test_files_of_others_stay(model, memory, tmp_path, capsys):
    memory.pipe_file("/bucket/masks/0.png", b"a file of somebody")
    words = [model, "memory://bucket/pictures", "--out", "memory://bucket/masks"]
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert "memory://bucket/masks holds files that predict did not write and would overwrite: 0.png" in said
    assert stored(memory, "/bucket/masks") == {"0.png": b"a file of somebody"}
    assert run(*words, "--overwrite") == 0
    mask = stored(memory, "/bucket/masks")["0.png"]
    changed = mask.replace(b"Software\0atrous", b"Software\0atrouz")
    memory.pipe_file("/bucket/masks/0.png", changed)
    assert run(*words) == 2
    assert stored(memory, "/bucket/masks")["0.png"] == changed


def test_inputs_are_never_replaced(model, memory, capsys):
    before = stored(memory, "/bucket/pictures")
    for out in ("memory://bucket/pictures", "memory:///bucket/pictures/"):
        assert run(model, "memory://bucket/pictures", "--out", out, "--overwrite") == 2
        assert "would overwrite that picture: give another folder with --out" in capsys.readouterr().err
    assert stored(memory, "/bucket/pictures") == before


def test_masks_beside_the_pictures_are_no_pictures(model, memory, photos, capsys):
    for name in ("0.png", "1.png"):
        memory.rm_file(f"/bucket/pictures/{name}")
        picture = encoded(Image.open(photos / name).convert("RGB"), "JPEG")
        memory.pipe_file(f"/bucket/pictures/{Path(name).stem}.jpg", picture)
    folder = "memory://bucket/pictures"
    for _ in range(2):
        assert len(predict(model, folder, out=folder, **FIXED)) == 3
    assert "3 pictures in memory://bucket/pictures skipped: written by atrous" in capsys.readouterr().out
    with Image.open(io.BytesIO(memory.cat_file("/bucket/pictures/0.png"))) as mask:
        corrected, text = np.array(mask), PngInfo()
        text.add_text("Software", mask.info["Software"])
    file = io.BytesIO()
    Image.fromarray(1 - corrected.clip(0, 1)).save(file, "PNG", pnginfo=text)
    memory.pipe_file("/bucket/pictures/0.png", file.getvalue())
    with pytest.raises(AtrousError, match=r"did not write and would overwrite: 0\.png"):
        predict(model, folder, out=folder, **FIXED)
    assert "probably corrected masks (0.png)" in " ".join(capsys.readouterr().out.split())
    assert memory.cat_file("/bucket/pictures/0.png") == file.getvalue()


def test_subfolders_are_named(model, memory, photos, capsys):
    memory.pipe_file("/bucket/pictures/more/9.png", (photos / "0.png").read_bytes())
    assert run(model, "memory://bucket/pictures", "--out", "memory://bucket/masks") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Subfolders are not searched; to include one, give its path: memory://bucket/pictures/more." in said
    assert run(model, "memory://bucket", "--out", "memory://bucket/masks") == 2
    told = capsys.readouterr().err
    assert "no pictures in memory://bucket; known suffixes are" in told and "memory://bucket/pictures" in told
    assert run(model, "memory://bucket/*.gif", "--out", "memory://bucket/masks") == 2


@pytest.mark.parametrize("name", ["one.png", "MASKS.TIF", "mask.nii.gz"])
def test_a_files_name_is_no_folder(model, memory, capsys, name):
    assert run(model, "memory://bucket/pictures/0.png", "--out", f"memory://bucket/{name}") == 2
    assert "is named like a file; give a folder" in capsys.readouterr().err
    assert not memory.exists(f"/bucket/{name}")


def test_an_upload_that_fails_is_a_record_and_leaves_no_half_file(model, memory, monkeypatch, tmp_path, capsys):
    def put_file(self, source, path, **more):
        if Path(source).name == "1.png":
            self.pipe_file(path, b"half")
            raise PermissionError("the key secret of memory://me:secret@host may not write")
        return whole(self, source, path, **more)

    whole = type(memory).put_file
    monkeypatch.setattr(type(memory), "put_file", put_file)
    words = [model, "memory://bucket/pictures", "--out", "memory://bucket/masks", "--json", tmp_path / "all.json"]
    assert run(*words) == 1
    assert sorted(stored(memory, "/bucket/masks")) == ["0.png", "odd.png"]
    _, record, _ = json.loads((tmp_path / "all.json").read_text())["pictures"]
    assert record.keys() == {"image", "error"}
    assert record["error"].startswith("memory://bucket/masks/1.png cannot be written: ")
    assert "me:secret" not in record["error"] + capsys.readouterr().out


def test_a_missing_package_is_named_with_its_extra(model, photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    for words in (["s3://bucket/pictures/"], [photos, "--out", "s3://bucket/masks"]):
        assert run(model, *words) == 2
        assert "pip install 'atrous[remote]'" in capsys.readouterr().err


def test_an_unknown_kind_of_url(model, photos, capsys):
    assert run(model, photos, "--out", "s33://bucket/masks") == 2
    assert "s33://bucket/masks: unknown kind of URL. Did you mean s3" in capsys.readouterr().err


# Rasters


def test_a_geotiff_keeps_its_place(model, memory, tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    picture = np.random.default_rng(0).integers(0, 256, (3, 70, 90), np.uint8)
    file = tmp_path / "a.tif"
    with rasterio.open(file, "w", driver="GTiff", height=70, width=90, count=3, dtype="uint8", **place) as made:
        made.write(picture)
    memory.pipe_file("/bucket/maps/a.tif", file.read_bytes())
    words = ["--out", "memory://bucket/masks", "--overlay", "--json", tmp_path / "all.json"]
    assert run(model, "memory://bucket/maps/a.tif", *words) == 0
    assert "no overlay for 1 GeoTIFF" in capsys.readouterr().out
    assert run(model, file, "--out", tmp_path / "expected") == 0
    assert list(stored(memory, "/bucket/masks")) == ["a.tif"]
    (tmp_path / "mask.tif").write_bytes(memory.cat_file("/bucket/masks/a.tif"))
    with rasterio.open(tmp_path / "mask.tif") as ours, rasterio.open(tmp_path / "expected" / "a.tif") as expected:
        assert np.array_equal(ours.read(), expected.read())
        assert (ours.transform, ours.crs) == (expected.transform, expected.crs)
    (record,) = json.loads((tmp_path / "all.json").read_text())["pictures"]
    assert record["mask"] == "memory://bucket/masks/a.tif" and record["work"]["tiles"] == 1
    assert run(model, "memory://bucket/maps/a.tif", "--out", "memory://bucket/masks") == 0  # ours is replaced


def test_a_tiff_without_a_place_has_its_mask_in_a_tiff(model, memory, photos, tmp_path):
    memory.pipe_file("/bucket/maps/a.tif", encoded(Image.open(photos / "0.png"), "TIFF"))
    memory.pipe_file("/bucket/maps/broken.tif", b"II*\0 and no more")
    assert run(model, "memory://bucket/maps", "--out", tmp_path / "out", "--json", tmp_path / "all.json") == 1
    assert names(tmp_path / "out") == ["a.tif"]
    mask = Segmenter(model, **FIXED)(photos / "0.png").mask
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.tif")), mask)
    _, broken = json.loads((tmp_path / "all.json").read_text())["pictures"]
    assert broken["error"].startswith("memory://bucket/maps/broken.tif") and "atrous-" not in broken["error"]


# What takes no URL says so


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explain", "MODEL", "https://me:secret@host/a.png"], "paths is a URL, https://host/a.png"),
        (["predict", "https://me:secret@host/m.safetensors", "PHOTOS"], "model is a URL, https://host/m.safetensors"),
        (["predict", "MODEL", "PHOTOS", "--json", "s3://bucket/all.json"], "json is a URL, s3://bucket/all.json"),
        (["predict", "MODEL", "PHOTOS", "--input", "depth=s3://bucket/depth"], "the input 'depth' is at s3://bucket"),
        (["evaluate", "MODEL", "s3://bucket/data"], "data is a URL, s3://bucket/data"),
        (["convert", "https://host/m.pth?key=secret"], "is a URL, https://host/m.pth?…"),
        (["export", "MODEL", "--out", "file:///a/m.onnx"], "leave file:// out"),
    ],
)
def test_other_arguments_are_paths(model, photos, capsys, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"MODEL": str(model), "PHOTOS": str(photos)}
    assert main([given.get(word, word) for word in words]) == 2
    said = capsys.readouterr().err
    assert message in said and "secret" not in said
    assert not list(tmp_path.glob("*:*"))  # no folder named https:


def test_the_folder_of_an_input_may_be_a_file_url(tmp_path):
    assert input_folders([f"depth={tmp_path.as_uri()}"]) == {"depth": str(tmp_path)}


@pytest.mark.parametrize("name", ["[12].png", "1.png", "null", "true", "{a}", "a b#c?d.png", "~x.png"])
def test_words_stay_as_they_are(model, photos, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (photos / "0.png").rename(tmp_path / name)
    assert run(model, name, "--out", f"out_{name}x") == 0
    assert len(names(tmp_path / f"out_{name}x")) == 1


# Other processes


def test_a_worker_does_jobs_of_urls(model, memory, server, masks):
    spec = ModelSpec(model, **FIXED)
    jobs = plan([f"{server.url}/day/0.png", "memory://bucket/pictures/1.png"], "memory://bucket/masks", spec)
    assert jobs[0] == Job(f"{server.url}/day/0.png", "memory://bucket/masks/0.png")
    assert [Worker(spec)(job).error for job in jobs] == [None, None]
    assert stored(memory, "/bucket/masks") == {name: masks[name] for name in ("0.png", "1.png")}


def test_a_stopped_worker_fetches_no_more(model, server, tmp_path):
    worker = Worker(ModelSpec(model, **FIXED))
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(worker.read, Job(f"{server.url}/endless/0.png", tmp_path / "0.png"))
        assert server.asked.wait(60)
        worker.stop()
        record = read.result(60)
    assert f"{server.url}/endless/0.png is not fetched, because the work was stopped" in str(record.error)


@pytest.mark.slow
def test_two_processes_of_torchrun(model, server, tmp_path, masks):
    urls = [f"http://me:secret@{server.host}/day/{name}" for name in ("0.png", "1.png", "odd.jpg", "absent.png")]
    (tmp_path / "copies").mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "atrous", "predict", str(model), *urls, "--out", str(tmp_path / "out")),
            *("--engine", "torch", "--device", "cpu", "--precision", "float32", "--json", str(tmp_path / "all.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "copies")},
        timeout=500,
    )
    assert done.returncode == 1, done.stderr
    assert names(tmp_path / "out") == sorted(masks)
    records = json.loads((tmp_path / "all.json").read_text())["pictures"]
    assert [record["image"] for record in records] == [url.replace("me:secret@", "") for url in urls]
    assert "secret" not in done.stdout + (tmp_path / "all.json").read_text()
    assert not list((tmp_path / "copies").glob("atrous-*"))


def test_the_public_names(model, server, photos, tmp_path):
    assert atrous.predict(model, f"{server.url}/0.png", out=tmp_path / "out", **FIXED) == [tmp_path / "out" / "0.png"]
