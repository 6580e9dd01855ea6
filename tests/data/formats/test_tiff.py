import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tifffile import TiffPage

from atrous.data.formats.decoder_errors import TooLarge
from atrous.data.formats.palettes import as_colors
from atrous.data.formats.tiff import TiffPicture
from atrous.data.formats.tiff_page import StoredPage, jpeg_sizes
from atrous.data.pictures import (
    decode_pixels,
    decoded_size,
    exif_orientation,
    read_kind,
    read_mask,
    read_picture,
    read_pixels,
    read_raw_mask,
)
from atrous.data.sources.geotiff import GeoTiffSource
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
HEIGHT, WIDTH = 37, 45


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Values over the range that a picture keeps exactly."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1000, shape).astype(np.float32).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -(2**24)), min(info.max, 2**24), shape, endpoint=True).astype(dtype)


def expected_dtype(dtype: str) -> np.dtype:
    return np.dtype(dtype if dtype in ("uint8", "uint16") else "float32")


def with_rasterio(path: Path, values: np.ndarray, **profile) -> Path:
    """Writes H×W×C values."""
    height, width, count = values.shape
    fixed = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with warnings.catch_warnings(action="ignore"), rasterio.open(path, "w", **fixed, **profile) as file:
        file.write(values.transpose(2, 0, 1))
    return path


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_was_written_is_read_or_an_error_says_why(tmp_path, data):
    draw = data.draw
    dtype, bands = draw(st.sampled_from(DTYPES)), draw(st.integers(1, 5))
    values = numbers(dtype, (HEIGHT, WIDTH, bands), draw(st.integers(0, 3)))
    path, planar = tmp_path / "a.tif", draw(st.booleans())
    photometric = draw(st.sampled_from(["minisblack", "miniswhite", "rgb"][: 3 if bands >= 3 else 2]))
    tiled, compression = draw(st.booleans()), draw(st.sampled_from(["none", "deflate", "lzw", "zstd", "packbits"]))
    predictor = draw(st.booleans()) and compression in ("deflate", "lzw", "zstd") and np.dtype(dtype).itemsize <= 4
    if draw(st.booleans()):
        tiles = {"tiled": True, "blockxsize": 16, "blockysize": 32} if tiled else {"blockysize": 8}
        with_predictor = {"predictor": 3 if dtype == "float32" else 2} if predictor else {}
        with_rasterio(
            path, values, interleave="band" if planar else "pixel", photometric=photometric, compress=compression,
            BIGTIFF=draw(st.sampled_from(["YES", "NO"])), ENDIANNESS=draw(st.sampled_from(["LITTLE", "BIG"])),
            **tiles, **with_predictor,
        )  # fmt: skip
    else:
        stored = values.transpose(2, 0, 1) if planar and bands > 1 else values
        layout = {"planarconfig": "separate" if planar else "contig"} if bands > 1 else {}
        extra = bands - (3 if photometric == "rgb" else 1)
        tifffile.imwrite(
            path, stored if bands > 1 else values[:, :, 0], photometric=photometric, **layout,
            extrasamples=("unspecified",) * extra if extra else None, tile=(32, 16) if tiled else None,
            compression=None if compression == "none" else compression, predictor=predictor or None,
            byteorder=draw(st.sampled_from("<>")), bigtiff=draw(st.booleans()), metadata=None,
            rowsperstrip=None if tiled else 8,
        )  # fmt: skip
    read = read_picture(path)
    assert read.dtype == expected_dtype(dtype)
    assert np.array_equal(read, values)
    assert np.array_equal(read, read_picture(path))
    top, left = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
    window = (top, left, draw(st.integers(1, HEIGHT - top)), draw(st.integers(1, WIDTH - left)))
    part = values[top : top + window[2], left : left + window[3]]
    with TiffPicture(path) as tiff:
        assert np.array_equal(tiff.read(window), part)
        assert tiff.dtype == read.dtype
        channels = bands
    with warnings.catch_warnings(action="ignore"):
        source = GeoTiffSource(path, channels)
    assert np.array_equal(source.read(window).values, part)
    source.close()
    assert np.array_equal(decode_pixels(path.read_bytes(), HEIGHT * WIDTH).values, values)


