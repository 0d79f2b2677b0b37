"""train/stages.py: which weights each stage trains, how precise they are and how fast they learn."""

import copy

import pytest
import torch

from models.errors import InputError
from models.tiny import FAMILIES
from tests.pictures import picture
from train.settings import Settings
from train.stages import parameter_groups, trainable_model

# Linear layers of the tiny language models: two decoder layers of seven.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
# Number of the projector's weights, and of those that are matrices of linear layers.
PROJECTOR = {
    "llava": (4, 2),
    "llava_next_mistral": (4, 2),
    "llava_next_llama3": (4, 2),
    "qwen2_5_vl": (5, 2),
    "gemma3": (2, 0),
}


def settings(**values) -> Settings:
    return Settings(**{"bf16": False} | values)


def staged(kit, **values):
    return trainable_model(copy.deepcopy(kit.fork), settings(**values))


def trained(model) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def lora_modules(model) -> set[str]:
    """Names of the layers that have LoRA's matrices, as the fork calls them."""
    names = [name for name in trained(model) if "lora_A" in name]
    assert len([name for name in trained(model) if "lora_B" in name]) == len(names)
    return {name.removeprefix("base_model.model.").split(".lora_A")[0] for name in names}


def in_projector(kit, name: str) -> bool:
    return f"model.{kit.fork.projector_name}." in name


def test_pretraining_trains_the_projector(kit):
    names = set(trained(staged(kit, stage="pretrain")))
    newline = {"model.image_newline"} if kit.family.startswith("llava_next") else set()
    assert newline <= names
    assert all(name.startswith(f"model.{kit.fork.projector_name}.") for name in names - newline)
    assert len(names - newline) == PROJECTOR[kit.family][0]


@pytest.mark.parametrize("frozen", [True, False])
def test_finetuning(kit, frozen):
    """All but the vision tower, or all."""
    model = staged(kit, stage="finetune", freeze_vision_tower=frozen)
    tower = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(f"model.{kit.fork.tower_name}.") and not in_projector(kit, name)
    }
    assert tower
    everything = {name for name, _ in model.named_parameters()}
    assert set(trained(model)) == (everything - tower if frozen else everything)
    assert any("embed_tokens" in name for name in trained(model))
    assert model.lm_head.weight.requires_grad


def test_lora_on_all_linear_layers_of_the_language_model(kit):
    model = staged(kit, stage="lora")
    wanted = {
        f"model.language_model.layers.{layer}.{'self_attn' if name in ATTENTION else 'mlp'}.{name}"
        for layer in range(2)
        for name in LINEAR
    }
    assert lora_modules(model) == wanted
    assert len(trained(model)) == 2 * len(wanted)
    assert all(weight.shape[0 if "lora_A" in name else 1] == 8 for name, weight in trained(model).items())


def test_lora_on_some(kit):
    model = staged(kit, stage="lora", lora_target=["q_proj", "down_proj"], lora_rank=3, lora_alpha=12)
    assert {name.split(".")[-1] for name in lora_modules(model)} == {"q_proj", "down_proj"}
    assert len(lora_modules(model)) == 4
    assert not any("vision" in name or "visual" in name for name in lora_modules(model))
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.task_type) == (3, 12, "CAUSAL_LM")


@pytest.mark.parametrize("target", ["proj", "lm_head", "out_proj", "fc1", "self_attn", "q_pro."])
def test_lora_on_layers_that_are_not_there(kit, target):
    """The tower's and the head are not the language model's; names are no patterns."""
    there = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj, or all"
    with pytest.raises(InputError, match=f"lora_target: no linear layer is called '{target}'; there are {there}"):
        staged(kit, lora_target=["q_proj", target])


def test_lora_on_nothing(kit):
    with pytest.raises(InputError, match="lora_target: no layer is given; there are down_proj, .* or all"):
        staged(kit, lora_target=[])


def test_lora_and_the_whole_projector(kit):
    model = staged(kit, stage="lora", projector="full")
    assert len(lora_modules(model)) == 2 * len(LINEAR)
    others = {name for name in trained(model) if "lora_" not in name}
    assert len(others) == PROJECTOR[kit.family][0]
    assert all(f"{kit.fork.projector_name}.modules_to_save.default." in name for name in others)


