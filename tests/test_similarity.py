"""eval/similarity.py on tiny checkpoints, and its report on planted numbers."""

import base64
import json

import numpy as np
import pytest
import torch

from data.grid import cell_names
from eval import plots, similarity
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


def test_readout_reads_captions_in_the_cell_it_has_not_seen(tmp_path):
    from eval.measured import read_measured

    fields = {"similarity": float, "similarity_other": float}
    measured = read_measured(planted(tmp_path / "a.jsonl", features=True), "a", fields)
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
    with pytest.raises(InputError, match=r"of different items or settings \(items_sha256\)"):
        plots.main(["similarity", *files, "--output_path", str(tmp_path / "a.png")])
