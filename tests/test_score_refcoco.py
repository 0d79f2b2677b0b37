"""Boxes in replies to RefCOCO: reading them, moving them to the original picture, hits at IoU 0.5."""

import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from eval.scorers.boxes import overlap, read_boxes, resized, to_original
from tests.scored import numbers, score, verdict

GOLD = [64, 48, 320, 240]
ROW = {"id": 1, "answer": GOLD, "image_size": [640, 480], "min_pixels": None, "max_pixels": None}
SHARES = ROW | {"coordinates": "normalized_1"}


@pytest.mark.parametrize(
    ("reply", "boxes"),
    [
        ('{"bbox_2d": [10, 20, 30, 40], "label": "a dog"}', [(10, 20, 30, 40)]),
        ('```json\n[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [1, 2, 3, 4]}]\n```', [(10, 20, 30, 40), (1, 2, 3, 4)]),
        ('Here it is:\n```\n{"objects": [{"bbox_2d": [1.5, 2, 3, 4]}]}\n```', [(1.5, 2, 3, 4)]),
        ('[{"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"bbox_2d": [5, 6', [(10, 20, 30, 40)]),
        ('[{"bbox_2d": [10, 20, 30, 4', []),
        ('{"bbox_2d": [10, 20, 30]}', []),
        ('{"bbox_2d": [[10, 20, 30, 40]]}', [(10, 20, 30, 40)]),
        ("[10, 20, 30, 40]", [(10, 20, 30, 40)]),
        ("[[10, 20, 30, 40], [1, 2, 3, 4]]", [(10, 20, 30, 40), (1, 2, 3, 4)]),
        ("(10,20),(30,40)", [(10, 20, 30, 40)]),
        ("<box>(10,20),(30,40)</box>", [(10, 20, 30, 40)]),
        ("The 2 dogs are at 10, 20, 30, 40.", [(10, 20, 30, 40)]),
        ("10 20 30 40 50", []),
        ("10, 20, 30, 40px", []),
        ("[10, 20, 30, 40", []),
        ("It is on the left.", []),
        ('{"bbox_2d": [NaN, 20, 30, 40]}', []),
        ('{"bbox_2d": [true, 20, 30, 40]}', []),
        ("[.5, .25, 1.0, 2.]", [(0.5, 0.25, 1, 2)]),
        ("[0, 0, 1e2, 2E+2]", [(0, 0, 100, 200)]),
        ("left 0 top 0 right 100 bottom 200", []),
        (f'{{"bbox_2d": [{"9" * 400}, 0, 1, 1]}}', []),
        (f"[{'9' * 400}, 0, 1, 1]", []),
        ("", []),
        ("[" * 5000, []),
        ("1 " * 5000, []),
    ],
)
def test_read_boxes(reply, boxes):
    assert read_boxes(reply) == boxes


@pytest.mark.parametrize(("low", "high"), [(3136, 12845056), (200704, 1003520), (4 * 784, 256 * 784)])
def test_resized_is_what_the_processor_does(low, high):
    for width in (1, 10, 27, 42, 70, 333, 640, 1000, 4000):
        for height in (10, 29, 56, 480, 1025, 3000):
            if max(width, height) / min(width, height) <= 200:
                tall, wide = smart_resize(height, width, factor=28, min_pixels=low, max_pixels=high)
                assert resized(width, height, low, high) == (wide, tall)


def test_coordinates_become_pixels_of_the_original():
    row = {"image_size": [2000, 1500], "coordinates": "resized_pixels", "min_pixels": 3136, "max_pixels": 256 * 784}
    # 2000 x 1500 is seen as 504 x 364.
    assert to_original((252, 91, 504, 364), row) == pytest.approx((1000, 375, 2000, 1500))
    assert to_original((100, 200, 500, 1000), row | {"coordinates": "normalized_1000"}) == (200, 300, 1000, 1500)
    assert to_original((0.5, 0.5, 1, 1), row | {"coordinates": "normalized_1"}) == (1000, 750, 2000, 1500)


def test_pixels_of_a_scaled_picture_are_no_pixels_of_the_original():
    gold = [1000, 375, 2000, 1500]
    row = {"answer": gold, "image_size": [2000, 1500], "min_pixels": 3136, "max_pixels": 256 * 784}
    row |= {"coordinates": "resized_pixels"}
    assert verdict("refcoco", "official", row | {"prediction": '{"bbox_2d": [252, 91, 504, 364]}'}).correct
    assert not verdict("refcoco", "official", row | {"prediction": f'{{"bbox_2d": {gold}}}'}).correct


