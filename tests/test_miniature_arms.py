"""train/miniature_arms.py: a kept arm is the trained one, and only a sibling of the bundled model can be kept."""

import json
import shutil

import pytest
import torch

from models import load_model
from models.errors import InputError
from train import miniature_arms


@pytest.fixture
def checkpoints(tmp_path):
    """An arm: the bundled model with another language model and projector, and logs of its stages."""
    root = tmp_path / "checkpoints"
    model, processor = load_model(miniature_arms.BUNDLED, True, dtype="float32")
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "vision_tower" not in name:
            weight.data += 0.01 * torch.randn_like(weight)
    for saved in (model, processor):
        saved.save_pretrained(root / "finetune-4-on")
    for number, name in enumerate(("language_model-4", "pretrain-4-on", "finetune-4-on"), start=1):
        (root / name).mkdir(exist_ok=True)
        line = {"step": number, "loss": 0.5, "seconds": 3600.0 * number}
        (root / name / "log.jsonl").write_text(json.dumps(line) + "\n")
        (root / name / "training.json").write_text(json.dumps({"provenance": {"git_commit": "c"}}))
    return root


def call(action, checkpoints, store, seed="4", arm="on", *more):
    words = ("--checkpoints", str(checkpoints), "--store", str(store), "--seed", seed, "--arm", arm)
    miniature_arms.main([action, *words, *more])


def test_what_comes_back_is_what_was_trained(checkpoints, tmp_path):
    call("keep", checkpoints, tmp_path / "arms")
    assert sum(file.stat().st_size for file in (tmp_path / "arms").iterdir()) < 1_700_000
    call("restore", tmp_path / "again", tmp_path / "arms")
    trained, _ = load_model(checkpoints / "finetune-4-on", dtype="bfloat16")
    restored, processor = load_model(tmp_path / "again/arm-4-on", dtype="bfloat16")
    assert restored.config.position_balance is True
    for name, weight in trained.state_dict().items():
        assert torch.equal(restored.state_dict()[name], weight), name
    assert processor.image_processor.crop_size["height"] == 144
    description = json.loads((tmp_path / "arms/4-on.json").read_text())
    assert (description["seed"], description["arm"]) == (4, "on")
    assert [stage["hours"] for stage in description["stages"].values()] == [1.0, 2.0, 3.0]


def test_an_arm_of_another_tower_is_refused(checkpoints, tmp_path):
    model, _ = load_model(checkpoints / "finetune-4-on", dtype="float32")
    next(model.model.vision_tower.parameters()).data += 1
    model.save_pretrained(checkpoints / "finetune-4-on")
    with pytest.raises(InputError, match="its vision tower is not the bundled model's"):
        call("keep", checkpoints, tmp_path / "arms")
    assert not (tmp_path / "arms").exists()


def test_an_arm_without_weights_is_the_bundled_model(tmp_path):
    call("restore", tmp_path, miniature_arms.STORE, seed="0", arm="off")
    bundled, restored = (load_model(path)[0] for path in (miniature_arms.BUNDLED, tmp_path / "arm-0-off"))
    assert restored.config.position_balance is False
    assert all(torch.equal(weight, restored.state_dict()[name]) for name, weight in bundled.state_dict().items())


def test_an_arm_to_be_adapted_with_bapa(tmp_path):
    """The flag in its config.json and nothing else, of the bundled model as of one with weights in the store."""
    for seed in ("0", "1"):
        call("restore", tmp_path, miniature_arms.STORE, seed, "off")
        call("restore", tmp_path, miniature_arms.STORE, seed, "off", "--balanced")
        plain, balanced = (tmp_path / f"arm-{seed}-off", tmp_path / f"arm-{seed}-off-balanced")
        configs = [json.loads((folder / "config.json").read_text()) for folder in (plain, balanced)]
        assert [config.pop("position_balance") for config in configs] == [False, True]
        assert configs[0] == configs[1]
        assert (plain / "model.safetensors").read_bytes() == (balanced / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="--balanced: is for restore"):
        call("keep", tmp_path, tmp_path / "arms", "0", "off", "--balanced")


def test_an_arm_that_is_not_there_or_damaged(checkpoints, tmp_path):
    call("keep", checkpoints, tmp_path / "arms")
    with pytest.raises(InputError, match=r"5-on.json: no such file; there are the arms 4-on"):
        call("restore", tmp_path / "again", tmp_path / "arms", seed="5")
    weights = tmp_path / "arms/4-on.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="4-on.safetensors: cannot be read"):
        call("restore", tmp_path / "again", tmp_path / "arms")
    assert not (tmp_path / "again/arm-4-on").exists()


def test_every_kept_arm_of_the_repository_loads(tmp_path):
    for path in miniature_arms.STORE.glob("*.json"):
        seed, arm = path.stem.split("-")
        call("restore", tmp_path, miniature_arms.STORE, seed, arm)
        model, _ = load_model(tmp_path / f"arm-{seed}-{arm}")
        assert model.config.position_balance is (arm == "on")
    shutil.rmtree(tmp_path)
