import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from eval.heatmaps import DPI, PANEL_HEIGHT, PANEL_WIDTH, Panel, _contrasting, _scale, fit, probe_heatmaps
from models.errors import InputError

CELLS = np.array([[80.0, 85, 90], [70, 75, 80], [60, 65, 70]])


def draw(path, *panels):
    probe_heatmaps(panels, path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def panel(cells=CELLS, **more):
    return Panel("off", "mean 75.00 %, variance 83.33 %²", cells, **more)


def colour_of(picture, row, column, panels=1, index=0, grid=3):
    """The colour at the left edge of a cell, half-way down, where nothing is written."""
    side = 0.9 * PANEL_WIDTH * DPI / grid
    left = (index + 0.05) * PANEL_WIDTH * DPI + column * side
    top = picture.shape[0] - 0.66 * DPI - 0.9 * PANEL_WIDTH * DPI + row * side
    return picture[int(top + side * 0.65), int(left + side * 0.06)]


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_size(tmp_path, panels):
    picture = draw(tmp_path / "h.png", *[panel()] * panels)
    assert picture.shape == (round(PANEL_HEIGHT * DPI), round(PANEL_WIDTH * panels * DPI), 3)


def test_cells_lie_where_their_names_say_and_darken_with_accuracy(tmp_path):
    picture = draw(tmp_path / "h.png", panel())
    brightness = [[colour_of(picture, row, column).sum() for column in range(3)] for row in range(3)]
    order = np.argsort(np.ravel(brightness))
    assert order[0] == 2, "the best cell, top right, is the darkest"
    assert order[-1] == 6, "the worst cell, bottom left, is the lightest"
    assert brightness[0][0] == brightness[1][2], "equal values, equal colours"


def test_accuracy_panels_share_one_scale(tmp_path):
    picture = draw(tmp_path / "h.png", panel(), panel(CELLS[::-1]))
    np.testing.assert_array_equal(colour_of(picture, 0, 2, 2, 0), colour_of(picture, 2, 2, 2, 1))


def test_the_same_data_give_the_same_bytes_and_other_data_others(tmp_path):
    for suffix in ("png", "pdf", "svg"):
        files = [tmp_path / f"{name}.{suffix}" for name in ("a", "b", "c")]
        other = CELLS.copy()
        other[1, 1] += 0.01
        for file, cells in zip(files, (CELLS, CELLS, other), strict=True):
            probe_heatmaps([panel(cells)], file)
        assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
        assert not any(date in files[0].read_bytes() for date in (b"CreationDate", b"dc:date"))


def test_no_data_is_hatched_and_not_a_colour_of_the_scale(tmp_path):
    cells = CELLS.copy()
    cells[0, 0] = np.nan
    # The lower part of the cell, below its words.
    box = draw(tmp_path / "h.png", panel(cells))[250:310, 45:228]
    assert (box.max(axis=2) - box.min(axis=2)).max() < 10, "grey"
    assert len(np.unique(box[..., 0])) > 5, "hatched"
    assert draw(tmp_path / "none.png", panel(np.full((3, 3), np.nan))).shape == (860, 680, 3)


@pytest.mark.parametrize("grid", [2, 4, 5, 6])
def test_other_grids(tmp_path, grid):
    cells = np.linspace(50, 90, grid * grid).reshape(grid, grid)
    picture = draw(tmp_path / "h.png", panel(cells))
    first, last = colour_of(picture, 0, 0, grid=grid), colour_of(picture, grid - 1, grid - 1, grid=grid)
    assert first.sum() > last.sum()


def test_scales_do_not_blow_noise_up_and_differences_are_centred():
    _, norm = _scale([panel(np.full((3, 3), 82.2))])
    assert norm.vmax - norm.vmin == 5
    assert norm.vmin < 82.2 < norm.vmax
    _, norm = _scale([panel(np.full((3, 3), 100.0))])
    assert (norm.vmin, norm.vmax) == (95, 100)
    _, norm = _scale([panel(np.zeros((3, 3)))])
    assert (norm.vmin, norm.vmax) == (0, 5)
    _, norm = _scale([panel(CELLS - 80, diverging=True)])
    assert (norm.vmin, norm.vmax) == (-20, 20)


def test_a_difference_of_zero_is_nearly_white_and_signs_differ(tmp_path):
    cells = np.array([[-5.0, 0, 5], [0, 0, 0], [0, 0, 0]])
    picture = draw(tmp_path / "h.png", panel(cells, diverging=True))
    minus, zero, plus = (colour_of(picture, 0, column) for column in range(3))
    assert zero.min() > 230
    assert minus[0] > minus[2], "orange"
    assert plus[2] > plus[0], "purple"


@pytest.mark.parametrize("colour", ["#ffffd9", "#1d91c0", "#081d58", "#7f3b08", "#b35806", "#777777"])
def test_ink_has_the_better_contrast(colour):
    def luminance(rgb):
        return sum(
            weight * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for weight, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)
        )

    def contrast(ink):
        low, high = sorted((luminance(to_rgb(ink)), luminance(to_rgb(colour))))
        return (high + 0.05) / (low + 0.05)

    assert contrast(_contrasting(to_rgb(colour))) == max(contrast("white"), contrast("black")) > 4.5


def test_labels_of_users_are_text_and_not_formulas_and_long_ones_shrink(tmp_path):
    draw(tmp_path / "h.png", Panel(r"$\off{$ x", "a $ b", CELLS))
    assert fit("off", 13) == 13
    assert fit("x" * 80, 13) < 6


def test_other_suffixes_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"h\.jpg: a picture's name must end in \.png, \.pdf, \.svg"):
        probe_heatmaps([panel()], tmp_path / "h.jpg")
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match="cannot be written"):
        probe_heatmaps([panel()], tmp_path / "file" / "h.png")


def test_scoring_and_plotting_need_no_torch_and_no_display():
    code = "import sys, eval.metrics; sys.exit(bool({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