@pytest.mark.parametrize(("dtype", "value"), [("uint32", 2**24 + 1), ("int32", -(2**24) - 1), ("uint64", 2**60 + 1)])
def test_integers_that_float32_cannot_keep_are_refused(tmp_path, dtype, value):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, value]], dtype))
    with pytest.raises(AtrousError, match=r"a\.tif.*float32 cannot represent"):
        read_picture(tmp_path / "a.tif")
    assert read_raw_mask(tmp_path / "a.tif").tolist() == [[0, value]]


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint64"])
def test_rarer_types_become_float32(tmp_path, dtype):
    values = np.arange(-6 if dtype != "uint64" else 0, 6).reshape(-1, 3).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert np.array_equal(read_picture(tmp_path / "a.tif")[..., 0], values.astype("float32"))


def test_complex_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), "complex64"))
    with pytest.raises(AtrousError, match="complex numbers"):
        read_picture(tmp_path / "a.tif")


def test_imagej_files_keep_their_type(tmp_path):
    values = numbers("uint16", (9, 8, 1))[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True)
    read = read_picture(tmp_path / "a.tif")
    assert read.dtype == np.uint16
    assert np.array_equal(read[..., 0], values)


def test_white_is_zero_masks_hold_the_stored_values(tmp_path):
    for values in ([[0, 1, 2]], [[0, 255, 255]]):
        tifffile.imwrite(tmp_path / "m.tif", np.array(values, "u1"), photometric="miniswhite")
        assert read_raw_mask(tmp_path / "m.tif").tolist() == values
    with TiffPicture(tmp_path / "m.tif") as tiff:
        assert tiff.white_is_zero


def test_one_bit(tmp_path):
    bits = np.array([[0, 1, 1], [1, 0, 0]], bool)
    for photometric in ("minisblack", "miniswhite"):
        tifffile.imwrite(tmp_path / "a.tif", bits, photometric=photometric)
        assert np.array_equal(read_picture(tmp_path / "a.tif")[..., 0], bits * 255)
        assert np.array_equal(read_raw_mask(tmp_path / "a.tif"), bits)


@pytest.fixture
def palette(tmp_path):
    indices = np.random.default_rng(0).integers(0, 4, (20, 30)).astype("u1")
    table = np.zeros((3, 256), "u2")
    table[:, :4] = np.array([[0, 255, 10, 90], [0, 0, 200, 80], [5, 40, 0, 70]]) * 257
    tifffile.imwrite(tmp_path / "p.tif", indices, photometric="palette", colormap=table)
    return tmp_path / "p.tif", indices, (table[:, :4].T >> 8).astype("u1")


def test_a_palette_is_its_colours_everywhere_and_its_indices_in_masks(palette):
    path, indices, colours = palette
    assert np.array_equal(read_picture(path), colours[indices])
    assert np.array_equal(GeoTiffSource(path, 3).read((3, 4, 9, 8)).values, colours[indices][3:12, 4:12])
    assert np.array_equal(read_raw_mask(path), indices)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_the_same_whole_and_in_windows(tmp_path, orientation):
    values = numbers("uint16", (20, 30, 2))
    path = tmp_path / "o.tif"
    tifffile.imwrite(
        path, values, photometric="minisblack", planarconfig="contig", extratags=[(274, "H", 1, orientation, True)]
    )
    whole = read_picture(path)
    assert whole.shape[:2] == ((30, 20) if orientation >= 5 else (20, 30))
    turned = np.asarray(
        Image.fromarray(values[..., 0]).transpose(getattr(Image.Transpose, TURNS[orientation]))
        if orientation > 1
        else values[..., 0]
    )
    assert np.array_equal(whole[..., 0], turned)
    assert np.array_equal(GeoTiffSource(path, 2).read((3, 5, 9, 8)).values, whole[3:12, 5:13])
    assert np.array_equal(read_raw_mask(path), turned)
    assert exif_orientation(path) == orientation


TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


def test_the_place_is_that_of_upright_pixels(tmp_path):
    transform = rasterio.transform.from_origin(100, 200, 2, 3)
    path = with_rasterio(tmp_path / "g.tif", numbers("uint8", (20, 30, 1)), crs="EPSG:32632", transform=transform)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages.first
        assert 274 not in page.tags
    stored = read_picture(path)
    tags = {tag.code: tag for tag in tifffile.TiffFile(path).pages.first.tags}
    extra = [
        (code, tags[code].dtype, tags[code].count, tags[code].value, True) for code in (33550, 33922, 34735, 34737)
    ]
    tifffile.imwrite(tmp_path / "t.tif", stored[..., 0], extratags=[*extra, (274, "H", 1, 6, True)], metadata=None)
    source = GeoTiffSource(tmp_path / "t.tif", 1)
    assert source.shape == (30, 20, 1)
    # Stored (row 4, column 7) is seen at upright row 7, column 20 − 1 − 4.
    assert source.read((7, 15, 1, 1)).values[0, 0, 0] == stored[4, 7, 0]
    assert tuple(source.geometry.transform @ (15.5, 7.5)) == tuple(transform @ (7.5, 4.5))


