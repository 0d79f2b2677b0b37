"""train/publish.py: a checkpoint becomes the model that the run is for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import load_model
from train.publish import publish, with_dtype
from train.run_folder import TRAINING, WHOLE

STATE = {
    *(
        "optimizer.pt",
        "scheduler.pt",
        "trainer_state.json",
        WHOLE,
        "rng_state.pth",
        "rng_state_0.pth",
        "rng_state_1.pth",
    ),
    *("latest", "zero_to_fp32.py", "README.md"),
}
TRAINED = {"settings": {"seed": 42}, "position_balance": True}


@pytest.fixture
def checkpoint(kit, tmp_path) -> Path:
    """As training leaves one: float32, the weights in several files, beside them the optimizer and the like."""
    path = tmp_path / "checkpoint-2"
    kit.fork.save_pretrained(path, max_shard_size="100KB")
    kit.processor.save_pretrained(path)
    for name in STATE:
        (path / name).write_bytes(b"state")
    (path / "global_step2").mkdir()
    (path / "global_step2/zero.pt").write_bytes(b"state")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for path in sorted(folder.glob("*.safetensors")) for name, one in load_file(path).items()}


def test_a_published_model(kit, checkpoint, folder):
    publish(checkpoint, folder, TRAINED, torch.bfloat16)
    assert {path.name for path in folder.iterdir()} == (
        {path.name for path in checkpoint.iterdir()} - STATE - {"global_step2"} | {TRAINING}
    )
    assert len(list(folder.glob("*.safetensors"))) > 1
    given, wanted = weights(folder), weights(checkpoint)
    assert given.keys() == wanted.keys()
    for name, one in wanted.items():
        assert torch.equal(given[name], one.bfloat16()), name
        assert given[name].dtype == torch.bfloat16
    config = json.loads((folder / "config.json").read_text())
    assert config["position_balance"] is True
    assert config["dtype"] == config["text_config"]["dtype"] == config["vision_config"]["dtype"] == "bfloat16"
    assert json.loads((folder / TRAINING).read_text()) == TRAINED
    fork, _ = load_model(folder)
    assert fork.dtype == torch.bfloat16
    assert fork.config.position_balance
    for (name, weight), wanted in zip(fork.named_parameters(), kit.fork.parameters(), strict=True):
        assert torch.equal(weight, wanted.bfloat16()), name


def test_the_index_says_how_large_the_files_are(checkpoint, folder):
    publish(checkpoint, folder, TRAINED, torch.bfloat16)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(weights(folder))
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in weights(folder).values())


def test_as_it_is(checkpoint, folder):
    publish(checkpoint, folder, TRAINED, None)
    for path in folder.iterdir():
        if path.name != TRAINING:
            assert path.read_bytes() == (checkpoint / path.name).read_bytes()


def test_only_floating_weights_are_cast(tmp_path, folder):
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    values = {"weight": torch.randn(3, 3), "ids": torch.arange(5), "mask": torch.tensor([True, False])}
    save_file(values, checkpoint / "model.safetensors", metadata={"format": "pt"})
    publish(checkpoint, folder, {}, torch.float16)
    found = load_file(folder / "model.safetensors")
    assert {name: one.dtype for name, one in found.items()} == {
        "weight": torch.float16,
        "ids": torch.int64,
        "mask": torch.bool,
    }
    assert torch.equal(found["ids"], values["ids"])


def test_killed_before_the_end(checkpoint, folder, monkeypatch):
    """Only a folder that is complete has training.json; doing it again completes it."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("shutil.copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(checkpoint, folder, TRAINED, torch.bfloat16)
    assert not (folder / TRAINING).exists()
    publish(checkpoint, folder, TRAINED, torch.bfloat16)
    assert (folder / TRAINING).exists()
    load_model(folder)


def test_dtypes_of_a_config():
    config = {"dtype": "float32", "parts": {"dtype": None, "rope": {"type": "default"}}, "list": [1, 2]}
    assert with_dtype(config, "bfloat16") == {
        "dtype": "bfloat16",
        "parts": {"dtype": "bfloat16", "rope": {"type": "default"}},
        "list": [1, 2],
    }
