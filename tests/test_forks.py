"""Forward passes of the forks on tiny checkpoints in float32: flag off is upstream, flag on is exact."""

import copy
import inspect

import pytest
import torch
import transformers
from transformers.exporters.utils import decompose_multimodal, is_multimodal
from transformers.modeling_flash_attention_utils import _is_packed_sequence

from tests.pictures import picture

A, B, C = picture(80, 60, 1), picture(40, 110, 2), picture(64, 64, 3)
ROWS = [
    ("a row without a picture",),
    (A, "what is it?"),
    ("two apart ", A, " and ", B, " in one row, the longest of them"),
    (B, C, "adjacent"),
    ("text first ", C),
]


def run(model, inputs, **more):
    with torch.no_grad():
        return model(**inputs, **more).logits


def attended(inputs, logits):
    """Logits of the real tokens only: those of padding mean nothing."""
    return logits[inputs["attention_mask"].bool()]


def difference(a, b) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_flag_off_is_upstream_bit_for_bit(kit, padding_side):
    inputs = kit.inputs(*ROWS, padding_side=padding_side)
    assert difference(run(kit.with_flag(False), inputs), run(kit.upstream, inputs)) == 0
    unmasked = {name: tensor for name, tensor in kit.inputs(ROWS[2]).items() if name != "attention_mask"}
    assert difference(run(kit.with_flag(False), unmasked), run(kit.upstream, unmasked)) == 0