def test_cmyk_becomes_rgb(tmp_path):
    ink = np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)
    picture = Image.fromarray(ink, "CMYK")
    picture.save(tmp_path / "c.tif")
    difference = read_picture(tmp_path / "c.tif").astype(int) - np.asarray(picture.convert("RGB"))
    assert np.abs(difference).max() <= 1


def test_jpeg_in_tiff_is_rgb(tmp_path):
    smooth = np.kron(np.random.default_rng(0).integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype("u1")
    for options in ({"photometric": "ycbcr"}, {"photometric": "rgb"}):
        with_rasterio(tmp_path / "j.tif", smooth, compress="jpeg", interleave="pixel", **options)
        read = read_picture(tmp_path / "j.tif").astype(int)
        assert np.abs(read - smooth).mean() < 8


def test_colour_spaces_that_are_not_supported_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "lab.tif", numbers("uint8", (8, 8, 3)), photometric="cielab")
    with pytest.raises(AtrousError, match="CIELab"):
        read_picture(tmp_path / "lab.tif")


def test_sparse_blocks_hold_nodata(tmp_path):
    path = tmp_path / "s.tif"
    profile = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True, "nodata": 7}
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=32, width=32, dtype="uint8", crs="EPSG:32632",
        transform=rasterio.transform.from_origin(0, 0, 1, 1), **profile,
    ) as file:  # fmt: skip
        file.write(np.full((1, 16, 16), 3, "u1"), window=rasterio.windows.Window(0, 0, 16, 16))
    expected = np.full((32, 32), 7)
    expected[:16, :16] = 3
    assert np.array_equal(read_picture(path)[..., 0], expected)
    assert np.array_equal(read_pixels(path).for_model(1)[1], expected == 3)


def test_pages_as_channels(tmp_path):
    stack = numbers("uint16", (3, 12, 10))
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for page in stack:
            writer.write(page, contiguous=False)
    assert np.array_equal(read_picture(tmp_path / "s.tif")[..., 0], stack[0])
    assert np.array_equal(read_picture(tmp_path / "s.tif", "channels"), stack.transpose(1, 2, 0))
    with TiffPicture(tmp_path / "s.tif") as tiff:
        assert tiff.pages == 3


def test_overviews_and_masks_are_no_pages(tmp_path):
    values = numbers("uint8", (64, 64, 3))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = with_rasterio(tmp_path / "o.tif", values, tiled=True, blockxsize=16, blockysize=16)
        hidden = np.zeros((64, 64), bool)
        hidden[5:9, 30:50] = True
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])
            file.write_mask(~hidden)
    with TiffPicture(path) as tiff:
        assert tiff.pages == 1
    pixels = read_pixels(path)
    assert np.array_equal(pixels.values, values)
    assert np.array_equal(~pixels.for_model(3)[1], hidden)
    assert np.array_equal(~GeoTiffSource(path, 3).read((0, 20, 20, 20)).valid, hidden[:20, 20:40])


NODATA = [
    ("float32", -9999),
    ("float32", -3.4028234663852886e38),
    ("float64", np.nan),
    ("int16", -32768),
    ("uint16", 0),
]


@pytest.mark.parametrize(("dtype", "nodata"), [*NODATA, ("uint16", 0), ("uint32", 2**32 - 1), ("uint8", 255)])
def test_nodata_is_no_data(tmp_path, dtype, nodata):
    values = np.full((10, 10, 2), 5, dtype)
    values[2:4, 3:7] = nodata
    values[8, 8, 0] = 6
    path = with_rasterio(tmp_path / "n.tif", values, nodata=nodata)
    image, valid = read_pixels(path).for_model(2)
    expected = np.ones((10, 10), bool)
    expected[2:4, 3:7] = False
    assert np.array_equal(valid, expected)
    assert set(np.unique(image)) == {0, 5, 6}