def test_lora_on_the_projector(kit):
    if kit.family == "gemma3":  # whose projector is a bare matrix
        with pytest.raises(InputError, match="projector: lora: gemma3's has no linear layer; choose full or frozen"):
            staged(kit, stage="lora", projector="lora")
        return
    model = staged(kit, stage="lora", projector="lora")
    layers = {name for name in lora_modules(model) if in_projector(kit, name)}
    assert len(layers) == PROJECTOR[kit.family][1]
    assert len(lora_modules(model)) == 2 * len(LINEAR) + len(layers)
    assert all("lora_" in name for name in trained(model))


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "lora"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("deepspeed", [None, "configs/deepspeed/zero2.json"])
def test_dtypes(kits, stage, bf16, deepspeed):
    """Trained weights are float32, the others as bf16 says; DeepSpeed keeps its own copies, weights stay as loaded."""
    kit = kits["llava"]
    model = copy.deepcopy(kit.fork).bfloat16() if bf16 else copy.deepcopy(kit.fork)
    loaded = model.dtype
    model = trainable_model(model, settings(stage=stage, bf16=bf16, deepspeed=deepspeed, projector="frozen"))
    dtypes = {weight.requires_grad: weight.dtype for weight in model.parameters()}
    assert len(dtypes) == 2
    for weight in model.parameters():
        expected = loaded if deepspeed else torch.float32 if weight.requires_grad or not bf16 else torch.bfloat16
        assert weight.dtype == expected


def test_ready_to_train(kits):
    model = staged(kits["llava"], stage="finetune")
    assert model.training


def groups_of(kit, model, **values) -> list[dict]:
    """AdamW's groups, with the names of their weights. Matrices of the language model decay here."""
    decayed = {name for name, weight in model.named_parameters() if weight.ndim > 1 and "language_model" in name}
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = parameter_groups(model, settings(weight_decay=0.1, **values), decayed)
    for group in groups:
        group["names"] = [names[id(weight)] for weight in group["params"]]
    assert sorted(name for group in groups for name in group["names"]) == sorted(trained(model))
    for group in groups:
        assert {name in decayed for name in group["names"]} == {group["weight_decay"] == 0.1}
    return groups


@pytest.mark.parametrize(
    "values",
    [
        {"stage": "lora", "projector": "full"},
        {"stage": "finetune"},
        {"stage": "finetune", "freeze_vision_tower": False},
    ],
    ids=["lora", "finetune", "finetune with tower"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_learning_rates(kits, family, values):
    """The projector's own, of all that belongs to it, and nothing else's."""
    kit = kits[family]
    model = staged(kit, **values)
    groups = groups_of(kit, model, learning_rate=1e-3, projector_learning_rate=1e-5, **values)
    slow = {name for group in groups if group["lr"] == 1e-5 for name in group["names"]}
    fast = {name for group in groups if group["lr"] == 1e-3 for name in group["names"]}
    newline = values["stage"] == "finetune" and family.startswith("llava_next")
    assert len(slow) == PROJECTOR[family][0] + newline
    assert all(in_projector(kit, name) or name.endswith("image_newline") for name in slow)
    assert not any(in_projector(kit, name) for name in fast)
    assert fast | slow == set(trained(model))
    assert groups[0]["lr"] == 1e-3  # which the log shows


def test_one_learning_rate_for_all(kits):
    kit = kits["llava"]
    model = staged(kit, stage="finetune")
    assert {group["lr"] for group in groups_of(kit, model, learning_rate=1e-3)} == {1e-3}


def test_a_projector_that_does_not_learn(kits):
    """0 is a learning rate, too."""
    kit = kits["llava"]
    model = staged(kit, stage="finetune")
    groups = groups_of(kit, model, learning_rate=1e-3, projector_learning_rate=0.0)
    assert {group["lr"] for group in groups} == {1e-3, 0.0}


def test_untrained_weights_stay(kit):
    """One step of AdamW on everything that has a gradient moves what is trained, and that alone."""
    model = staged(kit, stage="lora", projector="full")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, settings(learning_rate=0.1), set()))
    inputs = kit.inputs((picture(60, 60), "What?"), padding_side="right")
    for _ in range(2):  # LoRA's A moves once B is not zero
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == set(trained(model))
