"""Pictures come from URLs and masks go there: whole, or with a sentence that names the URL and no secret."""

import base64
import io
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from PIL import Image

from atrous.data.pictures import read_picture
from atrous.data.remote import transfer
from atrous.data.remote.listing import Listing, files_in, listing_of, opened
from atrous.data.remote.transfer import (
    as_path,
    below,
    check_storable,
    fetch,
    fetched,
    identity,
    local_path,
    store,
    stored,
)
from atrous.errors import AtrousError
from atrous.paths import is_url, shown_place


def png(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)).save(file, "PNG")
    return file.getvalue()


PNG = png()


class Answers(BaseHTTPRequestHandler):
    """Pictures, pages, errors and broken answers, by path."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/a.png")
            self.end_headers()
            return
        if path == "/round.png":
            self.send_response(302, "Found \x1b[31m")
            self.send_header("Location", self.path)
            self.end_headers()
            return
        if path == "/local":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        known = {
            "/a.png": ("image/png", PNG),
            "/picture": ("image/png", PNG),
            "/a%20b%C3%BC.png": ("image/png", PNG),
            "/..%2F..%2Fx.png": ("image/png", PNG),
            "/page.png": ("text/html", b"<p>log in</p>"),
            "/disguised.png": ("image/png", b"\n <!DOCTYPE html><p>log in</p>"),
            "/short.png": ("image/png", PNG),
            "/private.png": ("image/png", PNG),
            "/huge.png": ("image/png", PNG),
        }
        if path == "/private.png" and self.headers.get("Authorization") is None:
            self.send_error(401)
            return
        if path not in known:
            self.send_error(404)
            return
        kind, content = known[path]
        length = {"/short.png": len(content) + 9, "/huge.png": 10**18}.get(path, len(content))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A web server of this process; `.url` is its address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        running.seen = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def memory():
    """fsspec's filesystem in this process, with a folder of pictures."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name in ("b.png", "a.png", "notes.txt", ".hidden.png", "more/c.png"):
        system.pipe_file(f"/pictures/{name}", PNG)
    yield system
    system.store.clear()


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("https://x/a.png", True),
        ("s3://bucket/a.png", True),
        ("file:///a.png", True),
        ("memory://a", True),
        ("C:/a.png", False),
        ("C://a.png", False),
        ("a.png", False),
        ("/a://b", False),
        ("", False),
        (Path("https://x"), False),
    ],
)
def test_what_a_url_is(place, url):
    assert is_url(place) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host/a.png", "https://host/a.png"),
        ("https://host/a.png?X-Amz-Signature=secret", "https://host/a.png?…"),
        ("https://host/a.png#secret", "https://host/a.png?…"),
        ("sftp://me:secret@host/a?.png", "sftp://host/a?.png"),
        ("s3://bucket/me@home.png", "s3://bucket/me@home.png"),
        ("https://host:80/me@home.png", "https://host:80/me@home.png"),
        ("https://[::1]:80/me@home.png", "https://[::1]:80/me@home.png"),
        ("https://me:sec/ret@host/a.png", "https://host/a.png"),
        ("https://me:sec?ret@host/a.png", "https://host/a.png"),
        ("zip://a.png::https://me:secret@host/a.zip?secret", "zip://a.png::https://host/a.zip?…"),
        ("HTTPS://host/a?token=secret", "HTTPS://host/a?…"),
        (Path("a?secret=no.png"), "a?secret=no.png"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    assert shown_place(url) == shown


def test_a_file_url_is_a_path(tmp_path):
    (tmp_path / "a b.png").write_bytes(PNG)
    assert local_path((tmp_path / "a b.png").as_uri()) == tmp_path / "a b.png"
    assert local_path(str(tmp_path)) == tmp_path == local_path(tmp_path)
    assert local_path("https://host/a.png") is None
    for url in ("file://host/a.png", "file://", "file:///"):
        with pytest.raises(AtrousError, match="is not a file on this machine"):
            local_path(url)


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        (Path("a/b.png"), ("a", "b.png")),
        ("a/b.png", ("a", "b.png")),
        ("https://host:80/a%20b/c.png?key=1#x", ("host_80", "a b", "c.png")),
        ("https://host/a%2F..%2Fb%00.png", ("host", "a_.._b_.png")),
        ("s3://bucket/deep/a%20?.png", ("bucket", "deep", "a%20_.png")),
        ("https://host", ("host",)),
    ],
)
def test_the_path_that_names_what_belongs_to_a_place(place, parts):
    assert as_path(place).parts == parts


