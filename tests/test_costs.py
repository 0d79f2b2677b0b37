"""Costs of training: counted on tensors without values, equal to what real tensors take."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from models.errors import InputError
from models.load import FORKS
from train import costs
from train.budget import gpu_counts, hours, memory_by_part, read_zero
from train.counting import Meter, Step, count_step, forward_loss, traced_model
from train.geometry import (
    GEOMETRIES,
    batch_of,
    count_parameters,
    empty_model,
    image_tokens,
    model_config,
    new_model,
    patch_grid,
)
from train.settings import Settings, read_recipe
from train.stages import trainable_model

IMAGE = (56, 84)
DOCS = Path("docs/training.md")
COUNTS = Path("docs/training_costs.json")


def tiny_batch(config, rows: int = 2) -> dict:
    return batch_of(config, rows, image_tokens(config, IMAGE) + 40, IMAGE)


def real_model(config, settings: Settings) -> torch.nn.Module:
    return trainable_model(new_model(config, settings), settings)


def real(batch: dict) -> dict:
    return {name: tensor.contiguous() for name, tensor in batch.items()}


@pytest.fixture
def recipe(tiny_folders, tmp_path):
    """Family and keys -> the path of a recipe that starts from its tiny checkpoint."""

    def write(family: str = "llava", **keys) -> Path:
        keys = {"stage": "lora", "model_path": str(tiny_folders[family])} | keys
        path = tmp_path / f"tiny_{family}.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
        return path

    return write


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llava", "llava_next_mistral", "llava_next_llama3", "qwen2_5_vl", "gemma3"])
def test_a_step_without_values_takes_what_a_real_one_takes(tiny_folders, family, checkpointing):
    settings = Settings(
        model_path=str(tiny_folders[family]), gradient_checkpointing=checkpointing, position_balance=True
    )
    config = model_config(settings, "tiny")
    expected = count_step(real_model(config, settings), real(tiny_batch(config)), settings)
    assert count_step(traced_model(config, settings), tiny_batch(config), settings) == expected


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "lora"])
@pytest.mark.parametrize("deepspeed", [None, "configs/deepspeed/zero3.json"])
def test_every_stage_and_precision_takes_what_a_real_step_takes(tiny_folders, stage, deepspeed):
    settings = Settings(stage=stage, model_path=str(tiny_folders["llava"]), deepspeed=deepspeed)
    config = model_config(settings, "tiny")
    expected = count_step(real_model(config, settings), real(tiny_batch(config)), settings)
    assert count_step(traced_model(config, settings), tiny_batch(config), settings) == expected


def test_gradients_are_not_counted_with_the_activations(tiny_folders):
    """Of a wide model on few tokens, where all gradients together are far more than all activations."""
    settings = Settings(stage="finetune", model_path=str(tiny_folders["llava"]))
    config = model_config(settings, "tiny")
    config.text_config.intermediate_size, config.text_config.num_hidden_layers = 4096, 6
    model = traced_model(config, settings)
    step = count_step(model, batch_of(config, 1, 20, IMAGE), settings)
    assert step.activations < 0.8 * sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    assert all(weight.grad is None for weight in model.parameters())


def test_flops_are_torchs(tiny_folders):
    """Eager attention, whose products torch's own counter knows."""
    settings = Settings(model_path=str(tiny_folders["gemma3"]), attn_implementation="eager")
    config = model_config(settings, "tiny")
    model, batch = real_model(config, settings), real(tiny_batch(config))
    with FlopCounterMode(display=False) as counter:
        forward_loss(model, batch, settings).backward()
    assert count_step(model, batch, settings).flops == counter.get_total_flops()


