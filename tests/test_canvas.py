"""Canvases and pictures to the pixel: cells, fitting, decoding."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from data import build_probe, build_similarity
from data.canvas import PictureError, cell_corners, decode, draw_canvas, fit, make_layout, move_target, paper_layout
from models.errors import InputError
from tests.captioned_pictures import PHOTOS, difference, write_captions

# Left and right of the cells on the canvases that the paper's authors published.
PUBLISHED = [(8.4, 277.2), (285.6, 554.4), (562.8, 831.6)]


def edges(darkness: np.ndarray) -> list[tuple[float, float]]:
    """Where a line of pixels, 0 white to 1 black, crosses one half, between pixels: (start, end) of each dark part."""
    places = np.arange(len(darkness)) + 0.5
    above = darkness > 0.5
    crossings = [
        places[i] + (0.5 - darkness[i]) / (darkness[i + 1] - darkness[i])
        for i in np.flatnonzero(above[1:] != above[:-1])
    ]
    return list(zip(crossings[::2], crossings[1::2], strict=True))


@pytest.fixture(scope="module")
def paper_build(tmp_path_factory):
    """Builds with the default flags of dark squares; for the similarity set of a wide picture, too."""
    folder = tmp_path_factory.mktemp("paper")
    pairs = [(encoded(Image.new("RGB", (300, 300), (0, 0, index)), "PNG"), f"caption {index}") for index in range(9)]
    wide = (encoded(Image.new("RGB", (400, 100), (0, 9, 0)), "PNG"), "wide")
    for kind, shown in ((build_probe, pairs), (build_similarity, [*pairs, wide])):
        source = write_captions(folder / f"{kind.__name__} source", shown)
        words = ["--source", source, "--output_dir", folder / kind.__name__, "--num_captions", len(shown)]
        kind.main([*map(str, words), "--workers", "1"])
    return folder


def test_a_build_has_the_cells_of_the_published_canvases(paper_build):
    """To half a pixel, seen in the decoded file."""
    canvas = Image.open(paper_build / "data.build_probe" / "images" / "000000_0.jpg")
    assert canvas.size == (840, 840)
    darkness = 1 - np.asarray(canvas.convert("L"), float) / 255
    for start, end in PUBLISHED:
        middle = round((start + end) / 2)
        assert np.allclose(edges(darkness[middle]), PUBLISHED, atol=0.5)
        assert np.allclose(edges(darkness[:, middle]), PUBLISHED, atol=0.5)


def test_the_similarity_set_has_the_same_cells_and_pictures_in_their_middle(paper_build):
    folder = paper_build / "data.build_similarity"
    rows = [json.loads(line) for line in (folder / "similarity.jsonl").read_text().splitlines()]
    for row in rows:
        cell = int(row["id"].split("_")[1])
        darkness = 1 - np.asarray(Image.open(folder / "images" / row["image"]).convert("L"), float) / 255
        (top, bottom), (left, right) = PUBLISHED[cell // 3], PUBLISHED[cell % 3]
        if row["caption"] == "wide":
            top, bottom = (top + bottom) / 2 - 268.8 / 8, (top + bottom) / 2 + 268.8 / 8
        assert np.allclose(edges(darkness[round((top + bottom) / 2)]), [(left, right)], atol=0.5)
        assert np.allclose(edges(darkness[:, round((left + right) / 2)]), [(top, bottom)], atol=0.5)


def test_a_build_is_jpeg_of_quality_75_with_halved_colours(paper_build):
    path = next((paper_build / "data.build_probe" / "images").iterdir())
    canvas = Image.open(path)
    assert (
        canvas.quantization
        == Image.open(io.BytesIO(encoded(Image.new("RGB", (8, 8)), "JPEG", quality=75))).quantization
    )
    # The standard's table of luminance (Annex K), of which quality 75 is the half.
    assert canvas.quantization[0][:3] == [8, 6, 5]
    frame = path.read_bytes().partition(b"\xff\xc0")[2]  # length, precision, height, width, components
    assert [frame[9 + 3 * component] for component in range(3)] == [0x22, 0x11, 0x11]


def test_the_manifest_says_the_layout(paper_build):
    identity = json.loads((paper_build / "data.build_probe" / "manifest.json").read_text())["identity"]
    sizes = {"layout": "paper", "grid": 3, "canvas": 840, "drawn_on": 800, "cell": 256, "gap": 8, "border": 8}
    assert identity.items() >= (sizes | {"enlarged_with": "bicubic", "jpeg_quality": 75}).items()


@pytest.mark.parametrize("grid", [2, 3, 4, 5, 6])
def test_equal_parts_of_the_papers_canvas_cut_no_cell(grid):
    """What is drawn and counted by cells (heat maps, perception's shares, frames on a page) takes equal parts."""
    layout = paper_layout(grid)
    starts = sorted({left for left, _ in cell_corners(layout)})
    for part, left in enumerate(starts):
        assert part * 800 / grid <= left
        assert left + layout.cell <= (part + 1) * 800 / grid


@pytest.mark.parametrize("sizes", [["--canvas", "840"], ["--cell", "272"], ["--gap", "4"], ["--border", "8"]])
def test_the_papers_layout_takes_no_sizes(sizes, tmp_path):
    with pytest.raises(
        InputError, match=f"{sizes[0]} {sizes[1]}: the paper's layout has sizes of its own; give --layout"
    ):
        build_probe.main(["--source", str(tmp_path), "--output_dir", str(tmp_path / "out"), *sizes])


def test_the_even_canvas_to_the_pixel():
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
