"""train/collate.py: what a batch gives is what its samples give one by one."""

import pytest
import torch

from models.tiny import FAMILIES
from tests.encoded import alone, arguments, collator, conversation, encode, summed_loss
from train.encode import IGNORED, Encoder

BOTH = pytest.mark.parametrize("flag", [False, True], ids=["flag off", "flag on"])
PACKING = pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
# Different in length, number of images, tiles and turns.
UNEQUAL = ("apart", "one turn", "text only", "several turns")
BAD = {"name": "a.json, sample 3", "bad": "cut off"}


def samples_of(kit, names=UNEQUAL) -> list[dict]:
    encoder = Encoder(kit.processor)
    return [encode(encoder, name) for name in names]


def without(sample: dict) -> dict:
    row = alone(sample)
    row.pop("labels")
    return row


@pytest.fixture
def opinionated(kit):
    """A kit whose logits are far apart: a tiny checkpoint's are nearly alike, and so is every mean of its losses."""
    hook = kit.fork.lm_head.register_forward_hook(lambda head, inputs, logits: 20 * logits)
    yield kit
    hook.remove()


@BOTH
@PACKING
def test_the_loss_is_weighted_by_token(opinionated, flag, packing):
    """transformers' own loss of a batch is the mean over all supervised tokens of its rows, each by itself."""
    kit = opinionated
    fork, samples = kit.with_flag(flag), samples_of(kit)
    inputs, labels = arguments(fork, collator(kit, packing)(samples))
    with torch.no_grad():
        sums = [summed_loss(fork, without(sample), sample["labels"][None]).item() for sample in samples]
        counts = [int((sample["labels"][1:] != IGNORED).sum()) for sample in samples]
        mean = fork(**inputs, labels=labels).loss.item()
        of_two_batches = fork(**inputs, labels=labels, num_items_in_batch=torch.tensor(2 * sum(counts))).loss.item()
    assert mean == pytest.approx(sum(sums) / sum(counts), abs=1e-5)
    assert of_two_batches == pytest.approx(mean / 2, abs=1e-5)
    assert abs(mean - sum(a / b for a, b in zip(sums, counts, strict=True)) / len(sums)) > 1e-3