def test_overlap():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert overlap((10, 10, 0, 0), (0, 0, 10, 10)) == 0, "corners swapped"
    assert overlap((5, 5, 5, 5), (0, 0, 10, 10)) == 0


@pytest.mark.parametrize(
    ("reply", "official", "lmms", "vlmevalkit"),
    [
        ("[0.1, 0.1, 0.5, 0.5]", 1, 1, 1),
        ("[0.1,0.1,0.5,0.31]", 0.525, 0.525, 0.525),
        ("[0.1, 0.1, 0.5, 0.29]", 0.475, 0.475, 0.475),
        ("(0.1, 0.1, 0.5, 0.5)", 1, None, 1),
        ("[0.1 0.1 0.5 0.5]", 1, None, 1),
        ("[0.5, 0.5, 0.1, 0.1]", 0, 0, 1),
        ("[[0.1, 0.1, 0.5, 0.5]]", 1, 1, 1),
        ("[100, 100, 500, 500]", 0, 0, 1),
        ("[64, 48, 320, 240]", 0, 0, 0.1727),
        ("[0.1, 0.1, 0.5]", None, None, None),
        ("[0.1, 0.1, 0.5, 0.5", None, None, 1),
        ("bbox_2d: 0.1, 0.1, 0.5, 0.5", 1, None, 0),
        ("no such thing", None, None, None),
        ("", None, None, None),
    ],
)
def test_three_readings_of_shares(reply, official, lmms, vlmevalkit):
    """The overlap that each finds; None: no box."""
    for scorer, iou in (("official", official), ("lmms", lmms), ("vlmevalkit", vlmevalkit)):
        found = verdict("refcoco", scorer, SHARES | {"prediction": reply})
        assert (found.parsed is None) == (iou is None), scorer
        assert found.extra["iou"] == pytest.approx(iou or 0, abs=0.001), scorer
        assert found.correct == ((iou or 0) >= 0.5), scorer


def test_an_overlap_of_exactly_half_is_a_hit():
    row = SHARES | {"image_size": [1000, 1000], "answer": [0, 0, 100, 100], "coordinates": "normalized_1000"}
    assert verdict("refcoco", "official", row | {"prediction": "[0, 0, 50, 100]"}).correct
    assert not verdict("refcoco", "official", row | {"prediction": "[0, 0, 49, 100]"}).correct


def test_frameworks_misread_pixels_of_the_scaled_picture():
    """Above 1000 VLMEvalKit takes numbers for pixels of the original, clipped to it."""
    row = ROW | {"coordinates": "resized_pixels", "min_pixels": 3136, "max_pixels": 12845056}
    row |= {"image_size": [2000, 1500], "answer": [0, 0, 2000, 1500], "prediction": "[0, 0, 2100, 1600]"}
    assert verdict("refcoco", "vlmevalkit", row).extra["iou"] == 1
    assert verdict("refcoco", "lmms", row).extra["iou"] == 0


def test_numbers_and_several_boxes(tmp_path):
    replies = [
        "[0.1, 0.1, 0.5, 0.5]",
        "[[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]]",
        "[[0, 0, 0.01, 0.01], [0.1, 0.1, 0.5, 0.5]]",
    ]
    rows = [SHARES | {"id": k, "prediction": reply} for k, reply in enumerate([*replies, "none"])]
    assert numbers(tmp_path, "refcoco", rows) == {"accuracy": 50, "mean_iou": 50, "unreadable": 25}
    (run,) = score(tmp_path, "refcoco", rows)["runs"]
    assert "2 replies have several boxes; the first counts" in run["remarks"]
    rows = [row | {"split": split} for row, split in zip(rows, ("val", "val", "val", "testA"), strict=True)]
    found = numbers(tmp_path, "refcoco", rows)
    assert found["val_accuracy"] == pytest.approx(200 / 3, abs=1e-5)
    assert found["mean_over_splits"] == pytest.approx(100 / 3, abs=1e-5)


def test_two_models_may_answer_in_different_coordinates(tmp_path):
    first = [SHARES | {"prediction": "[0.1, 0.1, 0.5, 0.5]"}]
    second = [first[0] | {"coordinates": "normalized_1000", "prediction": "[100, 100, 500, 500]"}]
    found = score(tmp_path, "refcoco", first, second)
    assert found["comparison"]["numbers"]["accuracy"]["value"] == 0
    assert found["comparison"]["mcnemar"]["accuracy"]["p"] == 1
