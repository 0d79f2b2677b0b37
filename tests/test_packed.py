"""models/packed.py: a packed row gives each of its samples what it gets alone.

FlashAttention needs a GPU: of it, only the arguments are checked here, nothing is run.
"""

import copy

import pytest
import torch

from models import load_model
from models.packed import packed_inputs
from tests.encoded import CONVERSATIONS, alone, arguments, collator, encode, summed_loss
from train.encode import Encoder

BOTH = pytest.mark.parametrize("flag", [False, True], ids=["flag off", "flag on"])
NAMES = ("later turn", "one turn", "text only", "adjacent")  # LLaVA-NeXT's have 3, 3, 0 and 5 tiles


@pytest.fixture(scope="module")
def eager(tiny_folders):
    """Forks with eager attention, loaded when asked for."""
    loaded = {}

    def fork(family: str, flag: bool):
        if family not in loaded:
            loaded[family], _ = load_model(tiny_folders[family], False, attn_implementation="eager", dtype="float32")
        loaded[family].config.position_balance = flag
        return loaded[family]

    return fork


def samples_of(kit, names=NAMES) -> list[dict]:
    return [encode(Encoder(kit.processor), name) for name in names]


def logits_alone(fork, sample: dict) -> torch.Tensor:
    inputs = alone(sample)
    inputs.pop("labels")
    return fork(**inputs).logits[0]


@BOTH
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_row_is_its_samples(kit, eager, flag, attention):
    fork = kit.with_flag(flag) if attention == "sdpa" else eager(kit.family, flag)
    assert fork.config.get_text_config()._attn_implementation == attention
    samples = samples_of(kit)
    inputs, _ = arguments(fork, collator(kit, packing=True)(samples))
    with torch.no_grad():
        wanted = torch.cat([logits_alone(fork, sample) for sample in samples])
        assert torch.allclose(fork(**inputs).logits[0], wanted, atol=1e-5)


@BOTH
def test_gradients_of_a_packed_row(kit, flag):
    fork, samples = kit.with_flag(flag), samples_of(kit, ["one turn", "adjacent"])
    inputs, labels = arguments(fork, collator(kit, packing=True)(samples))
    weights = dict(fork.named_parameters())
    given = torch.autograd.grad(summed_loss(fork, inputs, labels), weights.values(), allow_unused=True)
    rows = [alone(sample) for sample in samples]
    wanted = torch.autograd.grad(
        sum(summed_loss(fork, row, row.pop("labels")) for row in rows), weights.values(), allow_unused=True
    )
    compared = 0
    for name, one, other in zip(weights, given, wanted, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert torch.allclose(one, other, atol=1e-4 * max(1, other.abs().max().item())), name
            compared += bool(other.any())
    assert compared > 30


def test_packing_is_not_without_effect(kit):
    """One row of two samples without packing's arguments gives the second one something else."""
    fork, samples = kit.with_flag(False), samples_of(kit, ["one turn", "text only"])
    row = {name: value for name, value in collator(kit, True)(samples).items() if isinstance(value, torch.Tensor)}
    row.pop("labels")
    with torch.no_grad():
        logits = fork(**row, attention_mask=torch.ones_like(row["input_ids"])).logits[0]
        wanted = torch.cat([logits_alone(fork, sample) for sample in samples])
    assert (logits - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("lengths", [[3, 4], [10], [1, 2, 3, 6]])
def test_lengths_that_are_not_the_row(kit, lengths):
    ids = torch.zeros(1, 11, dtype=torch.long)
    with pytest.raises(ValueError, match=f"one row of {sum(lengths)} tokens"):
        packed_inputs(kit.fork, {"input_ids": ids}, lengths)
    with pytest.raises(ValueError, match="one row of 11 tokens"):
        packed_inputs(kit.fork, {"input_ids": ids.expand(2, -1)}, [11])


@BOTH
def test_positions_start_anew(kit, flag):
    fork, samples = kit.with_flag(flag), samples_of(kit)
    inputs, _ = arguments(fork, collator(kit, packing=True)(samples))
    lengths = [len(sample["labels"]) for sample in samples]
    positions = inputs["position_ids"]
    if kit.family == "qwen2_5_vl":  # the first of four rows is what upstream makes the mask from
        assert positions.shape == (4, 1, sum(lengths))
        assert positions[0, 0].tolist() == [place for length in lengths for place in range(length)]
        positions = positions[1]
    for sample, part in zip(samples, positions[0].split(lengths), strict=True):
        assert part[0] == 0
        if flag:
            _, sizes = CONVERSATIONS[sample["name"]]
            images = int((sample["input_ids"] == kit.image_token_id).sum())
            assert part.max() == len(sample["labels"]) - 1 - images + len(sizes)
        elif kit.family != "qwen2_5_vl":
            assert part.tolist() == list(range(len(part)))
        else:
            assert part.max() < len(part)


@BOTH
def test_arguments_of_flash_attention(kit, flag):
    """Where samples begin and end, and no mask. Built only; nothing runs."""
    if kit.family == "qwen2_5_vl":  # takes the ordinary positions, whatever the attention
        return
    fork, samples = kit.with_flag(flag), samples_of(kit)
    lengths = [len(sample["labels"]) for sample in samples]
    usual, _ = arguments(fork, collator(kit, packing=True)(samples))
    config = fork.config
    fork.config = copy.deepcopy(config)
    try:
        fork.config.get_text_config()._attn_implementation = "flash_attention_2"
        inputs, _ = arguments(fork, collator(kit, packing=True)(samples))
    finally:
        fork.config = config
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        assert inputs[name].tolist() == ends
        assert inputs[name].dtype == torch.int32
    assert inputs["max_length_q"] == inputs["max_length_k"] == max(lengths)
    assert "attention_mask" not in inputs
    assert torch.equal(inputs["position_ids"], usual["position_ids"])
