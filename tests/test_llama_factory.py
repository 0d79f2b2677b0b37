"""train/llama_factory.py as far as it goes without LLaMA-Factory; tests/run_llama_factory.py runs it with."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, get_peft_model

from models import load_model
from models.errors import InputError
from train.llama_factory import check_adapter, main, read_base, read_settings, require_fork, write_beside

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "train" / "llama_factory.py"
CONFIGS = ROOT / "configs" / "llama_factory"
# Recipe -> the paper's figures: rank, alpha, learning rate, warm-up, samples an update, epochs, cut-off, template.
FACTS = {
    "qwen2_5_vl": (8, 16, 1e-4, 0.1, 8, 1, 2048, "qwen2_vl"),
    "gemma3": (8, 16, 1e-4, 0.1, 16, 2, 2048, "gemma3"),
    "llava_1_6_mistral": (8, 16, 1e-4, 0.1, 16, 2, 8192, "llava_next_mistral"),
    "llava_1_5": (128, 256, 2e-4, 0.03, 32, 1, 2048, "llava"),
}
TRAIN_KEYS = """
    model_name_or_path stage do_train finetuning_type lora_target lora_rank lora_alpha lora_dropout dataset_dir dataset
    media_dir template cutoff_len preprocessing_num_workers dataloader_num_workers per_device_train_batch_size
    gradient_accumulation_steps num_train_epochs learning_rate lr_scheduler_type warmup_ratio bf16 output_dir
    logging_steps plot_loss save_steps save_total_limit report_to
""".split()
MERGE_KEYS = """
    model_name_or_path adapter_name_or_path template export_dir export_size export_device infer_dtype
""".split()


def read(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def base(tiny_folders, tmp_path) -> Path:
    """A checkpoint of our own with the flag on."""
    folder = Path(shutil.copytree(tiny_folders["llava"], tmp_path / "base"))
    edit(folder / "config.json", position_balance=True)
    return folder


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    """An adapter as LLaMA-Factory leaves it, with what the script puts beside it."""
    model, _ = load_model(base)
    folder = tmp_path / "adapter"
    get_peft_model(model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj")).save_pretrained(folder)
    write_beside(folder, read_base({"model_name_or_path": str(base)}), {"base": {"path": str(base), "revision": None}})
    return folder


@pytest.mark.parametrize("name", FACTS)
def test_recipes_are_the_papers(name):
    rank, alpha, rate, warmup, batch, epochs, cutoff, template = FACTS[name]
    recipe, merge = read(f"{name}_train"), read(f"{name}_merge")
    assert sorted(recipe) == sorted(TRAIN_KEYS)
    assert sorted(merge) == sorted(MERGE_KEYS)
    assert (recipe["lora_rank"], recipe["lora_alpha"], recipe["lora_target"]) == (rank, alpha, "all")
    assert (recipe["learning_rate"], recipe["lr_scheduler_type"], recipe["warmup_ratio"]) == (rate, "cosine", warmup)
    assert recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] == batch
    assert (recipe["num_train_epochs"], recipe["cutoff_len"], recipe["bf16"]) == (epochs, cutoff, True)
    assert recipe["template"] == merge["template"] == template
    assert recipe["model_name_or_path"] == merge["model_name_or_path"]
    assert recipe["output_dir"] == merge["adapter_name_or_path"]


@pytest.mark.parametrize("name", FACTS)
def test_recipes_agree_with_those_of_sft(name):
    theirs, ours = read(f"{name}_train"), yaml.safe_load((ROOT / "configs/train" / f"{name}_lora.yaml").read_text())
    names = {"num_epochs": "num_train_epochs", "lr_scheduler": "lr_scheduler_type"}
    for key in ("lora_rank", "lora_alpha", "learning_rate", "warmup_ratio", "cutoff_len", "bf16", *names):
        assert ours[key] == theirs[names.get(key, key)], key
    assert ours.get("lora_dropout", 0.0) == theirs["lora_dropout"]


def test_every_recipe_is_tested():
    assert sorted(path.name for path in CONFIGS.glob("*.yaml")) == sorted(
        f"{name}_{action}.yaml" for name in FACTS for action in ("train", "merge")
    )


def test_without_llama_factory_there_is_one_line():
    command = [sys.executable, str(SCRIPT), "train", str(CONFIGS / "gemma3_train.yaml")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: LLaMA-Factory is not installed here; ")
    assert "pip install --no-deps llamafactory==0.9.5" in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_needs_no_llama_factory(tmp_path):
    result = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0
    assert "key=value" in result.stdout


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        (None, [], "no such file"),
        ("a: [", [], "not YAML"),
        ("- a", [], "not `key: value` lines"),
        ("a: 1", ["--learning_rate"], "write key=value"),
        ("a: 1", ["--learning_rate=1"], "write key=value"),
        ("a: 1", ["learning_rate"], "write key=value"),
        ("position_balance: true", [], "belongs into the config.json"),
        ("a: 1", ["position_balance=true"], "belongs into the config.json"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path, content, overrides, message):
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        read_settings(str(file), overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("argv", [[], ["train"], ["chat", "x.yaml"]])
def test_wrong_commands(argv):
    with pytest.raises(InputError, match="see --help"):
        main(argv)


def test_only_forks_are_trained(kit):
    fork = copy.deepcopy(kit.with_flag(True))  # PEFT freezes it
    adapted = get_peft_model(fork, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    require_fork(adapted, True)
    require_fork(fork, True)
    with pytest.raises(InputError, match="instead of this repository's class"):
        require_fork(fork, False)
    with pytest.raises(InputError, match=r"built transformers\..*ForConditionalGeneration instead"):
        require_fork(kit.upstream, False)


def test_registration_is_checked():
    """In a process of its own: registration is global."""
    code = """