def loss_and_gradients(model, inputs):
    model.zero_grad()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    loss = model(**inputs, labels=labels, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_flag_off_has_upstreams_loss_and_gradients(kit):
    inputs = kit.inputs(*ROWS[1:3], padding_side="right")
    loss, gradients = loss_and_gradients(kit.with_flag(False), inputs)
    upstream_loss, upstream_gradients = loss_and_gradients(kit.upstream, inputs)
    assert loss == upstream_loss
    assert gradients.keys() == upstream_gradients.keys()
    assert all(torch.equal(gradients[name], upstream_gradients[name]) for name in gradients)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_flag_on_is_upstream_with_explicit_positions(kit, padding_side):
    inputs = kit.inputs(*ROWS, padding_side=padding_side)
    positions = kit.for_upstream(kit.reference_positions(inputs, ROWS))
    expected = attended(inputs, run(kit.upstream, inputs, position_ids=positions))
    balanced = attended(inputs, run(kit.with_flag(True), inputs))
    assert difference(balanced, expected) < 1e-5
    assert difference(balanced, attended(inputs, run(kit.with_flag(False), inputs))) > 1e-2


@pytest.mark.parametrize("row", ROWS[1:], ids=["one", "apart", "adjacent", "text first"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_no_attention_mask_is_an_all_ones_mask(kit, row, use_cache):
    """Upstream reads positions that do not step by one as packed sequences if it gets no mask and no cache."""
    model = kit.with_flag(True)
    inputs = kit.inputs(row)
    masked = run(model, inputs, use_cache=use_cache)
    mask = inputs.pop("attention_mask")
    assert mask.all()
    assert difference(run(model, inputs, use_cache=use_cache), masked) < 1e-5
    # Nor when the caller brings the positions along.
    positions = kit.for_upstream(kit.reference_positions(inputs | {"attention_mask": mask}, [row]))
    assert difference(run(model, inputs, use_cache=use_cache, position_ids=positions), masked) < 1e-5


def test_packed_positions_are_not_read_as_one_sample(kit):
    """Upstream would keep such samples apart; with the flag on it must not look, so they are refused."""
    if kit.family == "qwen2_5_vl":
        return  # upstream takes packed rows only with four rows of positions, of which the first is ordinary
    inputs = kit.inputs(("one sample",))
    length = inputs["input_ids"].shape[1]
    packed = {"input_ids": inputs["input_ids"].repeat(1, 2), "position_ids": torch.arange(length).repeat(1, 2)}
    expected = run(kit.upstream, packed, use_cache=False)
    assert difference(run(kit.with_flag(False), packed, use_cache=False), expected) == 0
    with pytest.raises(ValueError, match="packed samples need"):
        run(kit.with_flag(True), packed, use_cache=False)
    apart = torch.block_diag(*[torch.ones(length, length).tril()] * 2).bool()[None, None]
    masked = packed | {"attention_mask": apart}
    if kit.family != "gemma3":  # which takes a mask for each kind of layer
        assert difference(run(kit.with_flag(True), masked, use_cache=False), expected) < 1e-5


def test_positional_arguments_are_upstreams(kit):
    inputs = kit.inputs(ROWS[1])
    for flag in (False, True):
        model = kit.with_flag(flag).model
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state
            names = list(inspect.signature(type(kit.upstream.model).forward).parameters)[1:3]
            positional = [inputs[name] for name in names]
            rest = {name: tensor for name, tensor in inputs.items() if name not in names}
            assert torch.equal(model(*positional, **rest).last_hidden_state, expected)


def test_a_strategy_given_in_the_call_is_refused(kits):
    kit = kits["llava"]
    with pytest.raises(ValueError, match="set vision_feature_select_strategy in config.json"):
        kit.with_flag(True)(**kit.inputs(ROWS[1]), vision_feature_select_strategy="full")


@pytest.mark.parametrize("image_first", [False, True])
def test_flash_attention_gets_nothing_to_take_for_packing(kit, image_first, monkeypatch):
    """FlashAttention splits a row at every repeat of its smallest position if it is shown such positions.

    The library is not needed: an attention function of our own sees the arguments that its detector would see.
    """
    seen = []

    def spy(module, query, key, value, attention_mask, **kwargs):
        seen.append((attention_mask, kwargs.get("position_ids"), query.shape[0]))
        return transformers.integrations.sdpa_attention.sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )

    transformers.AttentionInterface.register("spy", spy)
    transformers.AttentionMaskInterface.register("spy", transformers.masking_utils.flash_attention_mask)
    model = copy.deepcopy(kit.with_flag(True))
    model.model.language_model.set_attn_implementation("spy")
    inputs = kit.inputs((A, "after the picture"))
    if image_first:
        start = int((inputs["input_ids"][0] == kit.image_token_id).int().argmax())
        inputs = {
            name: tensor[:, start:] if tensor.shape[:2] == inputs["input_ids"].shape else tensor
            for name, tensor in inputs.items()
        }
    run(model, inputs)
    assert seen
    for mask, position_ids, batch in seen:
        assert mask is None
        assert not _is_packed_sequence(position_ids, batch)


def one_layer(kit):
    """A copy of the fork with one decoder layer, on its own."""
    model = copy.deepcopy(kit.fork)
    text = model.model.language_model
    text.layers = text.layers[-1:]  # the full-attention layer where there are two kinds
    text.layers[0].self_attn.layer_idx = 0
    text.config.num_hidden_layers = 1
    text.config.layer_types = getattr(text.config, "layer_types", ["full_attention"])[-1:]
    return model


def test_one_layer_does_not_see_the_order_of_image_features(kit, monkeypatch):
    """BaPA's point: with one position for all image tokens, what stands where cannot matter to the text after it."""
    model = one_layer(kit)
    inputs = kit.inputs((A, "what is it?"))
    after = int((inputs["input_ids"][0] == kit.image_token_id).nonzero().max()) + 1
    get_features = type(model.model).get_image_features

    def permuted(self, *args, **kwargs):
        output = get_features(self, *args, **kwargs)
        features = output.pooler_output
        order = torch.randperm(features[0].shape[0], generator=torch.Generator().manual_seed(0))
        output.pooler_output = (
            features[:, order] if isinstance(features, torch.Tensor) else [feature[order] for feature in features]
        )
        return output

    moved = {}
    for flag in (True, False):
        model.config.position_balance = flag
        plain = run(model, inputs, use_cache=False)[:, after:]
        with monkeypatch.context() as patch:
            patch.setattr(type(model.model), "get_image_features", permuted)
            moved[flag] = difference(run(model, inputs, use_cache=False)[:, after:], plain)
    assert moved[True] < 1e-5
    assert moved[False] > 1e-3


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_batch_is_its_rows(kit, padding_side):
    model = kit.with_flag(True)
    inputs = kit.inputs(*ROWS, padding_side=padding_side)
    logits = run(model, inputs)
    for row, together, mask in zip(ROWS, logits, inputs["attention_mask"].bool(), strict=True):
        alone = run(model, kit.inputs(row))[0]
        assert difference(together[mask], alone) < 1e-5, row


def test_eager_is_sdpa(kit):
    inputs = kit.inputs(*ROWS)
    eager = copy.deepcopy(kit.with_flag(True))
    eager.set_attn_implementation("eager")
    expected = attended(inputs, run(kit.fork, inputs))
    assert difference(attended(inputs, run(eager, inputs)), expected) < 1e-5


def test_gradient_checkpointing_changes_nothing(kit):
    inputs = kit.inputs(*ROWS[1:3], padding_side="right")
    model = copy.deepcopy(kit.with_flag(True)).train()
    loss, gradients = loss_and_gradients(model, inputs)
    model.gradient_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    checkpointed_loss, checkpointed = loss_and_gradients(model, inputs)
    assert checkpointed_loss == pytest.approx(loss, abs=1e-6)
    assert checkpointed.keys() == gradients.keys()
    assert max(difference(checkpointed[name], gradients[name]) for name in gradients) < 1e-5


def test_gradients_are_upstreams_with_explicit_positions(kit):
    rows = ROWS[1:4]
    inputs = kit.inputs(*rows, padding_side="right")
    loss, gradients = loss_and_gradients(kit.with_flag(True), inputs)
    positions = kit.for_upstream(kit.reference_positions(inputs, rows))
    expected_loss, expected = loss_and_gradients(kit.upstream, inputs | {"position_ids": positions})
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert max(difference(gradients[name], expected[name]) for name in expected) < 1e-4


def test_compiled_forward_agrees(kit):
    if kit.family.startswith("llava_next"):
        pytest.skip("the code of llava; compiling takes long")
    model = kit.with_flag(True)
    inputs = kit.inputs(*ROWS[1:4])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    assert difference(attended(inputs, run(compiled, inputs)), attended(inputs, run(model, inputs))) < 1e-5


def test_embeddings_without_places_are_refused(kit):
    model = kit.with_flag(True)
    inputs = kit.inputs(("no picture",))
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    with pytest.raises(ValueError, match="pass `input_ids`.*or pass `position_ids`"):
        model(inputs_embeds=embeddings)
    # (Upstream's Gemma3 refuses embeddings in generate by itself.)
    with pytest.raises(ValueError, match="pass generate the `input_ids`|doesn't have its forwarding implemented"):
        model.generate(inputs_embeds=embeddings, max_new_tokens=2)
    positions = kit.for_upstream(torch.arange(embeddings.shape[1])[None])
    expected = run(kit.upstream, {"inputs_embeds": embeddings}, position_ids=positions)
    assert difference(run(model, {"inputs_embeds": embeddings}, position_ids=positions), expected) < 1e-5


def test_transformers_finds_what_it_finds_in_its_own_class(kit):
    """The parts of the model by their role, for its exporters; and the arguments of both forwards."""
    for modality in ("image",) + ("video",) * (kit.family == "qwen2_5_vl"):
        theirs = kit.upstream.get_encoder(modality=modality)
        assert type(kit.fork.get_encoder(modality=modality)) is type(theirs)
        assert isinstance(theirs, torch.nn.Module)
    for mine, theirs in ((kit.fork, kit.upstream), (kit.fork.model, kit.upstream.model)):
        assert inspect.signature(mine.forward) == inspect.signature(theirs.forward)
    inputs = kit.inputs(ROWS[1])
    assert is_multimodal(kit.fork)
    for flag in (False, True):
        parts = decompose_multimodal(kit.with_flag(flag), dict(inputs))
        assert parts.keys() == decompose_multimodal(kit.upstream, dict(inputs)).keys()


class Step(torch.nn.Module):
    """One step of decoding after a short text, with a static cache, as exporters take it."""

    def __init__(self, kit, model):
        super().__init__()
        self.model = copy.deepcopy(model)
        prompt = kit.inputs(("x",))
        self.cache = transformers.StaticCache(model.config.get_text_config(), prompt["input_ids"].shape[1] + 4)
        run(self.model, prompt, use_cache=True, past_key_values=self.cache)

    def forward(self, input_ids, position_ids):
        return self.model(input_ids=input_ids, position_ids=position_ids, past_key_values=self.cache).logits


@pytest.mark.parametrize("kit", ["llava", "qwen2_5_vl", "gemma3"], indirect=True)
def test_a_decoding_step_with_a_static_cache_can_be_exported(kit):
    position = torch.tensor([[7]])
    inputs = {"input_ids": torch.tensor([[50]]), "position_ids": kit.for_upstream(position)}
    results = []
    for model in (kit.upstream, kit.with_flag(False), kit.with_flag(True)):
        exported = torch.export.export(Step(kit, model), (), inputs, strict=False)
        with torch.no_grad():
            results.append(exported.module()(**inputs))
    assert all(torch.equal(result, results[0]) for result in results)
