"""data/pictures.py: every kind of picture becomes what a viewer shows, in the builds, evaluation and training alike.

Expected pixels are computed from the arrays that a test writes into its files.
"""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from data.canvas import decode
from data.pictures import PictureError, open_rgb, picture_size, read_file, to_rgb, upright_box
from eval.items import open_picture
from tests.captioned_pictures import PHOTOS
from tests.pictures import picture
from train.encode import image_size, open_image

GREY = np.linspace(0, 255, 60 * 40).reshape(40, 60).round().astype(np.uint8)
COLOUR = np.asarray(picture(60, 40))
ALPHA = np.tile(np.linspace(0, 255, 60).round().astype(np.uint8), (40, 1))


def stored(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey_of(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.uint8)[..., None].repeat(3, 2)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(height, width, 3), not rounded."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def png16(values: np.ndarray, transparent: int | None = None) -> bytes:
    """A grey PNG of 16 bits (by hand: Pillow writes no transparent colour of 16 bits)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + colour + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, sample_format: int, photometric: int = 1, bits: int | None = None) -> bytes:
    """A grey TIFF without compression, by hand: numbers of any kind, white or black at zero."""
    pixels = values.tobytes()
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, bits or 8 * values.itemsize), (259, 1)]
    tags += [(262, photometric), (273, 8), (277, 1), (278, values.shape[0]), (279, len(pixels)), (339, sample_format)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + directory + bytes(4)


def packed12(values: np.ndarray) -> np.ndarray:
    """Numbers of 12 bits, two in three bytes, as TIFF packs them; (height, bytes)."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    return (
        np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2).reshape(len(values), -1).astype("u1")
    )


def kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Name -> (file, the pixels that it shows)."""
    wide = GREY.astype(np.int64) * 257
    some = np.arange(40 * 60).reshape(40, 60)
    alpha_png = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    flat = on_white(COLOUR, ALPHA)
    palette = Image.fromarray(COLOUR).quantize(16)
    see_through = palette.getpixel((3, 3))
    palette_shown = np.asarray(palette.convert("RGB")).copy()
    palette_shown[np.asarray(palette) == see_through] = 255
    one = Image.fromarray(COLOUR)
    one.putpixel((5, 6), (1, 2, 3))
    one_shown = np.asarray(one).copy()
    one_shown[(one_shown == (1, 2, 3)).all(2)] = 255
    twelve = some % 4096
    packed = packed12(twelve)
    twelve_bits = tiff(packed, 1, bits=12).replace(
        struct.pack("<HHII", 256, 4, 1, 90), struct.pack("<HHII", 256, 4, 1, 60)
    )
    nothing, half = wide.copy(), (some / 4800).astype("<f4")
    nothing[0, 0] = 300
    return {
        "16 bits, PNG": (png16(wide), grey_of(GREY)),
        "16 bits, dark": (png16(some), grey_of(some / 257)),
        "16 bits, PNG, with a transparent value": (png16(nothing, 300), grey_of(np.where(nothing == 300, 255, GREY))),
        "16 bits, TIFF": (stored(Image.fromarray(wide.astype(np.uint16)), "TIFF"), grey_of(GREY)),
        "16 bits, TIFF, big-endian": (stored(Image.fromarray(wide.astype(">u2")), "TIFF"), grey_of(GREY)),
        "16 bits, white is zero": (tiff(wide.astype("<u2"), 1, 0), grey_of(255 - GREY.astype(int))),
        "16 bits with a sign": (tiff((wide // 2).astype("<i2"), 2), grey_of(wide // 2 / 257)),
        "16 bits, PGM": (b"P5 60 40 65535\n" + wide.astype(">u2").tobytes(), grey_of(GREY)),
        "12 bits of 16, PGM": (b"P5 60 40 4095\n" + twelve.astype(">u2").tobytes(), grey_of(twelve / 4095 * 255)),
        "12 bits, TIFF": (twelve_bits, grey_of(twelve / 4095 * 255)),
        "16 bits in 32": (stored(Image.fromarray(wide.astype(np.int32), "I"), "TIFF"), grey_of(GREY)),
        "8 bits in 32": (stored(Image.fromarray(GREY.astype(np.int32), "I"), "TIFF"), grey_of(GREY)),
        "32 bits": (tiff((some * 800_000 - 7).astype("<i4"), 2), grey_of(some / some.max() * 255)),
        "32 bits without a sign": (tiff((some * 1_700_000).astype("<u4"), 1), grey_of(some / some.max() * 255)),
        "floats to 1": (stored(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"), grey_of(GREY)),
        "floats to 0.5": (tiff(half, 3), grey_of(half.astype(float) * 255)),
        "floats to 255": (stored(Image.fromarray(GREY.astype(np.float32)), "TIFF"), grey_of(GREY)),
        "floats, white is zero": (tiff((GREY / 255).astype("<f4"), 3, 0), grey_of(255 - GREY.astype(int))),
        "floats beyond": (tiff((some * 3.5 - 900).astype("<f4"), 3), grey_of(some / some.max() * 255)),
        "RGBA": (stored(alpha_png, "PNG"), flat),
        "RGBA, WebP": (stored(alpha_png, "WEBP", lossless=True, exact=True), flat),
        "RGBA, opaque": (stored(Image.fromarray(np.dstack([COLOUR, np.full_like(ALPHA, 255)])), "PNG"), COLOUR),
        "LA": (stored(Image.fromarray(np.dstack([GREY, ALPHA])), "PNG"), on_white(grey_of(GREY), ALPHA)),
        "palette": (stored(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "palette with a transparent colour": (stored(palette, "PNG", transparency=see_through), palette_shown),
        "GIF with a transparent colour": (stored(palette, "GIF", transparency=see_through), palette_shown),
        "RGB with a transparent colour": (stored(one, "PNG", transparency=(1, 2, 3)), one_shown),
        "L with a transparent value": (
            stored(Image.fromarray(GREY), "PNG", transparency=7),
            grey_of(np.where(GREY == 7, 255, GREY)),
        ),
        "RGB": (stored(Image.fromarray(COLOUR), "PNG"), COLOUR),
        "L": (stored(Image.fromarray(GREY), "PNG"), grey_of(GREY)),
        "1": (stored(Image.fromarray(GREY > 99), "PNG"), grey_of(255 * (GREY > 99))),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_shows_its_content_the_same_everywhere(kind, tmp_path):
    content, expected = kinds()[kind]
    path = tmp_path / "picture"
    path.write_bytes(content)
    ways = {
        "evaluation": open_picture({"type": "image", "path": path})[0],
        "an open picture": open_picture({"type": "image", "picture": Image.open(path)})[0],
        "training": open_image(path),
        "build": decode(content, side=300),
    }
    tolerance = 1 if np.asarray(expected).dtype != np.uint8 else 0  # what Pillow rounds while it blends
    for way, shown in ways.items():
        assert (shown.mode, shown.size) == ("RGB", (60, 40)), way
        assert np.abs(np.asarray(shown).astype(float) - expected).max() <= tolerance, way


def test_ordinary_pictures_are_pillows_to_the_last_bit():
    photo = Image.open(PHOTOS / "cat.jpg")
    cases = [photo, photo.convert("L"), photo.quantize(200), photo.convert("1"), photo.convert("CMYK")]
    for case in [*cases, photo.convert("YCbCr"), photo.convert("HSV")]:
        assert to_rgb(case).tobytes() == case.convert("RGB").tobytes(), case.mode


def test_lab_is_shown_in_its_colours():
    photo = Image.open(PHOTOS / "cat.jpg").convert("RGB")
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(photo, *profiles, outputMode="LAB")
    shown = np.asarray(open_rgb(stored(lab, "TIFF"))).astype(int)
    assert np.abs(shown - np.asarray(photo)).mean() < 2


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels -> upright, by what EXIF's standard says of row 0 and column 0."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return array[rows, columns]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "16 bits", "RGBA"])
def test_pictures_are_turned_upright_once(orientation, form, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    arrays = {"16 bits": GREY.astype(np.uint16) * 257, "RGBA": np.dstack([COLOUR, np.full_like(ALPHA, 255)])}
    content = stored(Image.fromarray(arrays.get(form, COLOUR)), "TIFF" if form == "TIFF" else "PNG", exif=exif)
    path = tmp_path / "picture"
    path.write_bytes(content)
    expected = turned(grey_of(GREY) if form == "16 bits" else COLOUR, orientation)
    shown = open_rgb(content)
    assert np.array_equal(np.asarray(shown), expected)
    assert np.array_equal(np.asarray(to_rgb(shown)), expected)
    assert np.array_equal(np.asarray(open_image(path)), expected)
    assert np.array_equal(np.asarray(open_picture({"type": "image", "path": path})[0]), expected)
    assert picture_size(content) == picture_size(path) == shown.size == image_size(path)[::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_pictures(orientation):
    array = np.zeros((40, 60), np.uint8)
    array[5:12, 20:50] = 1
    upright = turned(array, orientation)
    rows, columns = np.nonzero(upright)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert upright_box([20, 5, 50, 12], upright.shape[::-1], orientation) == box


NOT_FINITE = np.full((4, 4), np.nan, "<f4")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no picture"),
        (b"<html>404</html>", "no picture"),
        (stored(Image.effect_noise((300, 300), 50), "JPEG")[:9000], "truncated"),
        (tiff(NOT_FINITE, 3), "holds values that are not finite"),
        (tiff(np.full((4, 4), -5, "<i4"), 2), "all its values are -5"),
        (stored(Image.new("1", (20_000, 20_000)), "PNG"), "decompression bomb"),
    ],
)
def test_what_cannot_be_shown_is_an_error_of_one_line(content, reason, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for read in (
        lambda: open_rgb(content),
        lambda: open_picture({"type": "image", "path": path}),
        lambda: open_image(path),
    ):
        with pytest.raises(Exception, match=reason) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert " at 0x" not in str(caught.value)
    with pytest.raises(ValueError, match="undecodable"):
        decode(content, side=300)


def test_what_is_no_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, told in (
        (tmp_path / "pipe.jpg", "a device or a pipe"),
        (tmp_path, "a folder"),
        ("/dev/zero", "a device"),
    ):
        for read in (read_file, open_image, lambda path: open_picture({"type": "image", "path": path})):
            with pytest.raises(Exception, match=told):
                read(path)
        with pytest.raises(PictureError):
            picture_size(path)
