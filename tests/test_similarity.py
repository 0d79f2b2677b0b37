"""eval/similarity.py on tiny checkpoints, and its report on planted numbers."""

import base64
import json
import shutil

import numpy as np
import pytest
import torch

from data.grid import cell_names
from eval import plots, similarity
from eval.cell_means import cell_means
from eval.measured import read_measured
from eval.similarity_report import linear_readout, studied
from models.errors import InputError
from models.tiny import FAMILIES
from tests.probe_runs import read_rows, write_probe, write_rows


def compare(model, probe, answers, *more) -> int:
    paths = ("--model_path", model, "--eval_file", probe / "probe.jsonl", "--img_path", probe / "images")
    command = (*paths, "--answers_file", answers, "--position_balance", "false", "--num_workers", 0, *more)
    return similarity.main([str(part) for part in command])


def cosine(first, second) -> float:
    return float(first @ second / (first.norm() * second.norm()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_similarity_is_of_the_tokens_that_the_language_model_gets(kits, probe, tmp_path, family, pooling):
    kit = kits[family]
    answers = tmp_path / "a.jsonl"
    assert compare(kit.folder, probe, answers, "--pooling", pooling, "--limit", 4, "--readout", "linear") == 0
    rows, pool = read_rows(answers), (lambda x: x.amax(0)) if pooling == "max" else (lambda x: x.mean(0))
    embeddings = kit.upstream.get_input_embeddings()
    seen = []
    handle = kit.upstream.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        for row in rows:
            inputs = kit.inputs((picture_of(probe, row), "x"))
            with torch.no_grad():
                kit.upstream(**inputs)
            tokens = seen.pop()[inputs["input_ids"] == kit.image_token_id]
            for field, caption in (("similarity", row["caption"]), ("similarity_other", row["other_caption"])):
                ids = kit.processor.tokenizer(caption, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
                assert row[field] == pytest.approx(cosine(pool(tokens), pool(embeddings(ids).detach())), abs=1e-5)
            kept = np.frombuffer(base64.b64decode(row["features"]), np.float16)
            np.testing.assert_allclose(kept, torch.nn.functional.normalize(pool(tokens), dim=0), atol=1e-3)
    finally:
        handle.remove()


def picture_of(probe, row):
    from eval.items import open_picture

    return open_picture({"path": probe / "images" / row["image"]})[0]


def test_batches_change_nothing_and_the_other_caption_is_the_next(llava, probe, tmp_path):
    for size in (1, 5):
        assert compare(llava, probe, tmp_path / f"{size}.jsonl", "--batch_size", size) == 0
    ones, fives = (read_rows(tmp_path / f"{size}.jsonl") for size in (1, 5))
    captions = list(dict.fromkeys(row["caption"] for row in ones))
    for one, five in zip(ones, fives, strict=True):
        place = captions.index(one["caption"])
        assert one["other_caption"] == five["other_caption"] == captions[(place + 1) % len(captions)]
        assert one["similarity"] == pytest.approx(five["similarity"], abs=1e-5)


def test_bad_sets_are_refused(llava, tmp_path):
    folder = write_probe(tmp_path / "probe", 1)
    rows = read_rows(folder / "probe.jsonl")
    write_rows(folder / "probe.jsonl", [row | {"caption": "one"} for row in rows])
    with pytest.raises(InputError, match="one caption only"):
        compare(llava, folder, tmp_path / "a.jsonl")
    write_rows(folder / "probe.jsonl", [*rows, rows[0] | {"id": "no", "answer": "No"}])
    with pytest.raises(InputError, match="no asks for what is not there"):
        compare(llava, folder, tmp_path / "a.jsonl")


def planted(path, captions=6, features=False):
    """Caption c in cell k has similarity (c + k) / 100, and 0.01 with another; its features are its own axis."""
    rows = []
    for caption in range(captions):
        for cell, position in enumerate(cell_names(3)):
            row = {"image": f"{caption}_{cell}.jpg", "position": position, "caption": str(caption)}
            row |= {"similarity": (caption + cell) / 100, "similarity_other": 0.01}
            if features:
                vector = np.eye(captions)[caption] if cell else np.eye(captions)[(caption + 1) % captions]
                vector = vector + 0.01 * np.random.default_rng([caption, cell]).standard_normal(captions)
                row["features"] = base64.b64encode(vector.astype(np.float16).tobytes()).decode()
            rows.append(row)
    write_rows(path, rows)
    return path


def test_report_means_by_cell(tmp_path, capsys):
    file = planted(tmp_path / "a.jsonl")
    picture, numbers = tmp_path / "a.png", tmp_path / "a.json"
    command = ["similarity", "--results_file", file, "--output_path", picture, "--output_json", numbers]
    plots.main([str(part) for part in command])
    (run,) = json.loads(numbers.read_text())["runs"]
    own = [cell["value"] for cell in run["own caption"]["cells"]]
    np.testing.assert_allclose(own, 2.5 + np.arange(9), atol=1e-6)
    np.testing.assert_allclose([cell["value"] for cell in run["own less another"]["cells"]], 1.5 + np.arange(9))
    assert run["own caption"]["value"] == pytest.approx(6.5)
    assert run["own caption"]["low"] < 6.5 < run["own caption"]["high"]
    assert run["another caption"]["low"] == run["another caption"]["high"] == 1.0
    assert run["own caption"]["spread"] == pytest.approx(np.std(np.arange(9)), abs=1e-6)
    assert "linear readout" not in run
    assert picture.stat().st_size > 10_000
    assert "own caption" in capsys.readouterr().out


def test_intervals_are_as_wide_as_they_should_be():
    """Of normal noise: 1.96 standard errors to either side; and another seed draws other resamples."""
    values = np.random.default_rng(0).normal(50, 10, (400, 9))
    found = cell_means(values, 4000, 0)
    half_widths = (found.cells_high - found.cells_low) / 2
    np.testing.assert_allclose(half_widths, 1.96 * values.std(0) / 20, rtol=0.08)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.mean(1).std() / 20, rel=0.08)
    assert found.mean == pytest.approx(values.mean())
    assert cell_means(values, 4000, 1).low != found.low
    assert np.isnan(cell_means(values[:1], 4000, 0).low), "one caption has no interval"


def test_cells_count_alike_whatever_is_missing():
    values = np.full((4, 9), 10.0)
    values[1:, 0] = np.nan
    values[:, 0] *= 10
    assert cell_means(values, 0, 0).mean == pytest.approx((100 + 8 * 10) / 9)


def test_the_readout_has_not_seen_the_cell_that_it_reads(tmp_path):
    """What tells captions apart is in another feature in every cell: whoever saw the cell would read it."""
    rows = read_rows(planted(tmp_path / "a.jsonl", features=True))
    for place, row in enumerate(rows):
        caption, cell = divmod(place, 9)
        vector = np.zeros(6 * 9)
        vector[6 * cell + caption] = 1
        row["features"] = base64.b64encode(vector.astype(np.float16).tobytes()).decode()
    write_rows(tmp_path / "a.jsonl", rows[:9] + rows[10:])  # one caption lacks a cell
    measured = read_measured(str(tmp_path / "a.jsonl"), {"similarity": float, "similarity_other": float})
    right = linear_readout(measured)
    assert np.isnan(right[1, 0])
    assert np.nanmean(right) < 40
    write_rows(tmp_path / "b.jsonl", rows[:45] + rows[45:46])  # the last caption is in one cell only
    alone = linear_readout(read_measured(str(tmp_path / "b.jsonl"), {"similarity": float, "similarity_other": float}))
    assert np.isnan(alone[5]).all(), "nobody can know a caption seen nowhere else"


def test_labels_and_files_are_told_apart(tmp_path):
    for folder in ("off", "on"):
        (tmp_path / folder).mkdir()
        planted(tmp_path / folder / "similarity.jsonl")
    files = [part for name in ("off", "on") for part in ("--results_file", str(tmp_path / name))]
    outputs = ["--output_path", str(tmp_path / "a.png"), "--output_json", str(tmp_path / "a.json")]
    plots.main(["similarity", *files, *outputs])
    assert [run["label"] for run in json.loads((tmp_path / "a.json").read_text())["runs"]] == ["off", "on"]
    with pytest.raises(InputError, match="twice"):
        plots.main(["similarity", *files[:2], *files[:2], *outputs])


def test_the_same_command_twice_and_other_settings(llava, probe, tmp_path):
    for _ in range(2):
        assert compare(llava, probe, tmp_path / "a.jsonl", "--limit", 2) == 0
    with pytest.raises(InputError, match="answers of another run"):
        compare(llava, probe, tmp_path / "a.jsonl", "--limit", 2, "--pooling", "mean")
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(probe / "images", again / "images")
    assert compare(llava, probe, tmp_path / "b.jsonl", "--limit", 2, "--readout", "linear") == 0
    shutil.copy(tmp_path / "b.jsonl", again / "probe.jsonl")
    assert compare(llava, again, tmp_path / "c.jsonl") == 0
    assert "features" not in read_rows(tmp_path / "c.jsonl")[0], "what an earlier run measured does not pass on"


def test_readout_reads_captions_in_the_cell_it_has_not_seen(tmp_path):
    fields = {"similarity": float, "similarity_other": float}
    measured = read_measured(planted(tmp_path / "a.jsonl", features=True), fields)
    right = linear_readout(measured)
    assert (right[:, 1:] == 100).all(), "every other cell shows the same features"
    assert (right[:, 0] == 0).all(), "the first cell shows those of the next caption"
    assert set(studied(measured)) == {"own caption", "another caption", "own less another", "linear readout"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [row | {"similarity": "high"} for row in rows],
            "line 1: field `similarity` is missing or no float",
        ),
        (lambda rows: [*rows, rows[3]], "lines 4 and 55: one caption twice at left"),
        (lambda rows: [row | {"position": "elsewhere"} for row in rows], "cells of no grid"),
        (lambda rows: [{"image": "x", "error": "gone"}], "all 1 rows are errors"),
    ],
)
def test_bad_answers_are_refused(tmp_path, change, message):
    file = planted(tmp_path / "a.jsonl")
    write_rows(file, change(read_rows(file)))
    with pytest.raises(InputError, match=message):
        plots.main(["similarity", "--results_file", str(file), "--output_path", str(tmp_path / "a.png")])
    assert not (tmp_path / "a.png").exists()


def test_runs_of_two_sets_are_not_drawn_together(llava, probe, tmp_path):
    for limit in (2, 3):
        assert compare(llava, probe, tmp_path / f"{limit}.jsonl", "--limit", limit) == 0
    files = [part for limit in (2, 3) for part in ("--results_file", str(tmp_path / f"{limit}.jsonl"))]
    with pytest.raises(InputError, match="of different items; draw them apart"):
        plots.main(["similarity", *files, "--output_path", str(tmp_path / "a.png")])
