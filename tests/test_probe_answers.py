import json

import pytest

from data.grid import cell_names
from eval.answers import read_yes_no
from eval.probe_answers import pair, read_answers, to_replies
from eval.probe_statistics import NO, UNREADABLE, YES
from models.errors import InputError


def row(**fields):
    return {
        "id": "000001_4",
        "image": "000001_4.jpg",
        "caption": "a red bus",
        "position": "center",
        "answer": "Yes",
        "prediction": "Yes.",
        "prompt": "?",
    } | fields


def without(name, **fields):
    return {key: value for key, value in row(**fields).items() if key != name}


def write(path, rows):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return str(path)


def read(path, rows):
    return read_answers(write(path, rows), read_yes_no)


def test_rows_become_arrays(tmp_path):
    answers = read(
        tmp_path / "a.jsonl",
        [
            row(id="b_0", image="folder/b_0.jpg", position="top_left", prediction="No"),
            row(id="b_0_no", image="b_0.jpg", position="top_left", answer="No", prediction="No."),
            row(id="a_8", image="a_8.png", position="bottom_right", prediction="perhaps"),
        ],
    )
    replies = to_replies(answers)
    assert (answers.grid, replies.captions, replies.cells) == (3, 2, 9)
    assert replies.caption.tolist() == [1, 1, 0], "captions are numbered by name, whatever the order of the file"
    assert replies.cell.tolist() == [0, 0, 8]
    assert replies.positive.tolist() == [True, False, True]
    assert replies.reply.tolist() == [NO, NO, UNREADABLE]
    assert replies.correct.tolist() == [False, True, False]


def test_the_papers_answers_with_integer_ids_that_repeat_over_the_cells(tmp_path):
    rows = [
        row(id=19920000, image=f"019920000_{k}.jpg", position=name, answer="yes")
        for k, name in enumerate(cell_names(3))
    ]
    replies = to_replies(read(tmp_path / "a.jsonl", rows))
    assert (replies.captions, len(replies.reply)) == (1, 9)
    assert set(replies.reply) == {YES}


@pytest.mark.parametrize("grid", [2, 4, 6])
def test_other_grids(tmp_path, grid):
    rows = [row(id=f"1_{k}", image=f"1_{k}.jpg", position=name) for k, name in enumerate(cell_names(grid))]
    answers = read(tmp_path / "a.jsonl", rows)
    assert answers.grid == grid
    assert to_replies(answers).cell.tolist() == list(range(grid * grid))


def test_error_rows_are_kept_apart(tmp_path):
    answers = read(tmp_path / "a.jsonl", [row(), without("prediction", id="x", position="left", error="truncated")])
    assert list(answers.replies) == [("000001_4", "center", "Yes")]
    assert answers.errors == {("x", "left", "Yes"): "000001"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row()], "line 2: the same item as line 1"),
        ([row(), row(id="other")], "line 2: caption '000001' has a positive at center on line 1"),
        ([row(position="middle")], "line 1: unknown position 'middle'; known are top_left"),
        ([row(), row(position="row1_col2")], "line 2: position 'row1_col2' and those before it are not of one grid"),
        ([without("id")], "line 1: no field 'id'"),
        ([row(), without("position")], "line 2: no field 'position'"),
        ([without("image")], "line 1: no field 'image'"),
        ([without("answer")], "line 1: no field 'answer'"),
        ([without("prediction")], "line 1: no field 'prediction'; give the answers"),
        ([row(prediction=None)], "line 1: field 'prediction' must be the reply, a string"),
        ([row(answer=True)], "line 1: field 'answer' must be a string"),
        ([row(answer="Maybe")], "line 1: answer 'Maybe' is neither"),
        ([row(id=True)], "line 1: field 'id' must be a string or an integer"),
        ([row(id=["a"])], "line 1: field 'id' must be a string or an integer"),
        ([without("prediction", error="gone")], "no row to score, all 1 are errors"),
        ([], "empty"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    with pytest.raises(InputError, match="a.jsonl") as caught:
        read(tmp_path / "a.jsonl", rows)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lines_are_counted_with_the_blank_ones(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(row()) + "\n\n" + json.dumps(row()) + "\n")
    with pytest.raises(InputError, match="line 4: the same item as line 2"):
        read_answers(str(tmp_path / "a.jsonl"), read_yes_no)


def test_pairing_puts_both_in_one_order_and_leaves_errors_of_either_out_of_both(tmp_path):
    rows = [row(id=f"1_{k}", image=f"1_{k}.jpg", position=name) for k, name in enumerate(cell_names(3))]
    failed = without("prediction", error="truncated", **{key: rows[3][key] for key in ("id", "image", "position")})
    first = read(tmp_path / "a.jsonl", rows)
    second = read(tmp_path / "b.jsonl", [*rows[:3], failed, *rows[4:]][::-1])
    first, second = pair(first, second)
    assert list(first.replies) == list(second.replies)
    assert [item[0] for item in first.replies] == [f"1_{k}" for k in (0, 1, 2, 4, 5, 6, 7, 8)]
    assert (first.left_out, second.left_out) == (1, 0)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([row()], "1 are only in the first and 0 only in the second; first, .*a.jsonl alone has id '2', position left"),
        ([row(), row(id="2", position="left"), row(id="3", position="right")], "0 are only .* 1 only .*b.jsonl alone"),
        ([row(), row(id="2", position="left", image="9_3.jpg")], "1 are only in the first and 1 only in the second"),
    ],
)
def test_files_with_other_items_are_refused(tmp_path, second, message):
    first = read(tmp_path / "a.jsonl", [row(), row(id="2", position="left")])
    with pytest.raises(InputError, match=message):
        pair(first, read(tmp_path / "b.jsonl", second))


def test_files_that_share_no_scored_item_are_refused(tmp_path):
    def failed(name, position):
        return without("prediction", id=name, position=position, error="truncated")

    first = read(tmp_path / "a.jsonl", [row(id="1"), failed("2", "left")])
    second = read(tmp_path / "b.jsonl", [failed("1", "center"), row(id="2", position="left")])
    with pytest.raises(InputError, match="no item was scored in both"):
        pair(first, second)