def test_alpha_is_a_gap_or_a_band(tmp_path):
    values = numbers("uint8", (10, 10, 5))
    values[..., 4] = 255
    values[:3, :, 4] = 0
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", planarconfig="contig", extrasamples=("unspecified", "unassalpha")
    )
    pixels = read_pixels(tmp_path / "a.tif")
    assert pixels.channels == 4
    image, valid = pixels.for_model()
    assert valid is not None and not valid[:3].any() and valid[3:].all()
    assert np.array_equal(image[3:], values[3:, :, :4])
    image, valid = pixels.for_model(5)
    assert valid is None and np.array_equal(image, values)
    source = GeoTiffSource(tmp_path / "a.tif", 4)
    assert source.shape == (10, 10, 4) and not source.read((0, 0, 3, 10)).valid.any()


def damaged(path: Path) -> AtrousError | None:
    """Why a file is refused; where it is not, two readings are equal."""
    try:
        first = read_picture(path)
    except AtrousError as error:
        return error if path.name in str(error) else None
    assert np.array_equal(first, read_picture(path), equal_nan=True)
    return None


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "packbits", "zstd", "jpeg", "lzma"])
@pytest.mark.parametrize("tiled", [False, True])
def test_cut_files_are_refused(tmp_path, compression, tiled):
    values = np.kron(numbers("uint8", (5, 6, 3)), np.ones((16, 16, 1), "u1"))
    shape = {"tile": (32, 32)} if tiled else {"rowsperstrip": 16}
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="rgb", compression=compression, **shape)
    content = (tmp_path / "w.tif").read_bytes()
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        ends = [page.dataoffsets[i] + page.databytecounts[i] for i in range(len(page.dataoffsets))]
        counts = page.tags[325 if tiled else 279]
    for end in ends:
        (tmp_path / "cut.tif").write_bytes(content[: end - 2])
        assert damaged(tmp_path / "cut.tif") is not None
    for index in range(len(ends)):  # a byte count that is too small
        with tifffile.TiffFile(tmp_path / "w.tif", mode="r+b") as file:
            shorter = list(counts.value)
            shorter[index] //= 2
            file.pages.first.tags[counts.code].overwrite(shorter)
        # Of a tile at the border the part inside the picture may still be whole.
        assert damaged(tmp_path / "w.tif") is not None or np.array_equal(read_picture(tmp_path / "w.tif"), values)
        (tmp_path / "w.tif").write_bytes(content)


def test_damaged_headers_never_give_two_readings_or_anything_but_an_error(tmp_path):
    values = numbers("uint16", (24, 20, 3))
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="rgb", compression="deflate", rowsperstrip=5)
    content, rng, path = (tmp_path / "w.tif").read_bytes(), np.random.default_rng(0), tmp_path / "d.tif"
    for _ in range(250):
        broken = np.frombuffer(content, np.uint8).copy()
        where = rng.integers(4, 400, rng.integers(1, 5))
        broken[where] = rng.integers(0, 256, len(where))
        path.write_bytes(broken.tobytes())
        try:
            assert decode_pixels(path.read_bytes(), 10**4, name="d.tif").values.size <= 10**4 * 16
        except AtrousError:
            continue


def test_a_circle_of_pages_ends(tmp_path):
    with tifffile.TiffWriter(tmp_path / "c.tif") as writer:
        for _ in range(3):
            writer.write(np.zeros((4, 4), "u1"), contiguous=False)
    with tifffile.TiffFile(tmp_path / "c.tif") as file:
        first, last = file.pages[0].offset, file.pages[2].offset
    content = bytearray((tmp_path / "c.tif").read_bytes())
    at = last + 2 + 12 * int.from_bytes(content[last : last + 2], "little")
    content[at : at + 4] = first.to_bytes(4, "little")
    (tmp_path / "c.tif").write_bytes(content)
    with TiffPicture(tmp_path / "c.tif") as tiff:
        assert tiff.pages == 3
        assert not tiff.read().any()


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), "u1"), compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        for code in (256, 257, 278):
            file.pages.first.tags[code].overwrite(60_000)
    with pytest.raises(AtrousError, match=r"a\.tif"):
        read_picture(tmp_path / "a.tif")
    with pytest.raises(TooLarge, match="megapixels"):
        decode_pixels((tmp_path / "a.tif").read_bytes(), 10**6)
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((8, 8), "u1"), compression="zstd", tile=(9008, 9008))
    with pytest.raises(TooLarge, match="tiles of"):
        decode_pixels((tmp_path / "t.tif").read_bytes(), 10**6)
    tifffile.imwrite(
        tmp_path / "b.tif", np.zeros((200, 100, 90), "f4"), planarconfig="contig", photometric="minisblack"
    )
    with pytest.raises(TooLarge, match="90 bands"):
        decode_pixels((tmp_path / "b.tif").read_bytes(), 200 * 100)


