"""Prompts that are longer than the checkpoint was made for, counted in positions."""

import json
import shutil

from eval import generate
from tests.pictures import picture
from tests.probe_runs import run_here

ROWS = [("short",), (picture(80, 60, 1), "what is it?"), (picture(64, 64, 3), "and what is this one over there?")]


def test_positions_count_not_tokens(kit):
    """A plain walk over the tokens says how many a prompt has with the flag on; upstream's own with it off."""
    inputs = kit.inputs(*ROWS)
    balanced = kit.reference_positions(inputs, ROWS).amax(-1) + 1
    ordinary = inputs["attention_mask"].sum(-1)
    if kit.family == "qwen2_5_vl":
        given = {name: inputs[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
        ordinary = kit.upstream.model.get_rope_index(**given)[0].amax((0, 2)) + 1
    text = kit.fork.config.get_text_config()
    before = text.max_position_embeddings
    try:
        for flag, lengths in ((False, ordinary), (True, balanced)):
            model = kit.with_flag(flag)
            for text.max_position_embeddings in sorted({*lengths.tolist(), before}):
                expected = [length > text.max_position_embeddings for length in lengths.tolist()]
                assert generate.beyond_context(model, inputs) == expected
    finally:
        text.max_position_embeddings = before


def test_a_run_says_how_many(llava, probe, tmp_path, capsys):
    """Replies beyond what a checkpoint was trained on are not worth what the others are: counted, and marked."""
    folder = shutil.copytree(llava, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 150
    (folder / "config.json").write_text(json.dumps(config))
    answers = tmp_path / "answers.jsonl"
    assert run_here(folder, probe, answers) == 0
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert all(row["beyond_context"] is True for row in rows)
    assert f"{len(rows)} prompts are longer than max_position_embeddings in config.json" in capsys.readouterr().out
