"""eval/perception.py against the paper's one-at-a-time procedure, and its report on planted maps."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data.grid import cell_names
from eval import occlusion, perception, plots
from eval.items import open_picture
from eval.measured import read_measured
from eval.overlay import write_overlay
from eval.perception_report import figure, read_maps, summed
from models import load_model
from models.errors import InputError
from models.tiny import FAMILIES
from tests.pictures import picture
from tests.probe_runs import read_rows, write_rows

SIDE, MASK = 84, 28  # nine squares


@pytest.fixture(scope="module")
def canvases(tmp_path_factory):
    """Two captions of nine canvases of noise, one third of each plainly white."""
    folder = tmp_path_factory.mktemp("canvases")
    (folder / "images").mkdir()
    rows = []
    for caption in range(2):
        for cell, position in enumerate(cell_names(3)):
            canvas = picture(SIDE, SIDE, seed=9 * caption + cell)
            canvas.paste((255, 255, 255), (0, 0, SIDE, MASK))
            canvas.save(folder / "images" / f"{caption}_{cell}.png")
            row = {"image": f"{caption}_{cell}.png", "caption": f"caption {caption}", "position": position}
            rows += [
                row | {"id": f"{caption}_{cell}", "answer": "Yes"},
                row | {"id": f"{caption}_{cell}_no", "answer": "No"},
            ]
    write_rows(folder / "probe.jsonl", rows)
    return folder


def perceive(model, canvases, output, *more) -> int:
    paths = ("--model_path", model, "--eval_file", canvases / "probe.jsonl", "--img_path", canvases / "images")
    command = (*paths, "--output_dir", output, "--mask_size", MASK, "--num_workers", 0, "--num_captions", 1, *more)
    return perception.main([str(part) for part in command])


def maps_of(output) -> np.ndarray:
    return np.array([row["map"] for row in read_rows(output / "occlusion.jsonl")], float)


@pytest.mark.parametrize("position_balance", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_token_answers_equal_the_papers_procedure(tiny_folders, canvases, tmp_path, family, position_balance):
    """One masked picture at a time, generate with scores, compare the logits of the original answer's token."""
    more = ("--max_new_tokens", 1, "--limit", 3, "--position_balance", str(position_balance).lower())
    assert perceive(tiny_folders[family], canvases, tmp_path, *more) == 0
    model, processor = load_model(tiny_folders[family], position_balance=position_balance, dtype="float32")
    model.generation_config.do_sample = False
    for row in read_rows(tmp_path / "occlusion.jsonl"):
        canvas = np.asarray(open_picture({"path": canvases / "images" / row["image"]})[0])
        content = [{"type": "image"}, {"type": "text", "text": perception.probe.PROMPT.format(caption=row["caption"])}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

        def generate(shown, text=text):
            inputs = processor(text=[text], images=[[Image.fromarray(shown)]], return_tensors="pt")
            scores = {"output_logits": True, "return_dict_in_generate": True}
            with torch.no_grad():
                found = model.generate(**inputs, max_new_tokens=1, **scores)
            return int(found.sequences[0, -1]), found.logits[0][0]

        token, before = generate(canvas)
        expected = np.full((3, 3), np.nan)
        for place, _ in np.ndenumerate(expected[1:]):  # the upper third is white
            masked = canvas.copy()
            top, left = (place[0] + 1) * MASK, place[1] * MASK
            masked[top : top + MASK, left : left + MASK] = 255
            expected[place[0] + 1, place[1]] = abs(float(before[token] - generate(masked)[1][token]))
        np.testing.assert_allclose(np.array(row["map"], float), expected, atol=1e-4)
        assert expected[1:].max() > 1e-3
        assert row["answer_tokens"] == 1


def test_longer_answers_are_forced_and_averaged(llava, canvases, tmp_path):
    """Five tokens: each covered picture against a forward pass over prompt and answer of its own."""
    more = ("--max_new_tokens", 5, "--limit", 2, "--position_balance", "true", "--batch_size", 4)
    assert perceive(llava, canvases, tmp_path / "a", *more) == 0
    assert perceive(llava, canvases, tmp_path / "b", *more, "--target", "first_token") == 0
    model, processor = load_model(llava, position_balance=True, dtype="float32")
    for row, first in zip(read_rows(tmp_path / "a/occlusion.jsonl"), maps_of(tmp_path / "b"), strict=True):
        canvas = np.asarray(open_picture({"path": canvases / "images" / row["image"]})[0])
        content = [{"type": "image"}, {"type": "text", "text": perception.probe.PROMPT.format(caption=row["caption"])}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[text], images=[[Image.fromarray(canvas)]], return_tensors="pt")
        count = inputs["input_ids"].shape[1]
        with torch.no_grad():
            sequence = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        answer = sequence[0, count:]
        assert row["answer_tokens"] == len(answer) == 5

        def logits(shown, text=text, sequence=sequence, answer=answer, count=count):
            pixels = processor(text=[text], images=[[Image.fromarray(shown)]], return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                found = model(input_ids=sequence, attention_mask=torch.ones_like(sequence), pixel_values=pixels).logits
            return found[0, count - 1 : -1].gather(1, answer[:, None])[:, 0]

        masked = canvas.copy()
        masked[MASK : 2 * MASK, 2 * MASK :] = 255
        lost = (logits(canvas) - logits(masked)).abs()
        assert row["map"][1][2] == pytest.approx(float(lost.mean()), abs=1e-5)
        assert first[1, 2] == pytest.approx(float(lost[0]), abs=1e-5)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_batches_change_nothing_and_memory_is_tried_for(tiny_folders, canvases, tmp_path, family, monkeypatch):
    more = ("--max_new_tokens", 2, "--limit", 2, "--position_balance", "true")
    assert perceive(tiny_folders[family], canvases, tmp_path / "ones", *more, "--batch_size", 1) == 0
    upstream, sizes = occlusion.Answer._logits, []

    def short_of_memory(self, inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError
        return upstream(self, inputs)

    monkeypatch.setattr(occlusion.Answer, "_logits", short_of_memory)
    assert perceive(tiny_folders[family], canvases, tmp_path / "halved", *more) == 0
    assert sizes[:3] == [7, 5, 3], "six squares and the uncovered picture; then four; then two"
    np.testing.assert_allclose(maps_of(tmp_path / "ones"), maps_of(tmp_path / "halved"), atol=1e-5)
    with pytest.raises(InputError, match="--batch_size 4 does not fit"):
        perceive(tiny_folders[family], canvases, tmp_path / "four", *more, "--batch_size", 4)


def test_the_difference_of_yes_and_no(tiny_folders, canvases, tmp_path):
    more = ("--max_new_tokens", 1, "--limit", 1, "--position_balance", "false", "--baseline", "yes_no")
    assert perceive(tiny_folders["llava"], canvases, tmp_path, *more) == 0
    model, processor = load_model(tiny_folders["llava"], position_balance=False, dtype="float32")
    (row,) = read_rows(tmp_path / "occlusion.jsonl")
    yes, no = perception.yes_and_no(processor)
    canvas = np.asarray(open_picture({"path": canvases / "images" / row["image"]})[0])
    content = [{"type": "image"}, {"type": "text", "text": perception.probe.PROMPT.format(caption=row["caption"])}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    differences = []
    for shown in (canvas, np.array(occlusion.cover(canvas, (2, 0), MASK, (255, 255, 255)))):
        inputs = processor(text=[text], images=[[Image.fromarray(shown)]], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        differences.append(float(logits[yes] - logits[no]))
    assert row["map"][2][0] == pytest.approx(abs(differences[0] - differences[1]), abs=1e-5)


def test_which_pictures_which_colour_and_what_is_written(llava, canvases, tmp_path):
    more = ("--max_new_tokens", 1, "--position_balance", "true")
    assert perceive(llava, canvases, tmp_path / "white", *more) == 0
    assert perceive(llava, canvases, tmp_path / "red", *more, "--mask_color", "#ff0000") == 0
    rows = read_rows(tmp_path / "white" / "occlusion.jsonl")
    assert [row["position"] for row in rows] == list(cell_names(3)), "one caption, all cells, no negatives"
    assert all(row["map"][0] == [None] * 3 for row in rows), "white on white is skipped"
    assert len(list((tmp_path / "white" / "overlays").iterdir())) == 9
    assert not np.allclose(maps_of(tmp_path / "white")[:, 1:], maps_of(tmp_path / "red")[:, 1:])
    with pytest.raises(InputError, match="answers of another run"):
        perceive(llava, canvases, tmp_path / "white", *more, "--mask_color", "black")


def test_the_same_command_twice(llava, canvases, tmp_path):
    more = ("--max_new_tokens", 1, "--position_balance", "true")
    assert perceive(llava, canvases, tmp_path, *more) == 0
    before = (tmp_path / "occlusion.jsonl").read_bytes()
    ours = sorted((tmp_path / "overlays").iterdir())
    shutil.copyfile(ours[0], tmp_path / "overlays" / "stale.png")  # an overlay of ours, of an item that is no more
    (tmp_path / "overlays" / "theirs.png").write_bytes(b"")
    assert perceive(llava, canvases, tmp_path, *more) == 0
    assert (tmp_path / "occlusion.jsonl").read_bytes() == before
    assert sorted((tmp_path / "overlays").iterdir()) == [*ours, tmp_path / "overlays" / "theirs.png"]


def test_half_precision_stays_near(tiny_folders, canvases, tmp_path):
    more = ("--max_new_tokens", 1, "--position_balance", "true", "--limit", 9)
    for dtype in ("float32", "bfloat16"):
        assert perceive(tiny_folders["qwen2_5_vl"], canvases, tmp_path / dtype, *more, "--dtype", dtype) == 0
    whole, half = (maps_of(tmp_path / dtype)[:, 1:].ravel() for dtype in ("float32", "bfloat16"))
    assert np.corrcoef(whole, half)[0, 1] > 0.85  # what the layers round
    assert len(set(half)) > 45, "of 54 squares: differences are not rounded away"


def test_logits_that_are_no_numbers_are_an_error(llava, canvases, tmp_path):
    model, processor = load_model(llava, position_balance=True, dtype="float32")
    with torch.no_grad():
        model.get_output_embeddings().weight[:] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    more = ("--max_new_tokens", 1, "--position_balance", "true")
    assert perceive(tmp_path / "broken", canvases, tmp_path / "out", *more) == 1
    assert all("not finite" in row["error"] for row in read_rows(tmp_path / "out" / "occlusion.jsonl"))


def test_captions_are_drawn_by_seed(canvases):
    from argparse import Namespace

    def drawn(seed):
        args = Namespace(eval_file=canvases / "probe.jsonl", img_path=canvases / "images", num_captions=1,
                         seed=seed, mask_size=MASK)  # fmt: skip
        return {item["caption"] for item in perception.load_items(args)}

    assert {frozenset(drawn(seed)) for seed in range(8)} == {frozenset({"caption 0"}), frozenset({"caption 1"})}
    assert drawn(1) == drawn(1)


def test_a_square_of_one_colour_is_one_in_all_channels():
    canvas = np.full((4, 4, 3), 200, np.uint8)
    canvas[0, 0, 2] = 0  # blue alone tells
    assert occlusion.squares_with_content(canvas, 2) == [(0, 0)]


def test_an_overlay_is_strongest_where_the_map_is(tmp_path):
    Image.new("RGB", (40, 20), "white").save(tmp_path / "canvas.png")
    write_overlay(tmp_path / "canvas.png", [[None, 0.1, 0.2, 1.0], [0.0, 0.0, 0.0, 0.0]], tmp_path / "o.png")
    shown = np.asarray(Image.open(tmp_path / "o.png").convert("L")).astype(int)
    assert shown.shape == (20, 40)
    assert shown[5, 35] < shown[5, 25] < shown[5, 15] < shown[5, 5] == shown[15, 35] == 255


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--mask_size", 30), "--mask_size 30: does not divide ._0.png, 84 x 84 px; choose one of 12, 14, 21, 28"),
        (
            ("--num_captions", 3),
            "--num_captions 3: .*probe.jsonl has 2 captions with a question answered Yes; give 2 or f",
        ),
        (("--mask_color", "whitish"), "'whitish' is no colour"),
        (("--mask_size", 0), "give 1 or more"),
    ],
)
def test_bad_input(llava, canvases, tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        perceive(llava, canvases, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_a_probe_of_negatives_alone(llava, canvases, tmp_path):
    write_rows(tmp_path / "negatives.jsonl", read_rows(canvases / "probe.jsonl")[1::2])
    with pytest.raises(InputError, match="negatives.jsonl: no item has the answer Yes; give a probe as data/build_pro"):
        perceive(llava, canvases, tmp_path / "out", "--eval_file", tmp_path / "negatives.jsonl")


def test_broken_pictures_pipes_and_bombs_are_error_rows(llava, canvases, tmp_path):
    copy = shutil.copytree(canvases, tmp_path / "canvases")
    for caption in "01":
        broken, pipe, bomb = (copy / "images" / f"{caption}_{cell}.png" for cell in (3, 5, 7))
        broken.write_bytes(b"no picture")
        pipe.unlink()
        os.mkfifo(pipe)
        Image.new("1", (20_000, 20_000)).save(bomb)
    assert perceive(llava, copy, tmp_path / "out", "--max_new_tokens", 1, "--position_balance", "true") == 1
    rows = read_rows(tmp_path / "out" / "occlusion.jsonl")
    assert ["error" in row for row in rows] == [cell in (3, 5, 7) for cell in range(9)]
    assert rows[5]["error"].endswith("a device or a pipe, not a file")
    assert "decompression bomb" in rows[7]["error"]


def test_report(tmp_path, capsys):
    """Maps whose whole mass lies in the target's cell, but for cell 0, whose is spread evenly."""
    rows = []
    for caption in range(3):
        for cell, position in enumerate(cell_names(3)):
            map_ = np.zeros((6, 6))
            top, left = 2 * (cell // 3), 2 * (cell % 3)
            map_[top : top + 2, left : left + 2] = 1 + caption
            map_ = np.full((6, 6), 0.5) if cell == 0 else map_
            rows.append({"id": len(rows), "image": f"{caption}_{cell}.png", "position": position, "map": map_.tolist()})
    rows[0]["map"] = [[None] * 6] * 6
    write_rows(tmp_path / "occlusion.jsonl", rows)
    outputs = ["--output_path", str(tmp_path / "p.png"), "--output_json", str(tmp_path / "p.json")]
    plots.main(["perception", "--prob_results_dir", str(tmp_path), *outputs])
    (run,) = json.loads((tmp_path / "p.json").read_text())["runs"]
    shares = [cell["value"] for cell in run["target_share"]["cells"]]
    assert shares == pytest.approx([100 / 9] + [100] * 8, abs=1e-3)
    assert (run["skipped"], run["without_effect"]) == (36, 1)
    assert (tmp_path / "p.png").stat().st_size > 10_000
    measured = read_measured(str(tmp_path / "occlusion.jsonl"), {"map": list})
    maps = summed(measured, read_maps(measured))
    assert maps.max() == pytest.approx(1), "each map is divided by its own maximum"
    np.testing.assert_allclose(maps[5], np.kron(np.eye(9)[5].reshape(3, 3), np.ones((2, 2))))
    np.testing.assert_allclose(maps[0], 2 / 3), "one of three has no effect"
    output = capsys.readouterr().out
    assert "chance 11.1" in output
    assert "[]: 95% bootstrap intervals, 2000 resamples of captions" in output


def test_a_cell_without_rows_is_drawn_as_such_and_not_as_no_effect(tmp_path, capsys):
    """--limit has cut all but three cells of one caption; of these, one map has no effect."""
    maps = [np.eye(3), np.zeros((3, 3)), np.eye(3)]
    rows = [
        {"id": cell, "image": f"0_{cell}.png", "position": position, "map": map_.tolist()}
        for cell, (position, map_) in enumerate(zip(cell_names(3), maps, strict=False))
    ]
    write_rows(tmp_path / "occlusion.jsonl", rows)
    measured = read_measured(str(tmp_path / "occlusion.jsonl"), {"map": list})
    found = summed(measured, read_maps(measured))
    assert np.isnan(found).all((1, 2)).tolist() == [False] * 3 + [True] * 6
    assert not found[1].any()
    drawn = figure([("off", found)])
    axes = [one for one in drawn.axes if one.get_title()]
    assert [one.get_title() for one in axes] == [name.replace("_", " ") for name in cell_names(3)]
    assert [[text.get_text() for text in one.texts] for one in axes] == [[]] * 3 + [["no data"]] * 6
    assert [len(one.images) for one in axes] == [1] * 3 + [0] * 6
    plots.main(["perception", "--prob_results_dir", str(tmp_path), "--output_path", str(tmp_path / "p.png")])
    output = capsys.readouterr().out
    assert "[]" not in output, "one caption has no interval"
    assert "nan" not in output
