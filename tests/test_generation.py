"""Every way to generate agrees with forward passes over the whole text, flag on, tiny checkpoints in float32."""

import contextlib

import pytest
import torch
from transformers import StaticCache

from models import load_model
from tests.pictures import picture

A, B, C = picture(80, 60, 1), picture(40, 110, 2), picture(64, 64, 3)
ROWS = [
    ("a row without a picture",),
    (A, "what is it?"),
    ("two apart ", A, " and ", B, " in one row, the longest of them"),
    (B, C, "adjacent"),
]
NEW = 8


def with_new_tokens(inputs: dict, new: torch.LongTensor) -> dict:
    """The inputs with `new` (batch, tokens) behind each row."""
    ones = torch.ones_like(new)
    longer = dict(inputs)
    longer["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
    longer["attention_mask"] = torch.cat([inputs["attention_mask"], ones], dim=1)
    for types in ("token_type_ids", "mm_token_type_ids"):
        if types in inputs:
            longer[types] = torch.cat([inputs[types], 0 * ones], dim=1)
    return longer


def forced_logits(model, inputs: dict, new: torch.LongTensor) -> torch.Tensor:
    """Logits that predict each of the new tokens from one uncached forward: (batch, new, vocabulary)."""
    with torch.no_grad():
        logits = model(**with_new_tokens(inputs, new), use_cache=False).logits
    return logits[:, -new.shape[1] - 1 : -1]


def greedy_by_hand(model, inputs: dict) -> torch.LongTensor:
    """Greedy tokens from a forward over the whole text for every token: (batch, NEW)."""
    new = inputs["input_ids"][:, :0]
    for _ in range(NEW):
        with torch.no_grad():
            logits = model(**with_new_tokens(inputs, new), use_cache=False).logits[:, -1]
        logits[:, model.generation_config.suppress_tokens] = -torch.inf
        logits[:, model.generation_config.eos_token_id] = -torch.inf
        new = torch.cat([new, logits.argmax(-1, keepdim=True)], dim=1)
    return new


def generate(model, inputs: dict, **arguments):
    # Without an end of text all rows are of one length; the raw logits are compared, so nothing is hidden by it.
    arguments = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW} | arguments
    return model.generate(**inputs, **arguments, return_dict_in_generate=True, output_logits=True)


def new_tokens(inputs: dict, output) -> torch.LongTensor:
    return output.sequences[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("flag", [True, False])
def test_greedy_with_cache_is_a_forward_over_the_whole_text(kit, flag):
    model = kit.with_flag(flag)
    inputs = kit.inputs(*ROWS)
    output = generate(model, inputs)
    tokens = new_tokens(inputs, output)
    assert torch.equal(tokens, greedy_by_hand(model, inputs))
    cached = torch.stack(output.logits, dim=1)
    assert (cached - forced_logits(model, inputs, tokens)).abs().max() < 1e-5


def test_flag_off_generates_as_upstream(kit):
    inputs = kit.inputs(*ROWS)
    for arguments in ({}, {"num_beams": 3}, {"cache_implementation": "static"}):
        mine = generate(kit.with_flag(False), inputs, **arguments)
        upstream = generate(kit.upstream, inputs, **arguments)
        assert torch.equal(mine.sequences, upstream.sequences)
        assert all(torch.equal(a, b) for a, b in zip(mine.logits, upstream.logits, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        {"cache_implementation": "static"},
        {"cache_implementation": "offloaded"},
        {"cache_implementation": "offloaded_static"},
        {"use_cache": False},
        {"do_sample": True, "top_k": 0, "temperature": 1.5},
        {"do_sample": True, "top_k": 0, "temperature": 1.5, "num_return_sequences": 3},
    ],
    ids=lambda arguments: " ".join(map(str, arguments.values())),
)
def test_caches_and_sampling(kit, arguments, monkeypatch):
    if not torch.cuda.is_available():
        # The offloaded caches wait for a copy stream, which a CPU does not have; all else of them runs.
        idle = type("Stream", (contextlib.nullcontext,), {"wait_stream": lambda self, other: None})
        monkeypatch.setattr(torch, "Stream", idle)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda device: idle())
    model = kit.with_flag(True)
    inputs = kit.inputs(*ROWS)
    torch.manual_seed(0)
    output = generate(model, inputs, **arguments)
    tokens = new_tokens(inputs, output)
    copies = arguments.get("num_return_sequences", 1)
    logits = torch.stack(output.logits, dim=1)
    for k in range(copies):
        expected = forced_logits(model, inputs, tokens[k::copies])
        assert (logits[k::copies] - expected).abs().max() < 1e-5


