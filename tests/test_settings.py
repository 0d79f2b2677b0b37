"""train/settings.py: recipes, flags and what does not go together."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from models.errors import InputError
from train.settings import FIELDS, OTHER_NAMES, Settings, check_settings, find_file, parse_settings

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "configs/train").glob("*.yaml"))
MINIATURE = sorted((ROOT / "configs/train/miniature").glob("*.yaml"))


def parse(*words: str) -> Settings:
    return parse_settings("A test.", list(words))


@pytest.fixture
def recipe(tmp_path):
    """Text -> a recipe's path."""

    def write(text: str) -> str:
        (tmp_path / "recipe.yaml").write_text(text)
        return str(tmp_path / "recipe.yaml")

    return write


def good(**values) -> Settings:
    return Settings(**{"model_path": "base", "data": ["a.json"], "output_dir": "run"} | values)


def test_there_are_recipes():
    assert len(RECIPES) >= 14
    released = {path.name for path in RECIPES if not path.name.startswith("tiny_")}
    assert {f"tiny_{name}" for name in released} == {path.name for path in RECIPES} - released


@pytest.mark.parametrize("path", RECIPES + MINIATURE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes(path):
    """All parse and hold what they say. Those of released checkpoints train on eight GPUs, too: batches divide."""
    settings = parse("--config", str(path))
    check_settings(settings, 1)
    if path in RECIPES and not path.stem.startswith("tiny_"):
        at_once = min(settings.per_device_batch_size, settings.global_batch_size // 8)  # fewer change no result
        check_settings(dataclasses.replace(settings, per_device_batch_size=at_once), 8)
    assert settings.deepspeed is None or find_file(settings.deepspeed).is_file()
    written = yaml.safe_load(path.read_text())
    for name, value in written.items():
        assert getattr(settings, name) == value, name
    assert settings == dataclasses.replace(Settings(), **{name: getattr(settings, name) for name in written})


def test_a_tiny_recipe_is_its_twin():
    """The same stage and method, on little data."""
    for path in (path for path in RECIPES if path.stem.startswith("tiny_")):
        tiny, large = parse("--config", str(path)), parse("--config", str(path.with_name(path.name[5:])))
        for name in ("stage", "projector", "group_by", "lora_dropout", "position_balance", "freeze_vision_tower"):
            assert getattr(tiny, name) == getattr(large, name), f"{path.name}: {name}"


def test_flags_override_the_recipe(recipe):
    path = recipe("learning_rate: 1e-4\nlora_rank: 16\ndata: [a.json, b.json]\nbf16: false\n")
    settings = parse("--config", path, "--lora_rank", "4", "--data", "c.json", "--position_balance", "true")
    assert settings == Settings(learning_rate=1e-4, lora_rank=4, data=["c.json"], bf16=False, position_balance=True)
    assert isinstance(settings.learning_rate, float)


def test_flags_alone():
    assert parse() == Settings()
    assert parse("--lora_rank=4", "--local_rank=1") == Settings(lora_rank=4)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning_rate", "1e-3"], "learning_rate", 1e-3),
        (["--learning_rate", "1"], "learning_rate", 1.0),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--bf16", "false"], "bf16", False),
        (["--data", "a.json", "b.json"], "data", ["a.json", "b.json"]),
        (["--data", "1"], "data", ["1"]),
        (["--data"], "data", []),
        (["--data_weights", "0.5", "2"], "data_weights", [0.5, 2.0]),
        (["--model_path", "1234"], "model_path", "1234"),
        (["--model_path", "true"], "model_path", "true"),
        (["--model_path", "a: b"], "model_path", "a: b"),
        (["--model_path", "null"], "model_path", None),
        (["--position_balance", "null"], "position_balance", None),
        (["--image_max_pixels", "null"], "image_max_pixels", None),
        (["--projector_learning_rate", "0"], "projector_learning_rate", 0.0),
    ],
)
def test_flags(words, name, value):
    given = getattr(parse(*words), name)
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),  # which YAML takes for text
        ("num_epochs: 2", "num_epochs", 2.0),
        ("lora_target: q_proj", "lora_target", ["q_proj"]),
        ("data_weights: [1, 0.5]", "data_weights", [1.0, 0.5]),
        ("vision_tower: null", "vision_tower", None),
        ("position_balance: true", "position_balance", True),
    ],
)
def test_lines_of_a_recipe(recipe, text, name, value):
    given = getattr(parse("--config", recipe(text)), name)
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lerning_rate: 1", "no setting is called 'lerning_rate'; the nearest is 'learning_rate'"),
        ("lora_r: 8", "no setting is called 'lora_r'; here it is 'lora_rank"),
        ("1: 2", "no setting is called '1'"),
        ("lora_rank: 8.5", "lora_rank is 8.5; a whole number is expected"),
        ("lora_rank: true", "lora_rank is True; a whole number is expected"),
        ("lora_rank: null", "lora_rank is None; a whole number is expected"),
        ("learning_rate: fast", "learning_rate is 'fast'; a number is expected"),
        ("learning_rate: false", "learning_rate is False; a number is expected"),
        ("bf16: 1", "bf16 is 1; true or false is expected"),
        ("bf16: 'false'", "bf16 is 'false'; true or false is expected"),
        ("position_balance: maybe", "position_balance is 'maybe'; true or false is expected"),
        ("output_dir: 3", "output_dir is 3; text is expected"),
        ("data: [1]", "data is 1; text is expected"),
        ("data: null", "data is None; text is expected"),
        ("data_weights: [a]", "data_weights is 'a'; a number is expected"),
        ("stage: dpo", "stage is 'dpo'; choose one of pretrain, finetune, lora"),
        ("projector: none", "projector is 'none'; choose one of frozen, full, lora"),
        ("lr_scheduler: cosin", "lr_scheduler is 'cosin'; choose one of cosine, linear"),
        ("image_aspect_ratio: anyres", "image_aspect_ratio is 'anyres'; choose one of pad, square"),
        ("- stage", "not `key: value` lines"),
        ("", "not `key: value` lines"),
        ("stage: [", "not YAML"),
    ],
)
def test_recipes_that_cannot_be_read(recipe, text, told):
    path = recipe(text)
    with pytest.raises(InputError) as error:
        parse("--config", path)
    assert str(error.value).startswith(f"{path}: {told}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--lerning_rate", "1"],
            "--lerning_rate: no setting is called 'lerning_rate'; the nearest is 'learning_rate'",
        ),
        (["--lora-rank=3"], "--lora-rank=3: no setting is called 'lora-rank'; the nearest is 'lora_rank'"),
        (["--lora_ran", "3"], "--lora_ran: no setting is called 'lora_ran'; the nearest is 'lora_rank'"),
        (["rubbish"], "rubbish: no setting is called 'rubbish'"),
        (["--lora_rank", "many"], "--lora_rank is 'many'; a whole number is expected"),
        (["--lora_rank", "8.0"], "--lora_rank is 8.0; a whole number is expected"),
        (["--lora_rank", "null"], "--lora_rank is None; a whole number is expected"),
        (["--bf16", "1"], "--bf16 is 1; true or false is expected"),
        (["--bf16"], "argument --bf16: expected one argument"),
        (["--stage", "dpo"], "--stage is 'dpo'; choose one of pretrain, finetune, lora"),
        (["--learning_rate", "[1"], "--learning_rate is '[1'; a number is expected"),
        (
            ["--config", "nowhere.yaml"],
            "nowhere.yaml: no such file; the recipes are in configs/train",
        ),
    ],
)
def test_flags_that_cannot_be_read(words, told):
    with pytest.raises(InputError) as error:
        parse(*words)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_no_text(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"recipe\.yaml: UTF-16"):
        parse("--config", str(tmp_path / "recipe.yaml"))


