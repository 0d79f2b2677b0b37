"""train/sft.py from data to a checkpoint that loads: stages, batches, resume, stops."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import load_model
from models.errors import InputError
from models.tiny import FAMILIES, build_tiny
from tests.training import PHOTOS, SAMPLES, files_of_at_most, largest_difference, losses, train_here, weights
from train import sft

FULL_PROJECTOR = {"projector": "full", "projector_learning_rate": 1e-3}


@pytest.fixture(scope="module")
def llava(tiny_folders):
    return tiny_folders["llava"]


@pytest.fixture(scope="module")
def reference(llava, tmp_path_factory):
    """A LoRA run that nothing disturbed."""
    return train_here(tmp_path_factory.mktemp("reference") / "run", model_path=llava, **FULL_PROJECTOR)


@pytest.mark.parametrize(
    "changed",
    [{"per_device_batch_size": 4}, {"per_device_batch_size": 1}, {"gradient_checkpointing": True}, {"num_workers": 2}],
    ids=lambda changed: next(iter(changed)) + str(next(iter(changed.values()))),
)
def test_what_does_not_decide_changes_nothing(llava, reference, tmp_path, changed):
    """Accumulation gives the loss of the big batch, weighted by token, although its rows are of unequal length."""
    run = train_here(tmp_path / "run", model_path=llava, **FULL_PROJECTOR, **changed)
    of_losses, of_weights = largest_difference(run, reference)
    assert of_losses < 1e-5
    assert of_weights < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_packing_trains_as_rows_do(tiny_folders, tmp_path, family):
    """One step of all samples, in rows of several or in rows of one: the same loss, the same update."""
    few = tmp_path / "few.json"
    few.write_text(json.dumps(json.loads((SAMPLES / "instructions.json").read_text())[-8:]))
    common = {"model_path": tiny_folders[family], "data": few, "max_steps": 2, "position_balance": True}
    rows = train_here(tmp_path / "rows", global_batch_size=8, **common)
    packed = {"packing": True, "per_device_batch_size": 1, "cutoff_len": 4096, "global_batch_size": 1}
    packed = train_here(tmp_path / "packed", **common, **packed)
    of_losses, _ = largest_difference(rows, packed)
    assert of_losses < 1e-5
    assert losses(rows)[0] != losses(rows)[1]


def resumed(unbroken, folder, **settings):
    """A copy of a run as it was after its first checkpoint, gone on with."""
    shutil.copytree(unbroken, folder)
    (folder / "training.json").unlink()
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-2":
            shutil.rmtree(checkpoint)
    return train_here(folder, save_total_limit=9, resume="auto", **settings)


RESUMED = {
    "lora": {"lora_dropout": 0.3} | FULL_PROJECTOR,
    "finetune": {"stage": "finetune", "learning_rate": 1e-3},
    "finetune with tower": {"stage": "finetune", "learning_rate": 1e-3, "freeze_vision_tower": False},
    "pretrain": {"stage": "pretrain", "data": SAMPLES / "captions.json"},
    "bf16": {"stage": "finetune", "learning_rate": 1e-3, "bf16": True},
    "packing": {"packing": True, "per_device_batch_size": 1, "cutoff_len": 600},
    "second epoch": {"max_steps": -1, "num_epochs": 2, "global_batch_size": 40, "save_steps": 1, "lora_dropout": 0.3},
}


@pytest.mark.parametrize("case", RESUMED)
def test_two_and_two_updates_are_four(llava, tmp_path, case):
    """Model, optimizer, schedule, dropout and the order of the data go on as if nothing had happened."""
    settings = {"model_path": llava} | RESUMED[case]
    unbroken = train_here(tmp_path / "unbroken", save_total_limit=9, **settings)
    assert len(losses(unbroken)) == 4
    again = resumed(unbroken, tmp_path / "again", **settings)
    assert largest_difference(unbroken, again) == (0, 0)
    assert len(set(losses(unbroken))) == 4


def test_a_finished_run_is_left_alone(reference, llava, capsys):
    before = (reference / "adapter_model.safetensors").stat().st_mtime_ns
    train_here(reference, model_path=llava, resume="auto", **FULL_PROJECTOR)
    assert "finished already" in capsys.readouterr().out
    assert (reference / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_run_killed_while_publishing_publishes_again(reference, llava, tmp_path):
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/training.json").unlink()
    (tmp_path / "run/adapter_model.safetensors").unlink()
    train_here(tmp_path / "run", model_path=llava, resume="auto", **FULL_PROJECTOR)
    assert largest_difference(tmp_path / "run", reference) == (0, 0)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_not_gone_on_with(reference, llava, tmp_path, name):
    """transformers goes on without them, and trains other weights."""
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/training.json").unlink()
    (tmp_path / "run/checkpoint-4" / name).unlink()
    with pytest.raises(InputError, match=f"checkpoint-4/{name} is missing; restore it, or delete .* to start anew"):
        train_here(tmp_path / "run", model_path=llava, resume="auto", **FULL_PROJECTOR)


@pytest.mark.parametrize("place", [{"model_path": "nowhere"}, {"lora_target": "nothing"}, {"cutoff_len": 10}])
def test_a_run_that_was_refused_can_be_corrected_at_once(llava, tmp_path, place):
    with pytest.raises(InputError):
        train_here(tmp_path / "run", **{"model_path": llava} | place)
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == (["run", "dropped.jsonl"] if "cutoff_len" in place else [])
    train_here(tmp_path / "run", model_path=llava, max_steps=1)


@pytest.mark.parametrize(
    ("size", "written"), [(3000, "run/.data"), (40_000, "checkpoint-2"), (120_000, "checkpoint-2")]
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(llava, reference, tmp_path, size, written):
    with pytest.raises(InputError, match=rf"{written}\S*: cannot be written .*; free space, or choose another disk$"):
        with files_of_at_most(size):
            train_here(tmp_path / "run", model_path=llava, **FULL_PROJECTOR)
    resume = {} if written == "run/.data" else {"resume": "auto"}
    train_here(tmp_path / "run", model_path=llava, **FULL_PROJECTOR, **resume)
    assert largest_difference(tmp_path / "run", reference) == (0, 0)
    modes = {path.stat().st_mode for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", [False, True])
def test_an_adapter_carries_the_flag_and_is_evaluated_as_trained(tiny_folders, tmp_path, family, flag):
    run = train_here(tmp_path / "run", model_path=tiny_folders[family], position_balance=flag, max_steps=2)
    assert json.loads((run / "config.json").read_text())["position_balance"] is flag
    training = json.loads((run / "training.json").read_text())
    assert training["position_balance"] is flag
    assert "model.safetensors" in training["base"]["files"]
    model, processor = load_model(run)
    assert model.config.position_balance is flag
    assert processor.chat_template == load_model(tiny_folders[family])[1].chat_template
    assert sum(weight.abs().sum() for name, weight in model.named_parameters() if "lora_B" in name) > 0


def test_llava_from_its_parts(tmp_path):
    """Assembly, pre-training, tuning, loading: only the projector moves in stage 1, the tower never."""
    clip = build_tiny("llava", tmp_path / "clip", part="vision_tower")
    vicuna = build_tiny("llava", tmp_path / "vicuna", part="language_model")
    parts = {"vision_tower": clip, "language_model": vicuna, "position_balance": True, "image_aspect_ratio": "square"}
    captions = SAMPLES / "captions.json"
    first = train_here(tmp_path / "pretrain", stage="pretrain", data=captions, **parts)
    second = train_here(tmp_path / "finetune", stage="finetune", model_path=first, image_aspect_ratio="pad")
    assembled, pretrained, tuned = (weights(folder) for folder in (first / "assembled", first, second))
    moved = {name for name in assembled if not torch.equal(assembled[name], pretrained[name])}
    assert moved
    assert all("multi_modal_projector" in name for name in moved)
    moved = {name for name in assembled if not torch.equal(pretrained[name], tuned[name])}
    assert any("language_model" in name for name in moved)
    assert not any("vision_tower" in name for name in moved)
    model, processor = load_model(second)
    assert model.config.position_balance is True
    assert processor.image_processor.do_pad is True
    assert json.loads((second / "config.json").read_text()).get("use_cache", True)  # training's own affair
    assert load_model(first)[1].image_processor.do_pad is False


def test_bf16_publishes_in_bfloat16(llava, tmp_path):
    run = train_here(tmp_path / "run", model_path=llava, stage="finetune", bf16=True, max_steps=1)
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.bfloat16}
    model, _ = load_model(run, dtype="auto")
    assert model.dtype == torch.bfloat16


def test_a_loss_that_is_not_finite_stops_with_the_batch(tiny_folders, tmp_path):
    """With the samples' names."""
    base = shutil.copytree(tiny_folders["llava"], tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["language_model.lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="the loss is nan at step 1; its samples are in"):
        train_here(tmp_path / "run", model_path=base)
    batch = json.loads((tmp_path / "run/bad_batch.json").read_text())
    assert batch["step"] == 1
    assert len(batch["samples"]) == 2
    assert all("instructions.json, sample" in name for name in batch["samples"])


@pytest.fixture
def broken_pictures(tmp_path):
    """A copy of the photos in which three, with sound headers, cannot be decoded."""
    folder = shutil.copytree(PHOTOS, tmp_path / "photos")
    for name in ("cat.jpg", "coffee.jpg", "horse.jpg"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    return folder


def test_broken_pictures_are_left_out_and_listed(llava, broken_pictures, tmp_path):
    settings = {"model_path": llava, "image_folder": broken_pictures, "max_steps": -1, "save_steps": 100}
    run = train_here(tmp_path / "run", **settings)
    lines = [json.loads(line) for line in (run / "unreadable.jsonl").read_text().splitlines()]
    assert len(lines) == 9
    assert all("truncated" in line["reason"] for line in lines)
    with pytest.raises(InputError, match="images could not be decoded, more than max_bad_samples 3"):
        train_here(tmp_path / "strict", max_bad_samples=3, **settings)


def test_tensorboard_gets_the_losses(llava, tmp_path):
    run = train_here(tmp_path / "run", model_path=llava, report_to="tensorboard", max_steps=1)
    assert list(run.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_path": "nowhere"}, "nowhere: no such folder"),
        ({"model_path": "LLAVA", "data": "nowhere.json"}, "data: nowhere.json: no such file"),
        ({"model_path": "LLAVA", "image_folder": "nowhere"}, "image_folder: nowhere: no such folder"),
        ({"model_path": "LLAVA", "output_dir": "LLAVA"}, "is model_path, too; name another folder"),
        ({"model_path": "LLAVA", "report_to": "trackio"}, "trackio is asked for but not installed"),
        ({"model_path": "LLAVA", "deepspeed": "nowhere.json"}, "deepspeed: nowhere.json: no such file"),
        ({"model_path": "LLAVA", "global_batch_size": 3}, "global_batch_size 3 does not divide by 2"),
        ({"model_path": "LLAVA", "lora_target": "q_prj"}, "lora_target: no linear layer is called 'q_prj'"),
        ({"model_path": "LLAVA", "vision_tower": "x"}, "give model_path, or vision_tower and language_model"),
        ({"model_path": "LLAVA", "cutoff_len": 20}, "data: no sample is left of 41"),
        ({"model_path": "LLAVA", "stage": "pretrain"}, "pre-training takes one image and one caption"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_line(llava, tmp_path, settings, message):
    settings = {name: llava if value == "LLAVA" else value for name, value in settings.items()}
    with pytest.raises(InputError) as caught:
        train_here(tmp_path / "run", **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_recipe_cannot_go_on(reference, llava):
    with pytest.raises(InputError, match=r"holds a run of another recipe \(learning_rate: 0.01 -> 0.02\)"):
        train_here(reference, model_path=llava, resume="auto", learning_rate=0.02, **FULL_PROJECTOR)
    with pytest.raises(InputError, match="--resume auto goes on with its run"):
        train_here(reference, model_path=llava, **FULL_PROJECTOR)


def test_other_data_cannot_go_on(llava, tmp_path):
    """The file has changed since: the plan of the epoch would be another one."""
    data = tmp_path / "data.json"
    data.write_text((SAMPLES / "instructions.json").read_text())
    run = train_here(tmp_path / "run", model_path=llava, data=data, max_steps=2)
    (run / "training.json").unlink()
    data.write_text(json.dumps(json.loads(data.read_text())[::-1]))
    with pytest.raises(InputError, match="are not those that it was started with"):
        train_here(run, model_path=llava, data=data, max_steps=2, resume="auto")


def test_an_adapter_is_not_a_base(reference, tmp_path):
    with pytest.raises(InputError, match="is an adapter; merge it"):
        train_here(tmp_path / "run", model_path=reference)


def test_the_first_sample_is_shown_with_its_supervised_part(llava, tmp_path, capsys):
    train_here(tmp_path / "run", model_path=llava, max_steps=1)
    shown = capsys.readouterr().out
    assert "<image>*16\nWhat colour is the space suit? ASSISTANT:>>> Orange.</s><<<" in shown
    assert "learning_rate: 0.01" in shown
    assert "position_balance is false" in shown


def test_out_of_memory_names_the_knob(llava, tmp_path, monkeypatch):
    """A real allocation that cannot be had, in the place where activations are."""

    def greedy(*arguments, **more):
        return torch.empty(1 << 60)

    monkeypatch.setattr(sft.SftTrainer, "compute_loss", greedy)
    with pytest.raises(InputError, match="out of memory: set per_device_batch_size below 2"):
        train_here(tmp_path / "run", model_path=llava)
