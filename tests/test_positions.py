"""The method as a pure function, against positions worked out by hand and by a plain loop."""

import pytest
import torch

from models.positions import balanced_position_ids, segment_ids


def by_loop(image_ids: list[int], mask: list[int]) -> list[int]:
    positions, position, previous = [], -1, 0
    for image, attended in zip(image_ids, mask, strict=True):
        if attended:
            position += not (image and image == previous)
            previous = image
        positions.append(position if attended else 0)
    return positions


@pytest.mark.parametrize(
    ("image_ids", "mask", "expected"),
    [
        ([0, 0, 0], None, [0, 1, 2]),
        ([0, 1, 1, 1, 0, 0], None, [0, 1, 1, 1, 2, 3]),
        ([1, 1, 0], None, [0, 0, 1]),
        ([0, 1, 1, 2, 2, 0], None, [0, 1, 1, 2, 2, 3]),
        ([0, 1, 1, 0, 1, 1], None, [0, 1, 1, 2, 3, 3]),
        ([0, 0, 0, 7, 7, 0], [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 2]),
        ([0, 7, 7, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 1, 1, 2, 0, 0]),
        ([0, 3, 0, 3, 0, 0], [1, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 2]),
        ([0, 0, 0], [0, 0, 0], [0, 0, 0]),
        ([5, 5, 5], [0, 1, 1], [0, 0, 0]),
    ],
)
def test_by_hand(image_ids, mask, expected):
    mask = None if mask is None else torch.tensor([mask])
    assert balanced_position_ids(torch.tensor([image_ids]), mask).tolist() == [expected]


def test_bool_mask_is_one_image_a_run():
    mask = torch.tensor([[False, True, True, False, True]])
    positions = balanced_position_ids(mask)
    assert positions.tolist() == [[0, 1, 1, 2, 3]]
    assert positions.dtype == torch.int64


def test_rows_are_independent_and_agree_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    image_ids = torch.randint(0, 3, (64, 40), generator=generator)
    mask = torch.rand(64, 40, generator=generator) < 0.8
    expected = [by_loop(*row) for row in zip(image_ids.tolist(), mask.tolist(), strict=True)]
    assert balanced_position_ids(image_ids, mask).tolist() == expected
    assert balanced_position_ids(image_ids).tolist() == [by_loop(row, [1] * 40) for row in image_ids.tolist()]


def test_compiles_without_graph_breaks_and_without_reading_values():
    compiled = torch.compile(balanced_position_ids, fullgraph=True, backend="eager")
    image_ids = torch.tensor([[0, 0, 1, 1, 2, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]])
    assert torch.equal(compiled(image_ids, mask), balanced_position_ids(image_ids, mask))
    # On the meta device any look at a value raises: nothing waits for the GPU.
    assert balanced_position_ids(image_ids.to("meta"), mask.to("meta")).shape == (1, 6)
    assert balanced_position_ids(image_ids.to("meta")).shape == (1, 6)


def test_segments_of_adjacent_images_across_rows():
    is_image = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 1]], dtype=torch.bool)
    assert segment_ids(is_image, torch.tensor([2, 1, 2, 1])).tolist() == [[0, 1, 1, 2, 0], [3, 3, 0, 0, 4]]
    assert segment_ids(is_image).tolist() == is_image.long().tolist()
