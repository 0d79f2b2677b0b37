"""data/draw_canvases.py: what an interrupted build left, whole or damaged, ends as the canvases of an unbroken one."""

import pytest

from data.canvas import decode, draw_canvas, encode, fit, make_layout
from data.draw_canvases import Task, draw
from tests.captioned_pictures import PHOTOS

LAYOUT = make_layout(2, 200, None, 4, 8)
PICTURES = sorted(PHOTOS.glob("*.jpg"))[:4]


@pytest.fixture
def task(tmp_path):
    (tmp_path / "images").mkdir()
    return Task(PICTURES, {k: tmp_path / "images" / f"{k}.jpg" for k in range(4)})


def expected(k: int) -> bytes:
    target, *others = [fit(decode(path.read_bytes(), LAYOUT.cell), LAYOUT.cell) for path in PICTURES]
    return encode(draw_canvas(LAYOUT, target, others, k), LAYOUT)


def check(task: Task) -> None:
    for k, path in task.canvases.items():
        assert path.read_bytes() == expected(k)


def test_canvases_are_those_of_each_drawn_alone(task, tmp_path):
    draw(LAYOUT, [task], tmp_path / "fitted", 1)
    check(task)
    assert len(list((tmp_path / "fitted").iterdir())) == 4


def test_what_is_whole_stays_and_what_is_not_is_drawn_again(task, tmp_path):
    draw(LAYOUT, [task], tmp_path / "fitted", 1)
    task.canvases[0].write_bytes(expected(0)[:-100])
    task.canvases[1].write_bytes(b"")
    task.canvases[3].unlink()
    kept = task.canvases[2].stat().st_mtime_ns
    draw(LAYOUT, [task], tmp_path / "fitted", 1)
    check(task)
    assert task.canvases[2].stat().st_mtime_ns == kept


def test_damaged_pixels_are_fitted_again(task, tmp_path):
    draw(LAYOUT, [task], tmp_path / "fitted", 1)
    first, second, *_ = sorted((tmp_path / "fitted").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    for path in task.canvases.values():
        path.unlink()
    draw(LAYOUT, [task], tmp_path / "fitted", 1)
    check(task)