def test_help_names_every_setting(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    for name in FIELDS:
        assert f"--{name} " in shown, name
    assert "--local_rank" not in shown


def test_files_of_the_repository(tmp_path, monkeypatch):
    """From any folder; a file of that name where the script is run goes first."""
    monkeypatch.chdir(tmp_path)
    name = "configs/deepspeed/zero2.json"
    assert find_file(name) == ROOT / name
    (tmp_path / "configs/deepspeed").mkdir(parents=True)
    (tmp_path / name).write_text("{}")
    assert find_file(name).resolve() == tmp_path / name
    assert find_file("nowhere.json") == Path("nowhere.json")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model_path": None, "vision_tower": "v", "language_model": "l", "stage": "pretrain"},
        {"data": ["a", "b"], "image_folder": ["x", "y"], "data_weights": [0, 0.5]},
        {"packing": True},
        {"projector": "full"},
        {"num_epochs": 0, "max_steps": 3},
        {"num_workers": 0, "max_bad_samples": 0, "lora_dropout": 0.5},
        {"global_batch_size": 16, "per_device_batch_size": 4},
    ],
    ids=str,
)
def test_what_goes_together(values):
    check_settings(good(**values), 4)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_path": None}, "give model_path, or vision_tower and language_model"),
        ({"vision_tower": "v", "language_model": "l"}, "give model_path, or vision_tower and language_model"),
        ({"model_path": None, "vision_tower": "v"}, "give model_path, or vision_tower and language_model"),
        ({"language_model": "l"}, "give model_path, or vision_tower and language_model"),
        ({"data": []}, "data: no file is given"),
        ({"output_dir": ""}, "output_dir: no folder is given"),
        ({"image_folder": ["x", "y"]}, "image_folder: give one folder for all files of data, or one for each"),
        ({"image_folder": []}, "image_folder: give one folder for all files of data, or one for each"),
        ({"data_weights": [1, 1]}, "data_weights: give one for each file of data, or none"),
        ({"data_weights": [-1]}, "data_weights: a negative one, or nothing but zeros"),
        ({"data_weights": [0]}, "data_weights: a negative one, or nothing but zeros"),
        ({"cutoff_len": 0}, "cutoff_len is 0; 1 or more is expected"),
        ({"global_batch_size": 0}, "global_batch_size is 0; 1 or more is expected"),
        ({"per_device_batch_size": -1}, "per_device_batch_size is -1; 1 or more is expected"),
        ({"lora_rank": 0}, "lora_rank is 0; 1 or more is expected"),
        ({"save_steps": 0}, "save_steps is 0; 1 or more is expected"),
        ({"save_total_limit": 0}, "save_total_limit is 0; 1 or more is expected"),
        ({"logging_steps": 0}, "logging_steps is 0; 1 or more is expected"),
        ({"num_workers": -1}, "num_workers is -1; 0 or more is expected"),
        ({"max_bad_samples": -1}, "max_bad_samples is -1; 0 or more is expected"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0; 0 or more and less than 1 is expected"),
        ({"lora_dropout": -0.1}, "lora_dropout is -0.1; 0 or more and less than 1 is expected"),
        ({"num_epochs": 0.0}, "num_epochs and max_steps: one of them must be positive"),
        (
            {"stage": "finetune", "projector": "full"},
            "projector: full is for stage lora; finetune trains the projector",
        ),
        (
            {"packing": True, "per_device_batch_size": 2},
            "packing makes one row of several samples; set per_device_batch",
        ),
        ({"packing": True, "group_by": "modality_length"}, "packing leaves nothing to group; set group_by: none"),
    ],
)
def test_what_does_not_go_together(values, told):
    with pytest.raises(InputError) as error:
        check_settings(good(**values), 1)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(("batch", "each", "processes"), [(8, 1, 3), (8, 3, 1), (8, 4, 4), (1, 1, 2)])
