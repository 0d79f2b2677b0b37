"""train/bundle_miniature.py: what is bundled is the trained model, and what the stages cost."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from models import load_model
from models.errors import InputError
from train import bundle_miniature


@pytest.fixture
def checkpoints(tiny_folders, tmp_path):
    root = tmp_path / "checkpoints"
    shutil.copytree(tiny_folders["llava"], root / "finetune-1-on")
    config = json.loads((root / "finetune-1-on/config.json").read_text()) | {"position_balance": True}
    (root / "finetune-1-on/config.json").write_text(json.dumps(config))
    for number, name in enumerate(("tower", "language_model-1", "pretrain-1-on", "finetune-1-on"), start=1):
        (root / name).mkdir(exist_ok=True)
        lines = [{"step": step, "loss": 1 / step, "seconds": 36.0 * number} for step in range(1, 11)]
        (root / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (root / name / "training.json").write_text(json.dumps({"provenance": {"git_commit": f"c{number}"}}))
    return root


def bundle(checkpoints, output, seed="1"):
    words = ("--checkpoints", str(checkpoints), "--seed", seed, "--arm", "on", "--output_dir", str(output))
    bundle_miniature.main(list(words))


def test_the_model_in_half_the_bytes_and_what_made_it(checkpoints, tmp_path):
    bundle(checkpoints, tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}
    bundled, processor = load_model(tmp_path / "out", dtype="float32")
    trained, _ = load_model(checkpoints / "finetune-1-on", dtype="float32")
    assert bundled.config.position_balance is True
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(bundled.state_dict()[name], weight.bfloat16().float(), rtol=0, atol=0)
    stages = json.loads((tmp_path / "out/stages.json").read_text())
    assert stages["1, projector"] == {"updates": 10, "hours": 0.3, "last_loss": 0.2929, "git_commit": "c3"}
    assert (stages["seed"], stages["position_balance"]) == (1, True)
    assert (tmp_path / "out/curves.png").stat().st_size > 10_000


def test_an_unfinished_stage_is_named_and_nothing_written(checkpoints, tmp_path):
    (checkpoints / "pretrain-1-on/training.json").unlink()
    with pytest.raises(InputError, match="pretrain-1-on/training.json: no such file"):
        bundle(checkpoints, tmp_path / "out")
    assert not (tmp_path / "out").exists()