def test_a_file_beside_it_that_is_no_tiff_is_no_mask(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((3, 4, 3), 7, np.uint8)).save(path)
    for content in (b"", b"notes of another program"):
        Path(f"{path}.msk").write_bytes(content)
        with TiffPicture(path) as picture:
            assert picture._beside is None


@pytest.mark.parametrize("factor", [1, 257])
def test_a_masks_palette_is_that_of_the_picture(factor, tmp_path):
    """Colour maps of 16 bits, as TIFF has them, and of 8, as some programs write."""
    colors = np.zeros((3, 256), np.uint16)
    colors[:, 1], colors[:, 2] = (200, 0, 7), (0, 200, 9)
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colors * factor)
    values, palette, *_ = read_mask(tmp_path / "a.tif")
    assert np.array_equal(values, indices)
    assert palette is not None and palette[:3] == ((0, 0, 0), (200, 0, 7), (0, 200, 9))
    assert np.array_equal(as_colors(values, palette), read_picture(tmp_path / "a.tif"))


def _with_tags(content: bytes, extra: list[tuple[int, int, int, int]]) -> bytes:
    """A little-endian TIFF with more tags of (code, type, count, value) in its first page, not sorted."""
    at = struct.unpack("<I", content[4:8])[0]
    count = struct.unpack("<H", content[at : at + 2])[0]
    entries = content[at + 2 : at + 2 + 12 * count] + b"".join(struct.pack("<HHII", *tag) for tag in extra)
    page = struct.pack("<H", count + len(extra)) + entries + bytes(4)
    content += bytes(len(content) % 2)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + page


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 273, 277, 278, 279, 322, 323])
@pytest.mark.parametrize("first", [False, True])
def test_a_tag_of_the_pixels_that_stands_twice_is_refused_by_every_reader(tag, first, tmp_path):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), "u1"), **({"tile": (16, 16)} if tag > 300 else {}))
    content = _with_tags(file.getvalue(), [(tag, 4, 1, 60_000)])
    if first:  # the large one before the small one
        at = struct.unpack("<I", content[4:8])[0] + 2
        count = (len(content) - at - 4) // 12
        entries = content[at : at + 12 * count]
        content = content[:at] + entries[-12:] + entries[:-12] + content[at + 12 * count :]
    (tmp_path / "a.tif").write_bytes(content)
    for read in (read_picture, read_mask, read_kind, exif_orientation):
        with pytest.raises(AtrousError, match="occurs twice"):
            read(tmp_path / "a.tif")
    with pytest.raises(AtrousError, match="occurs twice"):
        decode_pixels(content, 10**6)


@pytest.mark.parametrize("size", [(64, 16), (16, 16), (60_000, 60_000), (32, 33)])
def test_a_jpeg_of_another_size_than_its_tile_is_refused_before_it_is_decoded(size, tmp_path):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((32, 32, 3), "u1"), compression="jpeg", tile=(32, 32))
    content = bytearray(file.getvalue())
    at = content.index(b"\xff\xc0") + 5
    assert struct.unpack(">HH", content[at : at + 4]) == (32, 32)
    (tmp_path / "good.tif").write_bytes(content)
    assert read_picture(tmp_path / "good.tif").shape == (32, 32, 3)
    content[at : at + 4] = struct.pack(">HH", *size)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(AtrousError, match="a JPEG in it states"):
        read_picture(tmp_path / "a.tif")
    with pytest.raises(AtrousError, match="a JPEG in it states"):
        decode_pixels(bytes(content), 10**6)


@pytest.mark.parametrize("compression", ["lzma", "webp", "png", "jpeg2000", "lerc"])
def test_a_stranger_may_not_send_compressions_that_take_the_size_from_their_own_header(compression, tmp_path):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    options = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression=compression, **options)
    assert np.array_equal(read_picture(tmp_path / "a.tif"), image)
    with pytest.raises(AtrousError, match="send it uncompressed"):
        decode_pixels((tmp_path / "a.tif").read_bytes(), 10**6)