def test_a_file_in_a_folder():
    assert below(Path("a"), "b.png") == below("a", "b.png") == Path("a/b.png")
    assert below("memory://", "b.png") == below("memory:///", "b.png") == "memory:///b.png"
    assert below("s3://a", "b.png") == below("s3://a/", "b.png") == "s3://a/b.png"


def test_spellings_of_one_place(tmp_path):
    assert identity("memory://a/b.png") == identity("memory:///a/b.png")
    assert identity("memory://a/b.png") != identity("memory://a/c.png")
    assert (
        identity(tmp_path / "x" / ".." / "a.png")
        == identity((tmp_path / "a.png").as_uri())
        == identity(str(tmp_path / "a.png"))
    )
    assert identity("https://host/a?x=1") != identity("https://host/a?x=2")


class TestWeb:
    def test_a_picture_is_fetched_whole(self, server, tmp_path):
        assert listing_of(f"{server.url}/a.png") == Listing([f"{server.url}/a.png"])
        file = fetch(f"{server.url}/a.png", tmp_path / "new")
        assert file == tmp_path / "new" / "a.png" and file.read_bytes() == PNG
        assert read_picture(file).shape == (8, 8, 3)
        assert fetch(f"{server.url}/moved.png?x=1", tmp_path).name == "moved.png"

    def test_a_name_is_decoded_and_gets_the_ending_of_its_type(self, server, tmp_path):
        assert fetch(f"{server.url}/a%20b%C3%BC.png", tmp_path).name == "a bü.png"
        assert fetch(f"{server.url}/a bü.png", tmp_path).name == "a bü.png"
        assert fetch(f"{server.url}/picture?id=3", tmp_path).name == "picture.png"

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("/absent.png", "/absent.png: the server returned 404"),
            ("/page.png", "/page.png is a page of text and not a picture: give the address of the picture itself"),
            ("/disguised.png", "/disguised.png is a page of text and not a picture"),
            ("/short.png", f"/short.png ended after {len(PNG)} of {len(PNG) + 9} bytes"),
            ("/huge.png", "has 1,000,000,000,000,000,000 bytes, and the disk has"),
            ("/..%2F..%2Fx.png", "names no file"),
            ("/%2e%2e", "names no file"),
            ("/", "names no file"),
            ("/a%00.png", "names no file"),
            ("/private.png", "the server returned 401"),
            ("/round.png", r"the server returned 302 The HTTP server returned a redirect error[^\n\x1b]*$"),
            ("/local", "cannot be reached|the server returned 302"),
        ],
    )
    def test_what_is_no_picture_is_refused_and_nothing_stays(self, server, tmp_path, path, message):
        with pytest.raises(AtrousError, match=message):
            fetch(server.url + path, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_password_is_sent_to_its_own_host_and_never_shown(self, server, tmp_path):
        address = server.url.removeprefix("http://")
        assert fetch(f"http://me:s%40cret@{address}/private.png", tmp_path).read_bytes() == PNG
        fetch(f"http://me:secret@{address}/moved.png", tmp_path)
        sent = base64.b64encode(b"me:s@cret").decode()
        assert [told for _, told in server.seen] == [
            f"Basic {sent}",
            f"Basic {base64.b64encode(b'me:secret').decode()}",
            None,
        ]
        with pytest.raises(AtrousError) as caught:
            fetch(f"http://me:secret@{address}/absent.png?key=secret", tmp_path)
        assert "secret" not in str(caught.value) and "absent.png" in str(caught.value)

    def test_a_server_that_is_not_there(self, server, tmp_path):
        server.socket.close()
        with pytest.raises(AtrousError, match=r"http://127\.0\.0\.1:\d+/a\.png cannot be reached: "):
            fetch(f"http://user:secret@127.0.0.1:{server.server_port}/a.png", tmp_path)

    @pytest.mark.parametrize("url", ["http:///a.png", "http://[x/a.png", "http://host:port/a.png"])
    def test_what_is_no_web_address(self, url, tmp_path):
        with pytest.raises(AtrousError):
            fetch(url, tmp_path)

    def test_nothing_is_stored_on_the_web(self):
        for url in ("https://host/out", "http://host/out"):
            with pytest.raises(AtrousError, match="nothing can be stored at a web address"):
                check_storable(url)


class TestFilesystems:
    def test_folders_and_patterns_are_listed(self, memory):
        folder = Listing(["memory://pictures/a.png", "memory://pictures/b.png"], True, ["memory://pictures/more"])
        assert listing_of("memory://pictures") == listing_of("memory://pictures/") == folder
        assert listing_of("memory:///pictures").pictures == ["memory:///pictures/a.png", "memory:///pictures/b.png"]
        for pattern, found in (("b*", "b.png"), ("**/c.png", "more/c.png"), ("a.png", "a.png"), ("[b].png", "b.png")):
            assert listing_of(f"memory://pictures/{pattern}") == Listing([f"memory://pictures/{found}"])
        for pattern in ("*.tif", "no*"):
            assert listing_of(f"memory://pictures/{pattern}") == Listing([])
        memory.pipe_file("/pictures/[b].png", PNG)  # a file named like a pattern is that file
        assert listing_of("memory://pictures/[b].png") == Listing(["memory://pictures/[b].png"])

    def test_files_of_a_folder_and_parts_of_files(self, memory):
        assert files_in("memory://pictures") == {"a.png", "b.png", "notes.txt", ".hidden.png"}
        assert files_in("memory://none") is None
        with opened("memory://pictures/a.png", 16) as file:
            assert file.read(4) == PNG[:4]
        with (
            pytest.raises(AtrousError, match=r"memory://pictures/z\.png: no such file"),
            opened("memory://pictures/z.png"),
        ):
            pass

    def test_what_is_fetched_is_what_was_stored(self, memory, tmp_path):
        (tmp_path / "mask.png").write_bytes(PNG)
        store(tmp_path / "mask.png", "memory://out/deep/mask.png")
        assert memory.ls("/out/deep", detail=False) == ["/out/deep/mask.png"]
        assert fetch("memory://out/deep/mask.png", tmp_path / "back").read_bytes() == PNG

    def test_a_file_that_is_there_is_replaced(self, memory, tmp_path):
        (tmp_path / "a.png").write_bytes(b"new")
        for name in ("pictures/a.png", "pictures/[a]*.png", "/root.png"):
            store(tmp_path / "a.png", f"memory://{name}")
            assert memory.cat_file(f"/{name}") == b"new"
            store(tmp_path / "a.png", f"MEMORY://{name}")

    def test_what_fails_half_way_leaves_the_file_before_it(self, memory, tmp_path, monkeypatch):
        (tmp_path / "a.png").write_bytes(b"new")

        def broken(source, path, **_):
            memory.pipe_file(path, b"ne")
            raise OSError("the connection to memory://me:secret@host was lost")

        monkeypatch.setattr(type(memory), "put_file", lambda self, *given, **more: broken(*given, **more))
        with pytest.raises(AtrousError, match=r"memory://pictures/a\.png cannot be reached: the connection") as caught:
            store(tmp_path / "a.png", "memory://pictures/a.png")
        assert "secret" not in str(caught.value)
        assert memory.cat_file("/pictures/a.png") == PNG
        assert not [name for name in memory.ls("/pictures", detail=False) if name.endswith("atrous-part")]

    def test_what_is_not_there(self, memory, tmp_path):
        with pytest.raises(AtrousError, match=r"memory://pictures/z\.png: no such file"):
            fetch("memory://pictures/z.png", tmp_path)
        for url in ("memory://pictures/..", "memory://"):
            with pytest.raises(AtrousError, match="names no file"):
                fetch(url, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_page_is_no_picture(self, memory, tmp_path):
        memory.pipe_file("/pictures/error.png", b"<?xml version='1.0'?><Error>AccessDenied</Error>")
        with pytest.raises(AtrousError, match=r"error\.png is a page of text and not a picture"):
            fetch("memory://pictures/error.png", tmp_path)

    def test_a_full_disk_is_said_before_it_is_full(self, memory, tmp_path, monkeypatch):
        monkeypatch.setattr(transfer, "RESERVE", 10**18)
        with pytest.raises(AtrousError, match=rf"has {len(PNG)} bytes, and the disk has 0 bytes free"):
            fetch("memory://pictures/a.png", tmp_path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")])
    def test_a_missing_package_is_named_with_its_extra(self, scheme, package, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(_registry, scheme, raising=False)
        for call in (listing_of, check_storable, lambda url: fetch(url, tmp_path)):
            with pytest.raises(AtrousError, match=rf"{package}.*pip install 'atrous\[remote\]'"):
                call(f"{scheme}://bucket/a.png")

    def test_an_unknown_kind_of_url_gives_the_nearest(self):
        with pytest.raises(AtrousError, match=r"htps://x/a\.png: unknown kind of URL\. Did you mean https://\?"):
            listing_of("htps://x/a.png")


class Strict(LocalFileSystem):
    """Renames as some servers do: not over a file. `way` is what it does then: "raises", "ignores" or "breaks"."""

    protocol = ("strict",)
    cachable = False
    way = "raises"

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("strict://").lstrip("/")

    def mv(self, path1, path2, **_):
        if Path(path2).exists() and self.way != "renames":
            if self.way == "ignores":
                return
            raise OSError("it exists")
        if self.way == "breaks" and Path(path1).read_bytes() == b"new":
            raise OSError("the connection was lost")
        Path(path1).rename(path2)


class TestRenaming:
    @pytest.fixture
    def strict(self, monkeypatch, tmp_path):
        monkeypatch.setitem(_registry, "strict", Strict)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.png").write_bytes(b"old")
        (tmp_path / "new.png").write_bytes(b"new")
        return tmp_path

    @pytest.mark.parametrize("way", ["renames", "raises", "ignores"])
    @pytest.mark.parametrize("name", ["a.png", "[b].png", "deep/er/c.png"])
    def test_the_new_file_takes_the_place_of_the_old(self, strict, monkeypatch, way, name):
        monkeypatch.setattr(Strict, "way", way)
        store(strict / "new.png", f"strict://{strict}/out/{name}")
        assert (strict / "out" / name).read_bytes() == b"new"
        assert {path.name for path in (strict / "out").rglob("*") if path.is_file()} == {"a.png", Path(name).name}

    def test_a_connection_that_breaks_leaves_the_old_file(self, strict, monkeypatch):
        monkeypatch.setattr(Strict, "way", "breaks")
        with pytest.raises(AtrousError, match="the connection was lost"):
            store(strict / "new.png", f"strict://{strict}/out/a.png")
        assert [(path.name, path.read_bytes()) for path in (strict / "out").iterdir()] == [("a.png", b"old")]


def raise_about_the_copy(error, context):
    with context as copy:
        error.args = tuple(one.format(copy) if isinstance(one, str) else one for one in error.args)
        error.filename = str(copy)
        raise error


class TestCopies:
    def test_a_path_is_its_own_file(self, tmp_path):
        (tmp_path / "a.png").write_bytes(PNG)
        for place in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").as_uri()):
            with fetched(place) as file, stored(place) as target:
                assert file == target == tmp_path / "a.png"
        assert (tmp_path / "a.png").read_bytes() == PNG

    def test_copies_last_as_long_as_they_are_used_and_errors_name_the_url(self, memory):
        with fetched("memory://pictures/a.png") as copy:
            assert copy.read_bytes() == PNG
        with stored("memory://out/new.png") as draft:
            draft.write_bytes(b"new")
            assert not memory.exists("/out/new.png")
        assert memory.cat_file("/out/new.png") == b"new"
        assert not copy.parent.exists() and not draft.parent.exists()
        for context in (fetched, stored):
            for error in (AtrousError("{} is damaged"), OSError(13, "no access", "{}"), KeyError("{}", 3)):
                with pytest.raises(type(error)) as caught:
                    raise_about_the_copy(error, context("memory://pictures/a.png"))
                assert "memory://pictures/a.png" in str(caught.value) and "atrous-" not in str(caught.value)
        assert memory.cat_file("/pictures/a.png") == PNG  # an error stores nothing
