"""The miniature world: what is drawn is what is said, test captions are new, and no cell is favoured."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.build_miniature import main
from data.grid import cell_names
from data.instructions import read_samples
from data.miniature_conversations import CELL, MATCH, NOWHERE, PLACE, converse, plan_canvases
from data.miniature_world import BACKGROUNDS, COLOURS, SHADE, all_concepts, concepts, draw_picture
from eval.probe import PROMPT
from models.errors import InputError

SMALL = ["--pictures", "2", "--test_pictures", "1", "--captions", "18", "--scenes", "90", "--instructions", "90"]
SMALL += ["--probe_captions", "12", "--workers", "1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("miniature") / "data"
    main(["--output_dir", str(folder), *SMALL])
    return folder


def test_the_split_is_by_combination():
    train, test = concepts("train"), concepts("test")
    assert len(train) + len(test) == len(set(train) | set(test)) == len(all_concepts())
    assert 0.15 < len(test) / len(all_concepts()) < 0.25
    for first, second in itertools.combinations(range(4), 2):
        pairs = {(concept[first], concept[second]) for concept in all_concepts()}
        for part in (train, test):
            assert {(concept[first], concept[second]) for concept in part} == pairs
    words = {word for concept in train for word in concept.caption.split()}
    assert all(set(concept.caption.split()) <= words for concept in test)


@pytest.mark.parametrize("concept", [concept for concept in all_concepts() if concept.colour in ("red", "blue")])
def test_a_picture_holds_what_its_caption_says(concept):
    """Counted in the pixels: the corners are background, and as many pieces of the colour as are said."""
    pixels = np.asarray(draw_picture(concept, random.Random(str(concept)))).astype(int)
    for corner in (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]):
        assert np.abs(corner - BACKGROUNDS[concept.background]).max() <= SHADE
    assert pieces(np.abs(pixels - COLOURS[concept.colour]).max(-1) <= SHADE + 5) == concept.number


def pieces(mask: np.ndarray) -> int:
    """Connected areas of more than ten pixels."""
    left, count = {tuple(place) for place in np.argwhere(mask)}, 0
    while left:
        grown, size = [left.pop()], 0
        while grown:
            y, x = grown.pop()
            size += 1
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            grown += near
        count += size > 10
    return count


def test_no_cell_is_favoured():
    """Filled, asked about and answered equally often: in all, by kind of question, and at every turn."""
    filled, asked = Counter(), Counter()
    mix = {CELL: 1.0, PLACE: 1.0, MATCH: 1.0}
    for canvas in plan_canvases(50, len(concepts("train")), 3, [1, 3, 9], mix, random.Random(0)):
        filled.update((len(canvas.concepts), cell) for cell in canvas.concepts)
        asked.update((number, turn) for number, turn in enumerate(canvas.turns) if turn.cell is not None)
        named = [turn.cell for turn in canvas.turns if turn.cell is not None]
        assert len(named) == len(set(named))
        assert set(named) <= set(canvas.concepts)
        assert len(set(canvas.concepts.values())) == len(canvas.concepts)
    for counts, key in ((filled, lambda one: one[0]), (asked, lambda one: (one[0], one[1].kind))):
        for _, group in itertools.groupby(sorted(counts, key=key), key=key):
            numbers = [counts[one] for one in group]
            assert len(numbers) == 9
            assert len(set(numbers)) == 1


def test_answers_are_true():
    ours = concepts("train")
    captions = [concept.caption for concept in ours]
    names = [name.replace("_", " ") for name in cell_names(3)]
    kinds, before, after = Counter(), *PROMPT.split("{caption}")
    rng = random.Random(0)
    for canvas in plan_canvases(30, len(ours), 3, [1, 2, 5, 9], {CELL: 0.3, PLACE: 0.4, MATCH: 0.3}, rng):
        shown = {cell: captions[concept] for cell, concept in canvas.concepts.items()}
        for question, answer in converse(canvas, captions, 3):
            if question.startswith("What is in the "):
                kind, right = CELL, shown[names.index(question.removeprefix("What is in the ").removesuffix("?"))]
            elif question.startswith("Where is "):
                caption = question.removeprefix("Where is ").removesuffix("?")
                found = [names[cell] for cell, one in shown.items() if one == caption]
                kind, right = PLACE, found[0] if found else NOWHERE
            else:
                caption = question.removeprefix(before).removesuffix(after)
                kind, right = MATCH, "Yes" if caption in shown.values() else "No"
            assert answer == right
            kinds[kind, answer in (NOWHERE, "No")] += 1
    assert len(kinds) == 5
    assert 0.35 < kinds[MATCH, True] / (kinds[MATCH, True] + kinds[MATCH, False]) < 0.65


def test_the_files_are_those_of_the_big_data(world):
    train = {concept.caption for concept in concepts("train")}
    for name, count in (("captions", 18), ("instructions", 90)):
        samples = list(read_samples(world / f"{name}.json"))
        assert len(samples) == count
        for sample in samples:
            assert Image.open(world / "images" / sample["images"][0]).size == (144, 144)
    assert {sample["messages"][1]["content"] for sample in read_samples(world / "captions.json")} <= train
    probe = [json.loads(line) for line in (world / "probe" / "probe.jsonl").read_text().splitlines()]
    assert Counter(row["answer"] for row in probe) == {"Yes": 108, "No": 108}
    assert not {row["caption"] for row in probe} & train
    similarity = [json.loads(line) for line in (world / "similarity" / "similarity.jsonl").read_text().splitlines()]
    assert len(similarity) == 108
    manifest = json.loads((world / "manifest.json").read_text())
    assert manifest["canvases"] == 108


def test_scenes_tell_in_words_what_is_asked(world):
    rows = [json.loads(line) for line in (world / "scenes.jsonl").read_text().splitlines()]
    names = [name.replace("_", " ") for name in cell_names(3)]
    before, after = PROMPT.split("{caption}")
    kinds, captioned, asked, answered, orders = Counter(), Counter(), Counter(), Counter(), set()
    for row in rows:
        question, answer = row["question"], row["answer"]
        shown = {}
        for line in row["scene"]:
            name = max((name for name in names if line.startswith(name)), key=len)
            shown[name] = line.removeprefix(name).strip()
        assert sorted(shown) == sorted(names)
        orders.add(tuple(shown))
        captions = [caption for caption in shown.values() if caption]
        if not question:
            assert captions == [answer]
            captioned.update(name for name, caption in shown.items() if caption)
        elif question.startswith("What is in the "):
            name = question.removeprefix("What is in the ").removesuffix("?")
            assert answer == shown[name]
            asked[name] += 1
        elif question.startswith("Where is "):
            caption = question.removeprefix("Where is ").removesuffix("?")
            assert shown[answer] == caption if answer != NOWHERE else caption not in captions
            answered[answer] += answer != NOWHERE
        else:
            caption = question.removeprefix(before).removesuffix(after)
            assert answer == ("Yes" if caption in captions else "No")
        kinds[question.split(" ")[0]] += 1
    assert len(rows) == 90
    assert kinds.keys() == {"", "What", "Where", "Determine"}
    assert len(orders) == len(rows), "in any order of the cells"
    answered.pop(NOWHERE, None)
    for cells in (captioned, asked, answered):
        assert len(cells) == 9
        assert len(set(cells.values())) == 1, "no cell is favoured"


def test_a_canvas_shows_the_picture_that_is_asked_for(world):
    """The picture of a caption sample lies in one cell; the rest is white."""
    sample = next(read_samples(world / "captions.json"))
    pixels = np.asarray(Image.open(world / "images" / sample["images"][0]).convert("RGB")).astype(int)
    rows, columns = np.nonzero((pixels != 255).any(-1))
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 46
    colour = COLOURS[sample["messages"][1]["content"].split()[1]]
    assert (np.abs(pixels - colour).max(-1) <= SHADE + 5).sum() > 20


def test_the_same_seed_gives_the_same_bytes(world, tmp_path):
    main(["--output_dir", str(tmp_path / "again"), *SMALL])
    main(["--output_dir", str(tmp_path / "other"), *SMALL, "--seed", "1"])
    files = sorted(
        path.relative_to(world) for path in world.rglob("*") if path.is_file() and path.name != "manifest.json"
    )
    assert files == sorted(
        path.relative_to(tmp_path / "again")
        for path in (tmp_path / "again").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    )
    assert all((world / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    assert (world / "instructions.json").read_bytes() != (tmp_path / "other" / "instructions.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pictures", "0"], "--pictures 0: must be 1 or more"),
        (["--grid", "7"], "--grid 7: must be 2 to 6"),
        (["--probe_captions", "1000"], "--probe_captions 1000: there are 86 test pictures"),
    ],
)
def test_bad_numbers(words, told, tmp_path):
    with pytest.raises(InputError) as error:
        main(["--output_dir", str(tmp_path / "out"), *SMALL, *words])
    assert str(error.value).startswith(told)
    assert not list(tmp_path.iterdir())
