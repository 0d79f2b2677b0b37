"""Videos on Qwen2.5-VL: one position for each temporal patch, so that time order stays.

The frames are tensors: video decoding needs torchvision, which is not installed everywhere.
"""

import pytest
import torch

from tests.pictures import picture

T, H, W = 3, 4, 6  # temporal patches, patches of 14 px; 2 x 2 of them merge into one token
TOKENS = H * W // 4


@pytest.fixture
def qwen(kits):
    kits["qwen2_5_vl"].with_flag(True)
    return kits["qwen2_5_vl"]


def with_video(kit, *, picture_too: bool) -> tuple[dict, list[int]]:
    """Inputs `text video text [picture] text` and the positions that they should get, worked out by hand."""
    tokenizer, config = kit.processor.tokenizer, kit.fork.config
    ids, positions = [], []

    def say(tokens, place=None):
        for token in tokens:
            step = place is None or not ids or ids[-1] != place
            positions.append(positions[-1] + 1 if positions and step else (positions[-1] if positions else 0))
            ids.append(token)

    say(tokenizer.encode("watch "))
    say([config.vision_start_token_id])
    for _ in range(T):
        positions += [positions[-1] + 1] * TOKENS
        ids += [config.video_token_id] * TOKENS
    say([config.vision_end_token_id])
    say(tokenizer.encode(" then look "))
    inputs = {
        "pixel_values_videos": torch.randn(T * H * W, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0)),
        "video_grid_thw": torch.tensor([[T, H, W]]),
    }
    if picture_too:
        image = kit.processor.image_processor([picture(90, 60)], return_tensors="pt")
        say([config.vision_start_token_id])
        tokens = int(image["image_grid_thw"].prod()) // 4
        positions += [positions[-1] + 1] * tokens
        ids += [config.image_token_id] * tokens
        say([config.vision_end_token_id])
        inputs |= dict(image)
    say(tokenizer.encode(" and tell"))
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones(1, len(ids), dtype=torch.long)
    types = torch.zeros(1, len(ids), dtype=torch.int)
    types[inputs["input_ids"] == config.image_token_id] = 1
    types[inputs["input_ids"] == config.video_token_id] = 2
    inputs["mm_token_type_ids"] = types
    return inputs, positions


@pytest.mark.parametrize("picture_too", [False, True])
def test_one_position_for_each_temporal_patch(qwen, picture_too):
    inputs, positions = with_video(qwen, picture_too=picture_too)
    computed, delta = qwen.fork.model.get_rope_index(
        **{name: inputs[name] for name in ("input_ids", "video_grid_thw", "attention_mask")}
    )
    assert computed.tolist() == [[positions]] * 3
    assert delta.tolist() == [[positions[-1] + 1 - len(positions)]]
    explicit = torch.tensor([[positions]] * 3)
    with torch.no_grad():
        expected = qwen.upstream(**inputs, position_ids=explicit).logits
        assert (qwen.fork(**inputs).logits - expected).abs().max() < 1e-5


def test_time_order_still_matters(qwen):
    inputs, _ = with_video(qwen, picture_too=False)
    reversed_frames = inputs["pixel_values_videos"].view(T, H * W, -1).flip(0).reshape(T * H * W, -1)
    with torch.no_grad():
        forwards = qwen.fork(**inputs).logits[:, -1]
        backwards = qwen.fork(**inputs | {"pixel_values_videos": reversed_frames}).logits[:, -1]
    assert (forwards - backwards).abs().max() > 1e-3


def test_generation_with_a_video_and_a_picture(qwen):
    inputs, _ = with_video(qwen, picture_too=True)
    output = qwen.fork.generate(**inputs, do_sample=False, max_new_tokens=5, min_new_tokens=5)
    new = output[:, inputs["input_ids"].shape[1] :]
    longer = inputs | {
        "input_ids": output,
        "attention_mask": torch.ones_like(output),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 5)),
    }
    with torch.no_grad():
        logits = qwen.fork(**longer, use_cache=False).logits[:, -6:-1]
    banned = [*qwen.fork.generation_config.suppress_tokens, qwen.fork.generation_config.eos_token_id]
    logits[..., banned] = -torch.inf
    assert torch.equal(logits.argmax(-1), new)


def test_a_video_before_the_cache_is_refused(qwen):
    inputs, _ = with_video(qwen, picture_too=False)
    output = qwen.fork.generate(
        **inputs, do_sample=False, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True
    )
    with pytest.raises(ValueError, match="cannot go on from a cache"):
        qwen.fork.generate(output.sequences, past_key_values=output.past_key_values, max_new_tokens=2)