def test_attention_counts_and_costs_no_square_in_memory(tiny_folders):
    """sdpa's FLOPs are eager's plus the scores that its backward pass makes again; its memory is linear."""
    counted = {}
    for attention in ("eager", "sdpa"):
        settings = Settings(model_path=str(tiny_folders["llava"]), attn_implementation=attention)
        config = model_config(settings, "tiny")
        batch = batch_of(config, 1, 400, IMAGE)
        counted[attention] = count_step(traced_model(config, settings), batch, settings)
    text = config.text_config
    head = text.hidden_size // text.num_attention_heads
    again = text.num_hidden_layers * text.num_attention_heads * 2 * 400 * 400 * head
    assert counted["sdpa"].flops - counted["eager"].flops == again
    assert counted["sdpa"].activations < counted["eager"].activations


def test_the_meter_counts_live_tensors_once():
    weight = torch.zeros(256)
    with Meter([weight]) as meter:
        first = weight + 1
        view = first[:128]
        second = view.clone()
        del first, view
        assert meter.now == 512
        second = second.to(torch.bfloat16)
        third = weight.view(2, 128)
    assert (meter.now, meter.peak) == (256, 1536)
    assert third.shape == (2, 128)


def test_checkpointing_saves_memory_and_costs_flops(tiny_folders):
    settings = Settings(model_path=str(tiny_folders["llava"]))
    config = model_config(settings, "tiny")
    config.text_config.num_hidden_layers = 12
    once = dataclasses.replace(settings, gradient_checkpointing=True)
    kept = count_step(traced_model(config, settings), tiny_batch(config), settings)
    again = count_step(traced_model(config, once), tiny_batch(config), once)
    assert again.activations < 0.6 * kept.activations
    assert again.flops > 1.2 * kept.flops


BILLIONS = {
    "llava_1_5_7b": 7.06,
    "llava_1_6_mistral_7b": 7.57,
    "llama3_llava_next_8b": 8.36,
    "qwen2_5_vl_7b": 8.29,
    "qwen2_5_vl_32b": 33.45,
    "gemma3_12b": 12.19,
}


@pytest.mark.parametrize("name", BILLIONS)
def test_geometries_have_the_released_sizes(name):
    """Weights as the model cards state them."""
    settings = Settings()
    model = empty_model(model_config(settings, "", name), settings)
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(BILLIONS[name], abs=0.01)


def test_every_released_checkpoint_has_a_geometry():
    assert set(GEOMETRIES) == set(BILLIONS) == {file.stem for file in Path("configs/models").glob("*.json")}
    for name in GEOMETRIES:
        entry = json.loads(Path(f"configs/models/{name}.json").read_text())
        assert entry["model_type"] == GEOMETRIES[name][0]
        config = model_config(Settings(model_path=entry["hub_id"]), "mine")
        assert config.to_dict() == model_config(Settings(), "", name).to_dict()


