"""Loops that call `forward` themselves and pass no positions: a conversation goes on where its cache says, flag on."""

import copy

import pytest
import torch
from peft import CPTConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import DynamicCache, StaticCache

from models import load_model
from tests.pictures import picture
from tests.test_generation import ROWS, with_new_tokens

A, B = picture(80, 60, 1), picture(40, 110, 2)
TYPES = ("token_type_ids", "mm_token_type_ids")


def forward(model, **inputs):
    with torch.no_grad():
        return model(**inputs)


def difference(a, b) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_decoding_by_hand(kit, cache):
    """Each step has the logits of a forward over the whole text, with padding on the left, too."""
    model, inputs = kit.with_flag(True), kit.inputs(*ROWS)
    length = inputs["input_ids"].shape[1]
    past = StaticCache(model.config.get_text_config(), max_cache_len=length + 4) if cache == "static" else None
    output = forward(model, **inputs, use_cache=True, past_key_values=past)
    new = inputs["input_ids"][:, :0]
    for _ in range(3):
        token = output.logits[:, -1:].argmax(-1)
        new = torch.cat([new, token], dim=1)
        longer = with_new_tokens(inputs, new)
        mask = longer["attention_mask"]
        output = forward(model, input_ids=token, attention_mask=mask, past_key_values=output.past_key_values)
        assert difference(output.logits[:, -1], forward(model, **longer, use_cache=False).logits[:, -1]) < 1e-5


def cut(inputs: dict, start: int, end: int | None) -> dict:
    """Tokens from `start` to `end` of unpadded inputs, without pictures."""
    return {name: inputs[name][:, start:end] for name in ("input_ids", *TYPES) if name in inputs}


def visual(inputs: dict) -> dict:
    return {name: inputs[name] for name in ("pixel_values", "image_sizes", "image_grid_thw") if name in inputs}


def test_a_picture_that_comes_in_later(kit):
    """Upstream, told the positions of the whole conversation, is what the parts must come to."""
    row = (A, "what is it? ", B, "and this?")
    inputs, alone, later = kit.inputs(row), kit.inputs((A, "what")), kit.inputs((B, "and"))
    is_image = inputs["input_ids"][0] == kit.image_token_id
    start = int(is_image.nonzero()[kit.image_lengths(*row)[0] - 1]) + 4  # within the text between the pictures
    assert not is_image[start - 1 : start + 1].any()
    positions = kit.for_upstream(kit.reference_positions(inputs, [row]))
    expected = forward(kit.upstream, **inputs, position_ids=positions).logits[:, start:]
    model = kit.with_flag(True)
    first = forward(model, **cut(inputs, 0, start), **visual(alone), use_cache=True)
    parts = cut(inputs, start, None) | visual(later)
    if kit.family == "gemma3":  # upstream lays the mask of a picture over a filled cache wrongly by itself
        mask = torch.ones_like(inputs["input_ids"])
        second = forward(model, **parts, attention_mask=mask, past_key_values=first.past_key_values)
    else:
        second = forward(model, **parts, past_key_values=first.past_key_values)
    assert difference(second.logits, expected) < 1e-5


def test_two_conversations_at_a_time(kit):
    """What one has prefilled in between means nothing to the other."""
    model, token = kit.with_flag(True), torch.tensor([[50]])
    mine, other = kit.inputs(ROWS[1]), kit.inputs(ROWS[2])
    expected = forward(model, **with_new_tokens(mine, token), use_cache=False).logits[:, -1]
    cache = forward(model, **mine, use_cache=True).past_key_values
    copied = copy.deepcopy(cache)
    forward(model, **other, use_cache=True)
    for past in (cache, copied):
        assert difference(forward(model, input_ids=token, past_key_values=past).logits[:, -1], expected) < 1e-5


def test_a_cache_of_unknown_positions_is_refused(kit):
    model, inputs, token = kit.with_flag(True), kit.inputs(ROWS[1]), torch.tensor([[50]])
    explicit = kit.for_upstream(kit.reference_positions(inputs, [ROWS[1]]))
    brought = forward(model, **inputs, position_ids=explicit, use_cache=True).past_key_values
    foreign = DynamicCache(config=model.config.get_text_config())
    forward(kit.upstream, **inputs, past_key_values=foreign)
    twice = forward(model, **inputs, use_cache=True).past_key_values
    twice.batch_repeat_interleave(2)
    caches = [(brought, token), (foreign, token), (twice, token.repeat(2, 1))]
    if kit.family != "gemma3":  # whose sliding window has forgotten what cropping needs
        cropped = forward(model, **inputs, use_cache=True).past_key_values
        cropped.crop(-2)
        caches.append((cropped, token))
    for past, tokens in caches:
        with pytest.raises(ValueError, match="or go on from a cache"):
            forward(model, input_ids=tokens, past_key_values=past)


LEARNT = {
    "prompt tuning": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "P-tuning": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    "CPT": lambda: CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[11, 12, 13], cpt_mask=[1] * 3, cpt_tokens_type_mask=[1, 2, 3]
    ),
}


@pytest.mark.parametrize("method", LEARNT)
def test_prompt_learning_of_peft(kit, method):
    """Its virtual tokens are text in front of the prompt; the images are found in the embeddings, as upstream does."""
    base, _ = load_model(kit.folder, position_balance=True, dtype="float32")
    model = get_peft_model(base, LEARNT[method]()).eval()
    inputs = kit.inputs(ROWS[1])
    output = forward(model, **inputs)
    embeddings = kit.upstream.get_input_embeddings()(inputs["input_ids"])
    prompt = model.get_prompt(batch_size=1)
    learnt = torch.arange(3)[None]
    positions = torch.cat([learnt, kit.reference_positions(inputs, [ROWS[1]]) + 3], dim=1)
    arguments = visual(inputs) | {"position_ids": kit.for_upstream(positions)}
    arguments["attention_mask"] = torch.ones_like(positions)  # without it upstream takes such positions for packing
    expected = forward(kit.upstream, inputs_embeds=torch.cat([prompt, embeddings], dim=1), **arguments).logits
    assert difference(output.logits, expected) < 1e-5
    new = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)[
        :, inputs["input_ids"].shape[1] :
    ]
    longer = with_new_tokens(inputs, new)
    following = forward(model, **longer).logits[:, -4:-1]
    following[..., base.generation_config.suppress_tokens] = -torch.inf
    following[..., base.generation_config.eos_token_id] = -torch.inf
    assert torch.equal(following.argmax(-1), new)
    # Embeddings of text alone could hold images that somebody has put in already.
    with pytest.raises(ValueError, match="prompt learning with images only"):
        forward(model, **kit.inputs(ROWS[0]))


def test_prefix_tuning_of_peft(kit):
    """Every call is refused, not all but the first: the cache that it fills has no positions that forward knows."""
    base, _ = load_model(kit.folder, position_balance=True, dtype="float32")
    model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    inputs = kit.inputs(ROWS[1])
    for given in (inputs, {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}):
        for _ in range(2):
            with pytest.raises(ValueError, match="prefix tuning works in generate only"):
                forward(model, **given)