def test_a_batch_that_does_not_divide(batch, each, processes):
    told = (
        rf"global_batch_size {batch} does not divide by {each * processes} \(per_device_batch_size {each} x {processes}"
    )
    with pytest.raises(InputError, match=told):
        check_settings(good(global_batch_size=batch, per_device_batch_size=each), processes)


def test_defaults_are_not_shared():
    Settings().data.append("a.json")
    assert Settings().data == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("learning_rate", float("nan"), "learning_rate is nan; a finite number is expected"),
        ("learning_rate", -1e-4, "learning_rate is -0.0001; 0 or more is expected"),
        ("projector_learning_rate", float("inf"), "projector_learning_rate is inf; a finite number"),
        ("seed", -1, "seed is -1; 0 or more"),
        ("seed", 2**32, "seed is 4294967296; 4294967295 or less"),
        ("data_weights", [float("nan")], "data_weights is nan; a finite number"),
        ("data_weights", [float("inf")], "data_weights is inf; a finite number"),
        ("data_weights", [-1.0], "data_weights: a negative one"),
        ("data_weights", [1e30], "data_weights is 1e+30; 10000 or less"),
        ("num_epochs", float("inf"), "num_epochs is inf; a finite number"),
        ("weight_decay", -1.0, "weight_decay is -1.0; 0 or more"),
        ("max_grad_norm", float("nan"), "max_grad_norm is nan"),
        ("warmup_ratio", float("nan"), "warmup_ratio is nan"),
        ("lora_dropout", float("nan"), "lora_dropout is nan"),
        ("save_steps", 10**40, "save_steps is 10000"),
    ],
)
def test_numbers_out_of_range(name, value, told):
    settings = dataclasses.replace(Settings(model_path="m", data=["a"], output_dir="o"), **{name: value})
    with pytest.raises(InputError) as error:
        check_settings(settings, 1)
    assert str(error.value).startswith(told)