def test_a_stranger_may_not_send_thousands_of_pages_or_values(tmp_path):
    for index in range(300):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 2), "u1"), append=index > 0)
    assert read_picture(tmp_path / "a.tif", pages="channels").shape == (2, 2, 300)
    with pytest.raises(AtrousError, match="more than 256 pages"):
        decode_pixels((tmp_path / "a.tif").read_bytes(), 10**6, pages="channels")
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), "u1"))
    large = _with_tags(file.getvalue() + bytes(9_000_000), [(40_000, 4, 2_000_000, 8)])
    with pytest.raises(AtrousError, match="2000000 values"):
        decode_pixels(large, 10**6)


@pytest.mark.parametrize(("code", "kind"), [(270, 2), (305, 2), (50_839, 1), (65_000, 7), (65_001, 4)])
def test_a_stranger_may_not_have_one_part_of_a_file_read_as_many_tags(code, kind):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), "u1"), metadata=None, software=False)
    content = file.getvalue() + bytes(4000)
    size = 3000 if kind != 4 else 750
    assert decode_pixels(_with_tags(content, [(code, kind, size, 8)]), 10**6).values.shape == (8, 8, 1)
    with pytest.raises(AtrousError, match=f"tag {code} occurs twice"):
        decode_pixels(_with_tags(content, [(code, kind, size, 8)] * 2), 10**6)
    with pytest.raises(AtrousError, match="its tags hold"):
        decode_pixels(_with_tags(content, [(code, kind, size, 8), (65_002, kind, size, 8)]), 10**6)


def test_a_stranger_may_not_have_one_part_of_a_file_read_as_tags_of_many_pages(tmp_path):
    for index in range(2):
        tifffile.imwrite(
            tmp_path / "a.tif", np.zeros((8, 8), "u1"), append=index > 0, metadata=None, software="x" * 900
        )
    content = (tmp_path / "a.tif").read_bytes()
    assert decode_pixels(content, 10**6).values.shape == (8, 8, 1)
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        places = [page.tags[305].offset for page in tiff.pages]
    changed = bytearray(content)
    for place in places:
        struct.pack_into("<II", changed, place + 4, 1500, 8)
    with pytest.raises(AtrousError, match="its tags hold"):
        decode_pixels(bytes(changed), 10**6)


def _of_strips(height: int, blob: bytes, compression: int, rows: int, repeats: int = 1) -> bytes:
    """A TIFF of 8 px width whose strips are all the same bytes, in one page or more that are alike."""
    count = height // rows
    start = 8 + repeats * (2 + 12 * 9 + 4)
    lists = struct.pack(f"<{2 * count}I", *[start + 8 * count] * count, *[len(blob)] * count)
    offsets, counts = (start, start + 4 * count) if count > 1 else (start + 8 * count, len(blob))
    tags = [(256, 4, 1, 8), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    tags += [(273, 4, count, offsets), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, count, counts)]
    page = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    links = [8 + (len(page) + 4) * index for index in range(1, repeats)] + [0]
    return b"II*\0\x08\0\0\0" + b"".join(page + struct.pack("<I", link) for link in links) + lists + blob


def test_strips_of_a_stranger_that_share_a_part_of_the_file_are_refused_before_one_is_read(monkeypatch):
    blob = zlib.compress(bytes(8)) + bytes(5000)
    assert decode_pixels(_of_strips(2, blob, 8, 1), 10**6).values.shape == (2, 8, 1)
    monkeypatch.setattr(StoredPage, "read", lambda *_: pytest.fail("a strip was read"))
    with pytest.raises(AtrousError, match="strips and tiles list"):
        decode_pixels(_of_strips(50, blob, 8, 1), 10**6)
    with pytest.raises(AtrousError, match="strips and tiles list"):
        decode_pixels(_of_strips(1, blob, 8, 1, repeats=50), 10**6, pages="channels")


class _Counted(bytes):
    """Counts how often a byte of it is looked at."""

    looks = 0

    def __getitem__(self, key):
        self.looks += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\x01", b"\xff\xd0", b"\xff\xe0\0\x02"])
