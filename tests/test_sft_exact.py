"""What is trained is what is meant: losses and gradients against upstream's classes, LoRA's places, adapters."""

import copy
import json
import re
from operator import mul

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from models import load_model
from tests.training import PHOTOS, SAMPLES, train_here
from train.collate import Collator
from train.encode import Encoder, open_image
from train.trainer import causality_alone, supervised_only

# Linear layers of one decoder layer: four of attention, three of the MLP.
LORA_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def encoded(kit) -> list[dict]:
    """Bundled samples of unequal length, encoded; one has two turns, one is text alone."""
    encoder = Encoder(kit.processor)
    samples = json.loads((SAMPLES / "instructions.json").read_text())
    chosen = [*samples[:3], next(one for one in samples if len(one["conversations"]) == 4), samples[-1]]
    roles = {"human": "user", "gpt": "assistant"}
    rows = []
    for one in chosen:
        turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in one["conversations"]]
        images = [open_image(PHOTOS / one["image"])] if "image" in one else []
        rows.append(encoder.encode(turns, images) | {"name": one["id"]})
    return rows


def collated(kit, rows: list[dict]) -> dict[str, torch.Tensor]:
    """The tensors of a padded batch of encoded samples."""
    collate = Collator(Encoder(kit.processor).blank(), kit.processor.tokenizer.pad_token_id)
    return {name: value for name, value in collate(rows).items() if isinstance(value, torch.Tensor)}


def loss_and_gradients(model, inputs) -> tuple[float, dict[str, torch.Tensor]]:
    model = copy.deepcopy(model).requires_grad_(True)
    loss = model(**inputs | {"use_cache": False}).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("flag", [False, True])
def test_gradients_are_upstreams_on_explicit_positions(kit, flag):
    """A training batch, padded and of unequal rows: upstream's class is fed the positions that the flag means."""
    batch = collated(kit, encoded(kit))
    fork = kit.with_flag(flag)
    loss, gradients = loss_and_gradients(fork, batch)
    explicit = {}
    if flag:
        explicit["position_ids"] = walked_positions(fork, batch)
    expected_loss, expected = loss_and_gradients(kit.upstream, batch | explicit)
    assert abs(loss - expected_loss) < 1e-6
    assert gradients.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() < 1e-5 * largest, name


def walked_positions(fork, batch) -> torch.LongTensor:
    """Balanced positions by a walk over the tokens; every picture of these samples stands alone in its row."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = torch.zeros_like(ids)
    for row in range(ids.shape[0]):
        position, inside = -1, False
        for place in range(int(mask[row].sum())):
            is_image = bool(ids[row, place] == fork.config.image_token_id)
            position += not (is_image and inside)
            inside = is_image
            positions[row, place] = position
    return positions.expand(3, -1, -1) if fork.config.model_type == "qwen2_5_vl" else positions


def test_a_batchs_loss_is_the_mean_over_its_tokens(kit):
    rows = encoded(kit)
    for flag in (False, True):
        model = kit.with_flag(flag)
        with torch.no_grad():
            whole = model(**collated(kit, rows)).loss.item()
            alone = [model(**collated(kit, [row])).loss.item() for row in rows]
        counts = [int((row["labels"] != -100).sum()) for row in rows]
        assert abs(whole - sum(map(mul, alone, counts)) / sum(counts)) < 1e-5


def test_logits_that_no_label_needs_are_not_missed(kit):
    """The training loss, of the supervised tokens' logits alone, has the gradients of the whole one."""
    batch = collated(kit, encoded(kit))
    loss, gradients = loss_and_gradients(kit.with_flag(True), batch)
    few = batch | supervised_only(batch["labels"])
    assert few["shift_labels"].shape[1] < 0.8 * batch["labels"].shape[1]
    lean_loss, lean = loss_and_gradients(kit.fork, few)
    assert abs(loss - lean_loss) < 1e-6
    assert lean.keys() == gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    assert all((gradient - lean[name]).abs().max() < 1e-5 * largest for name, gradient in gradients.items())


@pytest.mark.parametrize("flag", [False, True])
def test_causality_hides_padding(kit, flag):
    """Unequal rows, and a text alone, with the blank image behind its end: the padding mask changes nothing."""
    rows = encoded(kit)
    model = kit.with_flag(flag)
    for chosen in (rows, rows[-1:]):
        batch = collated(kit, chosen)
        assert not batch["attention_mask"].all()
        loss, gradients = loss_and_gradients(model, batch)
        bare_loss, bare = loss_and_gradients(model, batch | causality_alone(batch))
        assert abs(loss - bare_loss) < 1e-6
        assert bare.keys() == gradients.keys()
        largest = max(gradient.abs().max() for gradient in gradients.values())
        assert all((gradient - bare[name]).abs().max() < 1e-5 * largest for name, gradient in gradients.items())


def test_lora_hits_the_language_model_and_nothing_else(kit, tmp_path):
    """Counted in what is saved, and the base's weights are where they were."""
    run = train_here(tmp_path / "run", model_path=kit.folder, position_balance=True, max_steps=2)
    saved = load_file(run / "adapter_model.safetensors")
    layers = kit.fork.config.get_text_config().num_hidden_layers
    places = {re.sub(r"\.lora_[AB]\.weight$", "", name) for name in saved}
    assert len(places) == 7 * layers
    assert len(saved) == 2 * len(places)
    assert {place.split(".")[-1] for place in places} == LORA_LAYERS
    assert all("language_model" in place for place in places)
    adapted, _ = load_model(run, dtype="float32")
    base = dict(kit.upstream.named_parameters())
    for name, weight in adapted.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, base[name.replace(".base_layer", "")]), name


def test_one_adapter_one_model_however_it_is_loaded(kit, tmp_path):
    """By load_model, by plain PEFT on a fork and on upstream's class, merged: the same logits."""
    run = train_here(
        tmp_path / "run",
        model_path=kit.folder,
        position_balance=True,
        max_steps=2,
        projector="full",
        projector_learning_rate=0.01,
    )
    batch = collated(kit, encoded(kit))
    real = batch["attention_mask"].bool()

    def logits(model, **more):
        with torch.no_grad():
            return model(**batch, **more).logits[real]

    ours, _ = load_model(run, dtype="float32")
    expected = logits(ours)
    base, _ = load_model(kit.folder, position_balance=True, dtype="float32")
    before = logits(base)
    by_peft = logits(PeftModel.from_pretrained(base, run).eval())
    assert (expected - before).abs().max() > 1e-3
    assert torch.equal(by_peft, expected)
    positions = walked_positions(kit.fork, batch)
    upstream = PeftModel.from_pretrained(copy.deepcopy(kit.upstream), run).eval()
    assert (logits(upstream, position_ids=positions) - expected).abs().max() < 1e-4
    assert (logits(ours.merge_and_unload()) - expected).abs().max() < 1e-4
