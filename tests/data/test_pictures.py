import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from atrous.data.pictures import (
    TooLarge,
    decode_pixels,
    exif_orientation,
    read_kind,
    read_picture,
    read_pixels,
    read_raw_mask,
    stored_lossily,
    to_channels,
)
from atrous.errors import AtrousError

NOISE = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (9, 7, 4), dtype=np.uint16)


def saved(path: Path, picture: Image.Image, **options) -> Path:
    picture.save(path, **options)
    return path


def png(path: Path, width: int, height: int, bits: int, color_type: int, rows: list[bytes]) -> Path:
    """A PNG of a depth that Pillow and OpenCV do not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


@pytest.mark.parametrize(
    ("suffix", "channels"),
    [
        (".png", 1),
        (".png", 3),
        (".png", 4),
        (".tif", 1),
        (".tif", 3),
        (".tif", 4),
        (".webp", 3),
        (".webp", 4),
    ],
)
def test_eight_bit_pictures_come_back_exactly(tmp_path, channels, suffix):
    image = NOISE[:, :, :channels].copy()
    image[..., 3:] |= 1  # WebP drops the colour of fully transparent pixels
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(image.squeeze()), **options)
    read = read_picture(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize(
    ("suffix", "channels"),
    [(".png", 1), (".png", 3), (".png", 4), (".tif", 1), (".tif", 3), (".tif", 4), (".pgm", 1), (".ppm", 3)],
)
def test_sixteen_bit_pictures_keep_all_bits(tmp_path, channels, suffix):
    image = DEEP[:, :, :channels]
    bgr = image[:, :, [2, 1, 0, 3][:channels]] if channels > 1 else image
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), bgr)
    read = read_picture(path)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


def test_sixteen_bit_grey_with_alpha_is_grey(tmp_path):
    path = png(tmp_path / "a.png", 1, 1, 16, 4, [struct.pack(">HH", 1000, 65535)])
    np.testing.assert_array_equal(read_picture(path), np.array([[[1000]]], np.uint16))


def test_float_tiff(tmp_path):
    image = np.array([[0.25, -3.5], [1e6, 0]], np.float32)
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "a.tif", Image.fromarray(image)))[..., 0], image)
    color = np.random.default_rng(0).random((4, 5, 3), dtype=np.float32)
    cv2.imwrite(str(tmp_path / "b.tif"), color[:, :, ::-1])
    np.testing.assert_array_equal(read_picture(tmp_path / "b.tif"), color)


def test_integers_beyond_16_bits(tmp_path):
    fits = saved(tmp_path / "a.tif", Image.fromarray(np.array([[0, 65535]], np.int32)))
    assert read_picture(fits).dtype == np.float32  # by the file's type, whatever its values
    negative = saved(tmp_path / "b.tif", Image.fromarray(np.array([[-1024, 3000]], np.int32)))
    np.testing.assert_array_equal(read_picture(negative), np.array([[[-1024], [3000]]], np.float32))
    with pytest.raises(AtrousError, match=r"c\.tif.*float32"):
        read_picture(saved(tmp_path / "c.tif", Image.fromarray(np.array([[-1, 2**24 + 1]], np.int32))))


def test_other_modes_become_rgb_or_grey(tmp_path):
    rgb = Image.fromarray(NOISE[:, :, :3].copy())
    palette = rgb.quantize(8)
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "p.png", palette)), np.asarray(palette.convert("RGB")))
    assert read_picture(saved(tmp_path / "c.jpg", rgb.convert("CMYK"))).shape == (9, 7, 3)
    assert set(np.unique(read_picture(saved(tmp_path / "1.png", rgb.convert("1"))))) == {0, 255}
    assert read_picture(saved(tmp_path / "la.png", rgb.convert("LA"))).shape == (9, 7, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    stored = Image.fromarray(NOISE[:, :, 0].copy())
    path = saved(tmp_path / f"a{suffix}", stored, exif=oriented(orientation).tobytes())
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = stored.transpose(turns[orientation]) if orientation > 1 else stored
    np.testing.assert_array_equal(read_picture(path)[..., 0], np.asarray(upright))
    np.testing.assert_array_equal(read_raw_mask(path), np.asarray(upright))
    assert exif_orientation(path) == orientation


def test_palette_mask_keeps_indices(tmp_path):
    mask = Image.fromarray(np.array([[0, 7], [255, 3]], np.uint8)).convert("P")
    mask.putpalette([200] * 768)
    np.testing.assert_array_equal(
        read_raw_mask(saved(tmp_path / "m.png", mask)), np.array([[0, 7], [255, 3]], np.uint8)
    )


@pytest.mark.parametrize(
    ("bits", "row", "values"),
    [(1, 0b01000000, [0, 1]), (2, 0b01110000, [1, 3]), (4, 0x1F, [1, 15])],
)
def test_masks_of_few_bits_are_not_stretched(tmp_path, bits, row, values):
    path = png(tmp_path / "m.png", 2, 1, bits, 0, [bytes([row])])
    np.testing.assert_array_equal(read_raw_mask(path), np.array([values], np.uint8))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32"])
def test_tiff_masks_keep_every_integer(tmp_path, dtype):
    info = np.iinfo(dtype)
    mask = np.array([[info.min, 0], [1, info.max]], dtype=dtype)
    cv2.imwrite(str(tmp_path / "m.tif"), mask)
    read = read_raw_mask(tmp_path / "m.tif")
    assert read.dtype.kind in "ui"
    np.testing.assert_array_equal(read, mask)


def test_color_and_float_masks(tmp_path):
    assert read_raw_mask(saved(tmp_path / "m.png", Image.fromarray(NOISE))).shape == (9, 7, 3)
    whole = saved(tmp_path / "w.tif", Image.fromarray(np.array([[0, -7]], np.float32)))
    np.testing.assert_array_equal(read_raw_mask(whole), [[0, -7]])
    with pytest.raises(AtrousError, match="fractions"):
        read_raw_mask(saved(tmp_path / "f.tif", Image.fromarray(np.array([[0.5]], np.float32))))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
@pytest.mark.parametrize("kept", [0, 4, 0.5, 0.9])
@pytest.mark.parametrize("read", [read_picture, read_raw_mask])
def test_damaged_files_are_named(tmp_path, suffix, kept, read):
    path = saved(tmp_path / f"whole{suffix}", Image.fromarray(np.tile(NOISE[:, :, :3], (8, 8, 1)).astype(np.uint8)))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(AtrousError, match=f"whole\\{suffix}"):
        read(path)


def test_truncated_sixteen_bit_color_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.tile(DEEP, (4, 4, 1)))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(AtrousError, match=r"a\.png"):
        read_picture(tmp_path / "a.png")


def test_missing_file_and_text_file(tmp_path):
    with pytest.raises(AtrousError, match="no such file"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(AtrousError, match=r"text\.png: not a picture"):
        read_picture(tmp_path / "text.png")


def test_large_scans_are_read_and_the_global_limit_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = saved(tmp_path / "a.png", Image.fromarray(NOISE))
    assert read_picture(path).shape == (9, 7, 4)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_to_channels():
    grey, rgb, rgba = NOISE[:, :, :1], NOISE[:, :, :3], NOISE
    assert to_channels(rgb, 3) is rgb
    np.testing.assert_array_equal(to_channels(grey, 3), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(to_channels(rgba, 3), rgb)
    np.testing.assert_array_equal(to_channels(np.repeat(grey, 3, axis=2), 1), grey)
    luminance = to_channels(rgba, 1)
    assert luminance.dtype == np.uint8
    reference = np.asarray(Image.fromarray(rgb.copy()).convert("L")).astype(int)
    assert np.abs(luminance[..., 0].astype(int) - reference).max() <= 1
    assert to_channels(DEEP, 1).dtype == np.uint16
    with pytest.raises(AtrousError, match="in_channels=4"):
        to_channels(rgba, 2)


def test_stored_lossily_looks_inside(tmp_path):
    picture = Image.fromarray(NOISE[:, :, :3].copy())
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    (tmp_path / "named.png").write_bytes(buffer.getvalue())
    assert stored_lossily(tmp_path / "named.png")
    assert not stored_lossily(saved(tmp_path / "b.png", picture))
    assert stored_lossily(saved(tmp_path / "c.webp", picture))
    assert not stored_lossily(saved(tmp_path / "d.webp", picture, lossless=True))
    assert not stored_lossily(saved(tmp_path / "e.webp", picture, lossless=True, exif=oriented(3).tobytes()))
    assert stored_lossily(saved(tmp_path / "f.tif", picture, compression="jpeg"))


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("a.png", Image.fromarray(NOISE)),
        ("a.jpg", Image.fromarray(NOISE[..., :3])),
        ("a.webp", Image.fromarray(NOISE[..., :3])),
        ("a.bmp", Image.fromarray(NOISE[..., :3])),
        ("a.gif", Image.fromarray(NOISE[..., 0])),
        ("a.tif", Image.fromarray(DEEP[..., 0])),
    ],
)
def test_decoding_bytes_is_reading_the_file(tmp_path, name, picture):
    path = saved(tmp_path / name, picture)
    assert np.array_equal(decode_pixels(path.read_bytes(), 63).values, read_picture(path))
    with pytest.raises(TooLarge, match=r"7×9 px are 0\.0 megapixels, and at most 6\.2e-05 are allowed"):
        decode_pixels(path.read_bytes(), 62)


def test_decoding_deep_colours(tmp_path):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), DEEP[..., :3])
    assert np.array_equal(decode_pixels(path.read_bytes(), 63).values, read_picture(path))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"save_all": True, "append_images": []}])
def test_a_webps_size_is_known_before_it_is_opened(tmp_path, options):
    image = Image.fromarray(np.zeros((33, 1025, 3), np.uint8))
    with_profile = {"icc_profile": b"x" * 200} if "save_all" in options else {}
    content = saved(tmp_path / "a.webp", image, **options, **with_profile).read_bytes()
    assert decode_pixels(content, 33 * 1025).values.shape == (33, 1025, 3)
    with pytest.raises(TooLarge, match="1025×33 px"):
        decode_pixels(content, 33 * 1025 - 1)


def test_strangers_may_not_send_what_runs_programs_or_never_ends():
    with pytest.raises(AtrousError, match="not one of BMP, GIF, JPEG"):
        decode_pixels(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 10**6)
    with pytest.raises(AtrousError, match="empty"):
        decode_pixels(b"", 10**6)
    file = io.BytesIO()
    Image.fromarray(NOISE[..., :3]).save(file, "JPEG")
    with pytest.raises(AtrousError, match="more than 200 scans"):
        decode_pixels(file.getvalue() + b"\xff\xda" * 201, 10**6)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_damaged_bytes_are_named_or_decoded_but_nothing_else(kind):
    file = io.BytesIO()
    Image.fromarray(np.kron(NOISE[..., :3], np.ones((4, 4, 1), np.uint8))).save(file, kind)
    content, rng = file.getvalue(), np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(content, np.uint8).copy()
        where = rng.integers(0, len(damaged), rng.integers(1, 9))
        damaged[where] = rng.integers(0, 256, len(where))
        try:
            assert decode_pixels(damaged.tobytes()[: rng.integers(1, len(content) + 1)], 10**5).values.size <= 4 * 10**5
        except AtrousError:
            continue


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "LA", "RGBA", "I;16", "4 bits"])
def test_transparent_pixels_are_void_however_a_png_says_so(mode, tmp_path):
    values = np.arange(16, dtype=np.uint8).reshape(4, 4)
    void, options = values == 5, {"transparency": 5}
    if mode == "RGB":
        picture, options = Image.fromarray(np.stack([values, values + 1, values + 2], 2)), {"transparency": (5, 6, 7)}
    elif mode in ("LA", "RGBA"):
        picture, options = Image.fromarray(values).convert(mode), {}
        picture.putalpha(Image.fromarray(np.where(void, 0, 255).astype(np.uint8)))
    elif mode == "1":
        void = values < 6
        picture, options = Image.fromarray(~void), {"transparency": 0}
    elif mode == "4 bits":
        picture = Image.fromarray(values)  # grey of 4 bits, which Pillow cannot write: made by hand below
    else:
        picture = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else values)
        picture = picture.convert("P") if mode == "P" else picture
    path = tmp_path / "a.png"
    picture.save(path, **options)
    if mode == "4 bits":
        packed = np.insert((values[:, ::2] << 4) | values[:, 1::2], 0, 0, axis=1).tobytes()
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 4, 0, 0, 0, 0))
            + chunk(b"tRNS", b"\0\x05")
            + chunk(b"IDAT", zlib.compress(packed))
            + chunk(b"IEND", b"")
        )
    _, valid = read_pixels(path).for_model()
    assert valid is not None
    assert np.array_equal(~valid, void)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("values", [np.uint16, np.uint8])
@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 3), (9, 8, 4)])
def test_a_kind_is_that_of_the_pixels(values, shape, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros(shape, values))
    kind, pixels = read_kind(tmp_path / "a.png"), read_pixels(tmp_path / "a.png")
    assert (kind.channels, kind.dtype) == (pixels.channels, pixels.values.dtype.name)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize(
    "exif",
    [b"II", b"Exif\0\0MM\0*", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01", bytes(40)],
)  # fmt: skip
def test_a_broken_exif_chunk_hides_no_pixels(tmp_path, suffix, exif):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8))
    options = {"lossless": True} if suffix == ".webp" else {}
    plain = saved(tmp_path / f"plain{suffix}", picture, **options)
    broken = saved(tmp_path / f"broken{suffix}", picture, exif=exif, **options)
    assert broken.stat().st_size > plain.stat().st_size
    assert np.array_equal(read_picture(broken), read_picture(plain))
    assert np.array_equal(decode_pixels(broken.read_bytes(), 10**6).values, read_picture(plain))
    assert np.array_equal(read_raw_mask(broken), read_raw_mask(plain))
    assert exif_orientation(broken) == 1


def _png_of(*sizes: tuple[int, int], bits: int) -> bytes:
    """A PNG with a header for each size, one after the other."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    headers = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, 2, 0, 0, 0)) for size in sizes)
    rows = zlib.compress(bytes(8 * (1 + 8 * 3 * bits // 8)))
    return b"\x89PNG\r\n\x1a\n" + headers + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_with_two_headers_never_becomes_larger_than_allowed(bits):
    large, small = (30_000, 30_000), (8, 8)
    assert decode_pixels(_png_of(small, bits=bits), 100).values.shape == (8, 8, 3)
    with pytest.raises(TooLarge, match="30000×30000"):
        decode_pixels(_png_of(small, large, bits=bits), 100)
    if bits == 8:  # Pillow takes the last header for the pixels, too
        assert decode_pixels(_png_of(large, small, bits=bits), 100).values.shape == (8, 8, 3)
    else:
        with pytest.raises(AtrousError, match="damaged"):
            decode_pixels(_png_of(large, small, bits=bits), 100)