def test_lora_of_qwen_trains_seven_layers_a_block():
    """Rank 8 on q, k, v, o, gate, up and down of 28 blocks; nothing else."""
    settings = Settings(model_path="Qwen/Qwen2.5-VL-7B-Instruct")
    model = traced_model(model_config(settings, "qwen2_5_vl_lora"), settings)
    hidden, values, wide = 3584, 512, 18944
    sides = 2 * (hidden + hidden) + 2 * (hidden + values) + 3 * (hidden + wide)
    counts = count_parameters(model)
    assert {part: count["trained"] for part, count in counts.items()} == {
        "vision tower": 0,
        "projector": 0,
        "language model": 0,
        "LoRA": 28 * 8 * sides,
    }
    assert counts["language model"]["all"] == 7_615_616_512


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (336, 336), (28, 1000), (1000, 1400)])
def test_qwen_patches_are_the_processors(size):
    config = model_config(Settings(), "", "qwen2_5_vl_7b")
    expected = smart_resize(*size, factor=28, min_pixels=56 * 56, max_pixels=28 * 28 * 1280 * 2)
    assert patch_grid(config, size) == tuple(side // 14 for side in expected)


def test_images_of_a_recipe_are_scaled_as_it_says():
    assert costs.scaled(Settings(image_max_pixels=76800), (480, 640)) == (240, 320)
    assert costs.scaled(Settings(image_max_pixels=589824), (480, 640)) == (480, 640)
    assert costs.scaled(Settings(), (4800, 6400)) == (4800, 6400)


def test_images_have_the_models_number_of_tokens():
    tokens = {name: image_tokens(model_config(Settings(), "", name), (480, 640)) for name in GEOMETRIES}
    assert tokens["llava_1_5_7b"] == 576
    assert tokens["gemma3_12b"] == 256
    assert tokens["qwen2_5_vl_7b"] == 17 * 23
    assert tokens["llava_1_6_mistral_7b"] == 576 + 36 * 49  # 48 x 48 patches cut to 3:4, a newline to each row


WEIGHTS = {"all": 8_000_000_000, "trained": 2_000_000_000, "bytes": 20e9, "trained_bytes": 8e9, "hidden_size": 4096}


def test_memory_without_deepspeed():
    alone = memory_by_part(WEIGHTS, Step(7, 0), {}, 1)
    assert alone == {"weights": 20e9, "gradients": 8e9, "optimizer": 16e9, "buffers": 0, "activations": 7}
    assert memory_by_part(WEIGHTS, Step(7, 0), {}, 4) == alone | {"buffers": 8e9}


def test_memory_with_zero():
    """2 bytes a weight and a gradient, 12 an optimizer state; buckets and gathered weights in bfloat16."""
    two = memory_by_part(WEIGHTS, Step(7, 0), {"stage": 2, "reduce_bucket_size": 1e8}, 4)
    assert two == {"weights": 16e9, "gradients": 1e9, "optimizer": 6e9, "buffers": 2e8, "activations": 7}
    three = memory_by_part(WEIGHTS, Step(7, 0), {"stage": 3, "reduce_bucket_size": "auto"}, 8)
    buffers = 2 * (10**9 + 2 * 4096**2)
    assert three == {"weights": 2e9, "gradients": 5e8, "optimizer": 3e9, "buffers": buffers, "activations": 7}
    away = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    offloaded = memory_by_part(WEIGHTS, Step(7, 0), {"stage": 3, "reduce_bucket_size": "auto"} | away, 8)
    assert offloaded == three | {"weights": 0, "gradients": 0, "optimizer": 0}


def test_gpus_divide_the_batch():
    assert gpu_counts(Settings(global_batch_size=16, per_device_batch_size=2)) == [1, 2, 4, 8]
    assert gpu_counts(Settings(global_batch_size=6)) == [1, 2, 3, 6]


def test_hours_are_flops_over_speed():
    assert hours(989e12 * 3600, 1, "H100-80GB", 1.0) == pytest.approx(1)
    assert hours(312e12 * 3600 * 4, 2, "A100-80GB", 0.5) == pytest.approx(4)


def test_more_gpus_until_the_recipe_fits(recipe, capsys):
    """A tiny model beside a huge reserve, up to one that leaves nothing."""
    path = recipe(stage="finetune", deepspeed="configs/deepspeed/zero3.json", global_batch_size=12)
    assert costs.main(["--recipe", str(path), "--reserved_gb", "79.9"]) == 0
    assert "| tiny_llava | 1 |" in capsys.readouterr().out
    assert costs.main(["--recipe", str(path), "--reserved_gb", "80"]) == 0
    assert "| tiny_llava | does not fit 12 |" in capsys.readouterr().out


def test_counts_are_kept_and_drawn(recipe, tmp_path, capsys):
    saved, picture = tmp_path / "costs.json", tmp_path / "memory.png"
    assert costs.main(["--recipe", str(recipe()), "--output_json", str(saved), "--output_plot", str(picture)]) == 0
    first = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert costs.main(["--counts", str(saved)]) == 0
    assert capsys.readouterr().out == first
    assert costs.main(["--counts", str(saved), "--gpu", "A100-80GB", "--utilisation", "0.5"]) == 0
    assert "A100-80GB; assumed: 50%" in capsys.readouterr().out


def test_hours_follow_samples_and_speed(capsys):
    given = ["--counts", str(COUNTS), "--recipe", "llava_1_5_pretrain", "--gpus", "2", "--samples"]
    spent = {}
    for samples in ("1000000", "2000000"):
        for utilisation in ("0.25", "0.5"):
            assert costs.main([*given, samples, "--utilisation", utilisation]) == 0
            row = capsys.readouterr().out.splitlines()[4]
            assert row.startswith("| llava_1_5_pretrain | 2 |")
            spent[samples, utilisation] = float(row.split("|")[-3])
    assert spent["2000000", "0.5"] == pytest.approx(spent["1000000", "0.25"], rel=0.02)
    assert spent["2000000", "0.25"] == pytest.approx(4 * spent["1000000", "0.5"], rel=0.02)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_measuring_runs_real_steps(recipe, capsys, family):
    assert costs.main(["--recipe", str(recipe(family, per_device_batch_size=2)), "--measure", "1"]) == 0
    off, on = capsys.readouterr().out.splitlines()
    assert f"tiny_{family}: position_balance false: " in off
    assert f"tiny_{family}: position_balance true: " in on
    assert float(on.split("true: ")[1].split(" tokens/s")[0].replace(",", "")) > 0


def test_measuring_in_full_size_needs_a_gpu(recipe, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="8.3 billion weights need a GPU"):
        costs.main(["--recipe", str(recipe()), "--geometry", "qwen2_5_vl_7b", "--measure", "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "none_such"], "none_such.yaml: no such file"),
        (["--image_size", "640"], "not HEIGHTxWIDTH"),
        (["--utilisation", "1.5"], "not above 0 and at most 1"),
        (["--gpus", "0"], "not above 0"),
        (["--gpu", "TPU"], "invalid choice"),
        (["--output_plot", "x.jpg"], "must end in"),
        (["--counts", str(COUNTS), "--mean_text", "9"], "--mean_text changes what is counted"),
        (["--counts", str(COUNTS), "--recipe", "mine"], "no recipe mine; there are gemma3_lora"),
        (["--counts", "configs/models/gemma3_12b.json"], "not a file that --output_json wrote"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as told:
        costs.main(arguments)
    assert "\n" not in str(told.value)


def test_an_image_that_does_not_fit_is_said(recipe):
    with pytest.raises(InputError, match="cannot hold an image of 16 tokens"):
        costs.main(["--recipe", str(recipe(cutoff_len=17))])


def test_an_unknown_model_is_said(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model_path: nobody/none\n")
    with pytest.raises(InputError, match="nobody/none is neither a folder here nor a released model"):
        costs.main(["--recipe", str(path)])


def test_the_docs_show_what_the_command_prints(capsys):
    assert costs.main(["--counts", str(COUNTS)]) == 0
    assert capsys.readouterr().out in DOCS.read_text(encoding="utf-8")


def test_the_docs_are_of_todays_recipes():
    entries = json.loads(COUNTS.read_text())["counts"]
    files = sorted(file for file in Path("configs/train").glob("*.yaml") if not file.stem.startswith("tiny_"))
    assert [entry["recipe"] for entry in entries] == [file.stem for file in files]
    for entry, file in zip(entries, files, strict=True):
        settings = Settings(**read_recipe(file))
        assert entry["settings"] == {key: getattr(settings, key) for key in costs.COST_KEYS}, file


def test_qwens_lora_still_counts_what_the_docs_say_and_fits_one_card():
    stored = json.loads(COUNTS.read_text())
    entry = next(entry for entry in stored["counts"] if entry["recipe"] == "qwen2_5_vl_lora")
    settings = Settings(**entry["settings"])
    config = model_config(settings, entry["recipe"])
    longest = entry["longest"]["as is"]
    assert longest["tokens"] == settings.cutoff_len
    step = count_step(
        traced_model(config, settings), batch_of(config, longest["rows"], longest["tokens"], (480, 640)), settings
    )
    assert step == Step(longest["activations"], longest["flops"])
    memory = memory_by_part(entry["weights"], step, read_zero(settings.deepspeed), 1)
    assert sum(memory.values()) < 76e9
    assert config.model_type in FORKS
