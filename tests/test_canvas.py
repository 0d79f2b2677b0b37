"""Canvases and pictures to the pixel: cells, fitting, decoding."""

import io

import pytest
from PIL import Image, ImageChops, ImageDraw

from data.canvas import PictureError, cell_corners, decode, draw_canvas, fit, make_layout, move_target
from tests.captioned_pictures import PHOTOS, difference


def test_the_papers_canvas_to_the_pixel():
    layout = make_layout(grid=3, canvas=840, cell=None, gap=4, border=8)
    assert layout.cell == 272
    cells = [(left, top) for top in (8, 284, 560) for left in (8, 284, 560)]
    assert cell_corners(layout) == cells
    expected = Image.new("RGB", (840, 840), "white")
    colours = ["red", "green", "blue", "black", "cyan", "magenta", "yellow", "gray", "navy"]
    squares = [Image.new("RGB", (272, 272), colour) for colour in colours]
    for k in range(9):
        others = [cell for index, cell in enumerate(cells) if index != k]
        for (left, top), colour in zip([cells[k], *others], colours, strict=True):
            ImageDraw.Draw(expected).rectangle((left, top, left + 271, top + 271), fill=colour)
        assert draw_canvas(layout, squares[0], squares[1:], k).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("grid", "cell", "first", "last_end"), [(2, 410, 8, 832), (4, 203, 8, 832), (5, 161, 9, 830), (6, 134, 8, 832)]
)
def test_other_grids_get_the_largest_cells_that_fit(grid, cell, first, last_end):
    layout = make_layout(grid, 840, None, 4, 8)
    corners = cell_corners(layout)
    assert (layout.cell, corners[0], len(set(corners))) == (cell, (first, first), grid * grid)
    assert corners[-1][0] + cell == last_end
    assert corners[1] == (first + cell + 4, first)


@pytest.mark.parametrize(("size", "fitted"), [((400, 100), (272, 68)), ((100, 400), (68, 272)), ((50, 50), (272, 272))])
def test_pictures_keep_their_aspect_and_stand_in_the_middle(size, fitted):
    layout = make_layout(3, 840, 272, 4, 8)
    picture = fit(Image.new("RGB", size, "black"), layout.cell)
    assert picture.size == fitted
    canvas = draw_canvas(layout, picture, [], 4)
    box = ImageChops.invert(canvas).getbbox()
    assert box[:2] == (284 + (272 - fitted[0]) // 2, 284 + (272 - fitted[1]) // 2)
    assert (box[2] - box[0], box[3] - box[1]) == fitted


@pytest.mark.parametrize("others", [8, 3, 0])
def test_moving_the_target_is_drawing_anew(others):
    layout = make_layout(3, 840, None, 4, 8)
    sizes = [(272, 100), (90, 272), (272, 272), (272, 200), (272, 5), (140, 272), (272, 30), (1, 272), (272, 250)]
    pictures = [Image.linear_gradient("L").resize(size).convert("RGB") for size in sizes]
    target, distractors = pictures[0], pictures[1 : 1 + others]
    canvas = draw_canvas(layout, target, distractors, 0)
    for k in range(1, 9):
        move_target(canvas, layout, target, distractors, k)
        assert canvas.tobytes() == draw_canvas(layout, target, distractors, k).tobytes(), k


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_every_mode_of_picture_becomes_upright_rgb_on_white():
    photo = Image.open(PHOTOS / "cat.jpg").convert("RGB")
    half = photo.copy()
    half.putalpha(Image.linear_gradient("L").resize(photo.size).point(lambda value: 255 * (value > 127)))
    flat = Image.new("RGB", photo.size, "white")
    flat.paste(photo, mask=half.getchannel("A"))
    grey, grey16 = photo.convert("L"), photo.convert("I").point(lambda value: value * 257)
    palette = half.convert("P")
    palette_flat = Image.new("RGBA", photo.size, "white")
    palette_flat.alpha_composite(palette.convert("RGBA"))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned 90 degrees clockwise
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    cases = {
        "RGBA": (encoded(half, "PNG"), flat),
        "LA": (encoded(half.convert("LA"), "PNG"), flat.convert("L").convert("RGB")),
        "P": (encoded(photo.quantize(256), "PNG"), photo.quantize(256).convert("RGB")),
        "P with alpha": (encoded(palette, "PNG"), palette_flat.convert("RGB")),
        "L": (encoded(grey, "PNG"), grey.convert("RGB")),
        "1": (encoded(photo.convert("1"), "PNG"), photo.convert("1").convert("RGB")),
        "I;16": (encoded(grey16.convert("I;16"), "PNG"), grey.convert("RGB")),
        "I;16 TIFF": (encoded(grey16.convert("I;16"), "TIFF"), grey.convert("RGB")),
        "CMYK": (encoded(photo.convert("CMYK"), "JPEG", quality=95), photo),
        "turned": (encoded(turned, "JPEG", exif=exif, quality=95), photo),
        "WebP": (encoded(photo, "WEBP", lossless=True), photo),
    }
    for name, (content, expected) in cases.items():
        picture = decode(content, side=1000)
        assert (picture.mode, picture.size) == ("RGB", expected.size), name
        assert difference(picture, expected) < 3, name


def test_large_jpegs_are_decoded_small_but_never_below_twice_the_cell():
    photo = Image.open(PHOTOS / "coffee.jpg").resize((4096, 2720))
    content = encoded(photo, "JPEG")
    assert min(decode(content, side=272).size) == 2720 // 4
    assert difference(fit(decode(content, side=272), 272), fit(photo, 272)) < 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "undecodable"),
        (b"<html>not found</html>", "undecodable"),
        (encoded(Image.effect_noise((300, 300), 50), "JPEG")[:9000], "undecodable"),
        (encoded(Image.effect_noise((300, 300), 50), "PNG")[:9000], "undecodable"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "undecodable"),
        (encoded(Image.new("RGB", (300, 31)), "PNG"), "too_small"),
    ],
)
def test_unusable_pictures_have_a_reason(content, reason):
    with pytest.raises(PictureError, match=reason):
        decode(content, side=272, min_side=32)