def test_sampling_repeats_with_its_seed(kit):
    model, inputs = kit.with_flag(True), kit.inputs(*ROWS)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(generate(model, inputs, do_sample=True, top_k=0).sequences)
    assert torch.equal(*runs)


def test_beams(kit):
    """The score of each beam is the sum of its tokens' log-probabilities in one uncached forward."""
    model, inputs, beams = kit.with_flag(True), kit.inputs(*ROWS), 3
    arguments = {"output_scores": True, "length_penalty": 0.0}
    output = generate(model, inputs, num_beams=beams, num_return_sequences=beams, **arguments)
    tokens = new_tokens(inputs, output)
    for k in range(beams):
        chosen = tokens[k::beams]
        log_probabilities = forced_logits(model, inputs, chosen).log_softmax(-1)
        expected = log_probabilities.gather(-1, chosen[..., None]).sum((1, 2))
        assert (output.sequences_scores[k::beams] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("row", ROWS[1:], ids=["one", "apart", "adjacent"])
def test_prompt_lookup_decoding(kit, row):
    model = kit.with_flag(True)
    inputs = kit.inputs(row)
    output = model.generate(
        **inputs, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, prompt_lookup_num_tokens=3
    )
    assert torch.equal(output[:, inputs["input_ids"].shape[1] :], greedy_by_hand(model, inputs))


def continued(kit, row: tuple, second: tuple, **arguments):
    """A conversation that starts with `row` and goes on with `second`, from the cache and all anew."""
    model = kit.with_flag(True)
    first = kit.inputs(row)
    output = generate(model, first, **arguments)
    generate(model, kit.inputs(ROWS[1]))  # what another call leaves behind must not matter
    addition = kit.inputs(second)
    whole = dict(addition)
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in first:
            said = with_new_tokens(first, new_tokens(first, output))[name]
            whole[name] = torch.cat([said, addition[name]], dim=1)
    fresh = dict(whole)
    for name in ("pixel_values", "image_sizes", "image_grid_thw"):
        parts = [inputs[name] for inputs in (first, addition) if name in inputs]
        if parts:
            fresh[name] = torch.cat(parts)
    if "image_sizes" in fresh:
        whole["image_sizes"] = fresh["image_sizes"]  # of all pictures; pixel_values are of new ones only
    return whole, fresh, output.past_key_values


@pytest.mark.parametrize("row", ROWS[2:], ids=["apart", "adjacent"])
@pytest.mark.parametrize("second", [("and now?",), (C, "and this?")], ids=["text", "picture"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_conversation_goes_on_from_its_cache(kit, row, second, cache):
    past = {}
    if cache == "static":
        past["past_key_values"] = StaticCache(kit.fork.config.get_text_config(), max_cache_len=1024)
    whole, fresh, past_key_values = continued(kit, row, second, **past)
    mine = generate(kit.fork, whole, past_key_values=past_key_values)
    expected = generate(kit.fork, fresh)
    assert torch.equal(new_tokens(whole, mine), new_tokens(fresh, expected))
    for ours, theirs in zip(mine.logits, expected.logits, strict=True):
        assert (ours - theirs).abs().max() < 1e-5


def test_sizes_of_earlier_pictures_are_asked_for(kits):
    """Only they tell how many pictures a run of image tokens in the cache is."""
    kit = kits["llava_next_mistral"]
    whole, _, past_key_values = continued(kit, ROWS[3], ("and now?",))
    whole.pop("image_sizes")
    with pytest.raises(ValueError, match="pass generate the image_sizes of all its pictures"):
        generate(kit.fork, whole, past_key_values=past_key_values)


def test_calls_of_different_batch_size_are_two_fresh_models(kit):
    used, processor = load_model(kit.folder, position_balance=True, dtype="float32")
    for rows in (ROWS, [ROWS[3]], [ROWS[0]], ROWS[1:3], [("text only, twice",), ("and longer",)]):
        inputs = kit.inputs(*rows)
        fresh, _ = load_model(kit.folder, position_balance=True, dtype="float32")
        mine, theirs = generate(used, inputs), generate(fresh, inputs)
        assert torch.equal(mine.sequences, theirs.sequences)
        assert all(torch.equal(a, b) for a, b in zip(mine.logits, theirs.logits, strict=True))
        with torch.no_grad():
            assert torch.equal(used(**inputs).logits, fresh(**inputs).logits)