from models.errors import InputError
from models.load import FORKS, register_auto_classes
from train.llama_factory import require_forks_registered
for model_type in FORKS:
    try:
        require_forks_registered(model_type)
        raise SystemExit(f"{model_type}: upstream's class was taken for ours")
    except InputError as error:
        assert "transformers would build" in str(error)
register_auto_classes()
for model_type in FORKS:
    require_forks_registered(model_type)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_base_is_read(base):
    settings = {"model_name_or_path": str(base)}
    assert read_base(settings)["position_balance"] is True
    for key in ("packing", "neat_packing"):
        with pytest.raises(InputError, match=f"{key}: position_balance is on"):
            read_base(settings | {key: True})
    edit(base / "config.json", position_balance=False)
    assert read_base(settings | {"packing": True})["position_balance"] is False
    edit(base / "config.json", position_balance="yes")
    with pytest.raises(InputError, match='write "position_balance": true'):
        read_base(settings)
    edit(base / "config.json", position_balance=True, mm_vision_tower="openai/clip")
    with pytest.raises(InputError, match="give a checkpoint in the transformers layout"):
        read_base(settings)
    edit(base / "config.json", model_type="llama")
    with pytest.raises(InputError, match="model_type 'llama'"):
        read_base(settings)


def test_an_adapter_keeps_its_flag_and_its_base(base, adapter, tiny_folders, tmp_path):
    edit(base / "config.json", position_balance=False)
    assert load_model(adapter)[0].config.position_balance is True
    check_adapter(str(adapter), str(base), True)
    with pytest.raises(InputError, match="trained with position_balance true; .*/config.json has false"):
        check_adapter(str(adapter), str(base), False)
    with pytest.raises(InputError, match="whose weights .* does not have"):
        check_adapter(str(adapter), str(tiny_folders["llava_next_mistral"]), True)
    with pytest.raises(InputError, match=r"no adapter_config\.json"):
        check_adapter(str(base), str(base), True)
    (adapter / "config.json").unlink()
    (adapter / "training.json").unlink()
    check_adapter(str(adapter), str(base), False)  # made by LLaMA-Factory alone, which knows no flag


def test_nothing_is_written_beside_a_whole_checkpoint(base):
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    write_beside(base, {"position_balance": False}, {"base": {"path": str(base), "revision": None}})
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