@BOTH
@PACKING
def test_a_batch_without_images(kit, flag, packing):
    """The blank changes neither logits, loss nor gradients, but tower and projector have (zero) gradients."""
    fork, encoder = kit.with_flag(flag), Encoder(kit.processor)
    samples = [encode(encoder, "text only")]
    samples.append(encoder.encode(conversation("Say yes or no", "Yes."), []) | {"name": "short"})
    inputs, labels = arguments(fork, collator(kit, packing)(samples))
    wanted = {name: torch.zeros_like(weight) for name, weight in fork.named_parameters()}
    wanted_loss = torch.zeros(())
    for sample in samples:
        loss = summed_loss(fork, without(sample), sample["labels"][None])
        names, weights = zip(*fork.named_parameters(), strict=True)
        for name, grad in zip(names, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            wanted[name] += 0 if grad is None else grad
        wanted_loss = wanted_loss + loss.detach()
    loss = summed_loss(fork, inputs, labels)
    fork.zero_grad(set_to_none=True)
    loss.backward()
    given = {name: weight.grad for name, weight in fork.named_parameters()}
    fork.zero_grad(set_to_none=True)
    assert loss.item() == pytest.approx(wanted_loss.item(), abs=1e-4)
    for name, grad in given.items():
        assert torch.allclose(wanted[name], torch.zeros(()) if grad is None else grad, atol=1e-4), name
    projector = [name for name in given if f".{fork.projector_name}." in f".{name}."]
    tower = [
        name for name in given if f".{fork.tower_name}." in f".{name}." and "layers.0" in name or "blocks.0" in name
    ]
    assert projector
    assert tower
    for name in [*projector, *tower]:
        assert given[name] is not None, name
        assert not given[name].any(), name


@PACKING
def test_logits_of_a_batch_without_images(kit, packing):
    fork, samples = kit.with_flag(True), samples_of(kit, ["text only"])
    inputs, _ = arguments(fork, collator(kit, packing)(samples))
    with torch.no_grad():
        wanted = fork(**without(samples[0])).logits[0]
        assert torch.allclose(fork(**inputs).logits[0, : len(wanted)], wanted, atol=1e-5)


def test_padding(kit):
    """On the right, ignored by mask and labels; text-only rows have token types of text."""
    samples = samples_of(kit, ["text only", "one turn"])
    batch = collator(kit)(samples)
    width = max(len(sample["labels"]) for sample in samples)
    for row, sample in enumerate(samples):
        length = len(sample["labels"])
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (width - length)
        assert torch.equal(batch["input_ids"][row, :length], sample["input_ids"])
        assert (batch["input_ids"][row, length:] == kit.processor.tokenizer.pad_token_id).all()
        assert torch.equal(batch["labels"][row, :length], sample["labels"])
        assert (batch["labels"][row, length:] == IGNORED).all()
    assert batch["names"] == ["text only", "one turn"]
    assert batch["bad"] == []


def test_the_blank_is_masked(kit):
    samples = samples_of(kit, ["text only"])
    batch = collator(kit)(samples)
    tokens, blank = len(samples[0]["labels"]), len(Encoder(kit.processor).blank()["labels"])
    assert batch["attention_mask"][0].tolist() == [1] * tokens + [0] * blank
    assert (batch["labels"][0, tokens:] == IGNORED).all()


def test_packed_rows_have_no_padding(kit):
    samples = samples_of(kit)
    batch = collator(kit, packing=True)(samples)
    assert "attention_mask" not in batch
    assert batch["lengths"] == [len(sample["labels"]) for sample in samples]
    assert torch.equal(batch["input_ids"][0], torch.cat([sample["input_ids"] for sample in samples]))
    assert torch.equal(batch["labels"][0], torch.cat([sample["labels"] for sample in samples]))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("llava_next")])
def test_images_of_different_numbers_of_tiles(kits, family):
    kit = kits[family]
    samples = samples_of(kit, ["several turns", "adjacent"])
    tiles = [sample["pixel_values"].shape[1] for sample in samples]
    assert tiles == [3, 5]
    batch = collator(kit)(samples)
    assert batch["pixel_values"].shape[:2] == (3, 5)
    assert batch["image_sizes"].tolist() == [[200, 40], [110, 120], [60, 60]]
    assert torch.equal(batch["pixel_values"][0, :3], samples[0]["pixel_values"][0])
    assert not batch["pixel_values"][0, 3:].any()


@PACKING
def test_bad_samples_are_listed_and_left_out(kit, packing):
    collate, good = collator(kit, packing), samples_of(kit)
    batch, wanted = collate([BAD, *good[:2], BAD, *good[2:]]), collate(good)
    assert batch.pop("bad") == [(BAD["name"], BAD["bad"])] * 2
    assert wanted.pop("bad") == []
    assert batch.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value


@BOTH
@PACKING
def test_nothing_but_bad_samples(kit, flag, packing):
    """A batch that trains nothing, and that the model takes."""
    fork = kit.with_flag(flag)
    batch = collator(kit, packing)([BAD, BAD])
    assert batch["names"] == []
    assert len(batch["bad"]) == 2
    inputs, labels = arguments(fork, batch)
    assert (labels == IGNORED).all()
    with torch.no_grad():
        assert fork(**inputs, labels=labels, num_items_in_batch=torch.tensor(1)).loss.item() == 0


def test_samples_are_left_as_they_are(kit):
    samples = samples_of(kit, ["text only", "not ASCII"])
    before = [{name: value.clone() for name, value in sample.items() if name != "name"} for sample in samples]
    collator(kit)(samples[:1])
    collator(kit)(samples)
    for sample, copied in zip(samples, before, strict=True):
        assert sample.keys() - {"name"} == copied.keys()
        assert all(torch.equal(sample[name], value) for name, value in copied.items())