def test_the_largest_seed_is_one(recipe):
    check_settings(Settings(model_path="m", data=["a"], output_dir="o", seed=2**32 - 1), 1)
    torch.manual_seed(2**32 - 1)  # both are what transformers' set_seed does
    np.random.seed(2**32 - 1)
    with pytest.raises(ValueError, match="Seed must be between"):
        np.random.seed(2**32)


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("gradient_accumulation_steps", "global_batch_size"),
        ("per_device_train_batch_size", "per_device_batch_size"),
        ("num_train_epochs", "num_epochs"),
        ("lora_r", "lora_rank"),
        ("model_name_or_path", "model_path"),
        ("model_max_length", "cutoff_len"),
        ("mm_projector_lr", "projector_learning_rate"),
    ],
)
def test_the_fields_names_lead_to_ours(name, here, recipe):
    for words in (("--config", recipe(f"{name}: 1")), (f"--{name}", "1")):
        with pytest.raises(InputError, match=f"no setting is called '{name}'; here it is '{here}'"):
            parse(*words)


def test_all_hints_name_settings():
    """And no hint hides a setting of that name; each other name is one of transformers', PEFT's or a code base's."""
    for name, hint in OTHER_NAMES.items():
        assert name not in FIELDS
        assert re.match("'(.*?)'", hint)[1] in FIELDS


def test_a_key_twice_in_a_recipe(recipe):
    with pytest.raises(InputError, match=r"key 'learning_rate' \(line 2\) is there twice"):
        parse("--config", recipe("learning_rate: 1e-4\nlearning_rate: 2e-5"))


@pytest.mark.parametrize("name", ["model_path", "output_dir", "deepspeed"])
@pytest.mark.parametrize(("value", "told"), [("x" * 256, "longer than 255 bytes"), ("a\nb", "a line break")])
def test_names_in_a_recipe(name, value, told):
    settings = dataclasses.replace(Settings(model_path="m", data=["a"], output_dir="o"), **{name: value})
    with pytest.raises(InputError, match=f"{name} .*: the name .*{told}"):
        check_settings(settings, 1)