def test_what_stands_before_a_jpegs_frame_is_stepped_over_at_once_or_not_at_all(filling):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(file, "JPEG")
    jpeg = file.getvalue()
    assert jpeg_sizes(jpeg) == [(8, 16)]
    assert jpeg_sizes(jpeg[:2] + filling * 9 + jpeg[2:]) == [(8, 16)]
    content = _Counted(jpeg[:2] + filling * 100_000 + jpeg[2:])
    assert jpeg_sizes(content) == ([(8, 16)] if filling == b"\xff" else [])
    assert content.looks < 30_000


def test_a_jpeg_of_hundreds_of_scans_in_a_tiff_is_refused_before_it_is_decoded(monkeypatch):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    assert decode_pixels(_of_strips(8, jpeg, 7, 8), 10**6).values.shape == (8, 8, 1)
    monkeypatch.setattr(TiffPage, "decode", property(lambda _: pytest.fail("it was decoded")))
    with pytest.raises(AtrousError, match="more than 200 scans"):
        decode_pixels(_of_strips(8, jpeg[:-2] + last * 300 + jpeg[-2:], 7, 8), 10**6)


def test_large_tables_of_jpeg_that_every_tile_is_decoded_with_are_refused():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((32, 32), "u1"), compression="jpeg", tile=(16, 16), metadata=None, software=False)
    content = file.getvalue() + bytes(len(file.getvalue()) % 2)
    for size in (4096, 4098):
        tables = b"\xff\xd8\xff\xfe" + (size - 6).to_bytes(2, "big") + bytes(size - 8) + b"\xff\xd9"
        tagged = _with_tags(content + tables, [(347, 7, size, len(content))])
        if size == 4096:
            assert decode_pixels(tagged, 10**6).values.shape == (32, 32, 1)
        else:
            with pytest.raises(AtrousError, match="JPEG tables"):
                decode_pixels(tagged, 10**6)


@pytest.mark.parametrize(("kind", "dtype", "pages"), [(4, bool, "first"), (0, np.uint8, "channels")])
def test_a_stranger_may_not_send_a_mask_or_a_further_page_of_giant_tiles(kind, dtype, pages, tmp_path):
    path, options = tmp_path / "a.tif", {"subfiletype": kind, "compression": "deflate", "metadata": None}
    tifffile.imwrite(path, np.ones((8, 8), "u1"), tile=(16, 16), metadata=None)
    tifffile.imwrite(path, np.ones((8, 8), dtype), append=True, tile=(16, 16), **options)
    assert decoded_size(path.read_bytes(), 10**8, pages=pages)[0] == 64
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in (322, 323):
            file.pages[1].tags[tag].overwrite(10_000)
    with pytest.raises(TooLarge, match="tiles of"):
        decoded_size(path.read_bytes(), 10**8, pages=pages)


def test_a_tag_larger_than_its_file_is_refused(tmp_path):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((8, 8), "u1"))
    content = bytearray(file.getvalue())
    at = struct.unpack("<I", content[4:8])[0] + 2
    place = next(p for p in range(at, len(content), 12) if struct.unpack_from("<H", content, p)[0] == 273)
    struct.pack_into("<I", content, place + 4, 2**31)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(AtrousError, match="larger than the file"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("layout", [{}, {"blockysize": 16}, {"tiled": True, "blockxsize": 64, "blockysize": 32}])
@pytest.mark.parametrize("photometric", ["RGB", "YCBCR"])
def test_jpegs_of_gdal_are_what_gdal_or_pillow_reads(interleave, layout, photometric, tmp_path):
    if (interleave, photometric) == ("band", "YCBCR"):
        pytest.skip("GDAL has no such layout")
    image = np.kron(numbers("uint8", (13, 13, 3)), np.ones((8, 8, 1), np.uint8))[:101, :99]
    options = {"compress": "JPEG", "interleave": interleave, "photometric": photometric, **layout}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", dtype="uint8", count=3, height=101, width=99, **options
    ) as file:
        file.write(image.transpose(2, 0, 1))
    if photometric == "YCBCR":  # GDAL repeats the colours of each 2×2 pixels, libjpeg and Pillow interpolate them
        expected = np.asarray(Image.open(tmp_path / "a.tif").convert("RGB"))
    else:
        with rasterio.open(tmp_path / "a.tif") as file:
            expected = file.read().transpose(1, 2, 0)
    assert np.array_equal(read_picture(tmp_path / "a.tif"), expected)
    assert np.array_equal(decode_pixels((tmp_path / "a.tif").read_bytes(), 10**6).values, expected)
