"""Fingerprints: every file that decides a checkpoint counts, and of large weights every tensor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models import load_model
from models.errors import InputError
from models.fingerprint import base_identity, fingerprint, fingerprint_tower


def test_every_tensor_of_large_weights_counts(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({f"{number}": torch.zeros(50_000) for number in range(4)} | {"tiny": torch.zeros(3)}, path)
    weights = path.read_bytes()
    first = 8 + int.from_bytes(weights[:8], "little")
    before = fingerprint(tmp_path)
    sampled = [first + tensor * 200_000 + place for tensor in range(4) for place in (0, 100_000, 199_999)]
    for place in (5, 10, *sampled, len(weights) - 1, first + 50_000):
        path.write_bytes(weights[:place] + bytes([weights[place] ^ 1]) + weights[place + 1 :])
        assert (fingerprint(tmp_path) == before) == (place == first + 50_000)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 20, b"\xff" * 20, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"]
)
def test_broken_weights_have_a_fingerprint(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert f"{len(content)} bytes" in fingerprint(tmp_path)["model.safetensors"]


@pytest.mark.parametrize("tower", ["model/vision_tower", "vision_tower"])
def test_the_vision_tower_of_the_original_layout_is_on_record(tmp_path, tower):
    (tmp_path / tower).mkdir(parents=True)
    (tmp_path / tower / "config.json").write_text("{}")
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "config.json").write_text('{"mm_vision_tower": "vision_tower"}')
    before = fingerprint_tower(tmp_path / "model")
    assert before.keys() == {"config.json"}
    (tmp_path / tower / "config.json").write_text("[]")
    assert fingerprint_tower(tmp_path / "model") != before
    (tmp_path / "model" / "config.json").write_text("{}")
    assert fingerprint_tower(tmp_path / "model") == {}


def test_the_base_of_an_adapter_is_on_record(tmp_path):
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    settings = {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    assert fingerprint(tmp_path / "adapter").keys() == {"adapter_config.json", "base/config.json"}


def write_base(folder, config='{"model_type": "llava", "layers": 2}'):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.zeros(8)}, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    return folder


def test_a_base_is_its_weights_and_its_geometry(tmp_path):
    before = base_identity(write_base(tmp_path))
    assert before.keys() == {"model.safetensors", "config.json"}
    # The flag, the spelling of the file and what belongs to the processor are the user's to change.
    write_base(tmp_path, '{\n  "layers": 2, "position_balance": true, "model_type": "llava"}')
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "generation_config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same weights, which loading leaves alone")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"of another model")
    assert base_identity(tmp_path) == before
    write_base(tmp_path, '{"model_type": "llava", "layers": 3}')
    assert {name for name, value in base_identity(tmp_path).items() if value != before[name]} == {"config.json"}
    save_file({"weight": torch.ones(8)}, tmp_path / "model.safetensors")
    assert base_identity(tmp_path)["model.safetensors"] != before["model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    assert base_identity(tmp_path).keys() == {"pytorch_model.bin", "config.json"}


@pytest.mark.parametrize("config", ["{", "[]", '{"mm_vision_tower": 3}'])
def test_a_base_with_a_broken_config_has_an_identity(tmp_path, config):
    before = base_identity(write_base(tmp_path, config))
    assert base_identity(write_base(tmp_path, config + " ")).keys() == before.keys()


def test_the_tower_beside_a_base_counts(tmp_path):
    base = write_base(tmp_path / "model", '{"mm_vision_tower": "org/tower"}')
    assert base_identity(base).keys() == {"model.safetensors", "config.json"}
    write_base(tmp_path / "tower")
    assert base_identity(base).keys() >= {"tower/model.safetensors", "tower/config.json"}


def test_a_base_in_the_hubs_cache(tmp_path):
    """The files that loading left there; one revision is not taken for another."""
    snapshot = tmp_path / "hub/models--org--base/snapshots"
    first, second = (write_base(snapshot / name, f'{{"a": "{name}"}}') for name in ("1" * 40, "2" * 40))
    (tmp_path / "hub/models--org--base/refs").mkdir()
    (tmp_path / "hub/models--org--base/refs/main").write_text("2" * 40)
    script = (
        "import json; from models.fingerprint import base_identity as of\n"
        "print(json.dumps([of('org/base'), of('org/base', '1' * 40), of('org/none'), of('/no')]))"
    )
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [base_identity(second), base_identity(first), {}, {}]


def test_hashing_needs_no_torch():
    script = "import sys, models.fingerprint, models.provenance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize(
    ("bases", "depth"),
    [(("one",), 1), (("two", "one"), 2), (("two", "three", "one"), 3), (("x" * 300,), 1), (("a\0b",), 1)],
)
def test_adapters_that_name_each_other_or_no_name_come_to_an_end(tmp_path, monkeypatch, bases, depth):
    """one names the first of `bases`, two the second, three the third."""
    monkeypatch.chdir(tmp_path)
    for name, base in zip(("one", "two", "three"), bases, strict=False):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    found = fingerprint(Path("one"))
    assert list(found) == [f"{'base/' * level}adapter_config.json" for level in range(depth)]
    with pytest.raises(InputError):
        load_model("one")
